"""Days of the past: their partitions, and events in them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text

from outbox import retention
from tests.factories import rows, value

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection


def make_day(connection: Connection, age: int) -> date:
    """Partitions for the day so many days ago (UTC)."""
    day = today(connection) - timedelta(days=age)
    for fact in retention.FACTS:
        for make in (func.outbox.make_partition, func.outbox.attach_partition):
            connection.execute(select(make(fact, day)))
    return day


def today(connection: Connection) -> date:
    day: date = value(connection, "SELECT (now() AT TIME ZONE 'UTC')::date")
    return day


def add_event(connection: Connection, day: date, hour: int = 12, *, queued: bool = False) -> UUID:
    """An event of that day, fanned out unless it is `queued`."""
    insert = "INSERT INTO outbox.event (id, type, data) SELECT outbox.uuid7_floor(:at), 'a.b', '1'"
    at = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    id: UUID = value(connection, f"{insert} RETURNING id", at=at)
    if not queued:
        connection.execute(text("DELETE FROM outbox.event_queue WHERE event_id = :id"), {"id": id})
    return id


def partitions(connection: Connection) -> set[str]:
    """The days, as their partitions say, of the past."""
    found = rows(
        connection,
        "SELECT relname::text FROM pg_class WHERE relispartition AND relkind = 'r'"
        " AND relname ~ '^(event|delivery|attempt)_[0-9]+$'"
        " AND to_date(right(relname, 8), 'YYYYMMDD') < (now() AT TIME ZONE 'UTC')::date",
    )
    return {name for (name,) in found}
