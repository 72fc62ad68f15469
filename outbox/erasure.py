"""Erasing what events say about a subject: the events stay, without it.

    with engine.begin() as connection:
        erasure.erase(connection, "user/42", tenant="acme", by=Author("ada", "gdpr"))

Data becomes null, what receivers answered goes, open deliveries are cancelled. That the
events happened, and what became of them, stays; so does the fact that they were erased.
What has left for a receiver has left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import BigInteger, Text, Uuid, column, func, insert, literal, select

from .encoding import check_text
from .tables import erasure, event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from .subscriptions import Author

FIRST, BEYOND = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Erased:
    """How many events were erased, and how many open deliveries of them were cancelled."""

    events: int
    cancelled: int


def count(connection: Connection, subject: str, *, tenant: str | None = None) -> int:
    """Return how many events about `subject` still say something."""
    query = select(func.count()).where(
        event.c.subject == subject,
        event.c.tenant.is_not_distinct_from(literal(tenant, Text)),
        func.json_extract_path_text(event.c.context, "erased_at").is_(None),
    )
    return connection.execute(query).scalar_one()


def erase(connection: Connection, subject: str, *, by: Author, tenant: str | None = None) -> Erased:
    """Erase all events of `tenant` about `subject`, in the caller's transaction.

    Without `tenant` those that have none. Raises InvalidInput.
    """
    record(connection, subject, tenant=tenant, by=by)
    return _erase(connection, subject, tenant, FIRST, BEYOND, by)


def record(connection: Connection, subject: str, *, tenant: str | None, by: Author) -> None:
    """Write the fact that events about `subject` are erased from now on."""
    check_text("subject", subject, 1_024)
    values = {"tenant": tenant, "subject": subject, "actor": by.actor, "command": by.command}
    connection.execute(insert(erasure), values)


def erase_by_day(
    engine: Engine, subject: str, *, by: Author, tenant: str | None = None
) -> Iterator[Erased]:
    """As `erase`, with a transaction for each day that has events; yields what each did."""
    with engine.begin() as connection:
        record(connection, subject, tenant=tenant, by=by)
        oldest = connection.execute(select(event.c.id).order_by(event.c.id).limit(1)).scalar()
        newest = connection.execute(
            select(event.c.id).order_by(event.c.id.desc()).limit(1)
        ).scalar()
    if oldest is None or newest is None:
        return
    for first, beyond in _days(oldest, newest):
        with engine.begin() as connection:
            yield _erase(connection, subject, tenant, first, beyond, by)


def _erase(
    connection: Connection, subject: str, tenant: str | None, first: UUID, beyond: UUID, by: Author
) -> Erased:
    reason = f"the event was erased by {by.actor}"
    done = func.outbox.erase(
        literal(tenant, Text), literal(subject, Text), literal(first, Uuid), literal(beyond, Uuid),
        literal(reason, Text),
    ).table_valued(column("events", BigInteger), column("cancelled", BigInteger))  # fmt: skip
    return Erased(*connection.execute(select(done)).one())


def _days(oldest: UUID, newest: UUID) -> Iterator[tuple[UUID, UUID]]:
    """Yield the ids between which each day lies, from that of `oldest` to that of `newest`."""
    day = day_of(oldest)
    while day <= day_of(newest):
        yield _floor(day), _floor(day + timedelta(days=1))
        day += timedelta(days=1)


def day_of(id: UUID) -> date:
    """Return the day (UTC) on which a UUIDv7 was made (RFC 9562, 5.7).

    >>> day_of(UUID("019c13de-dc60-7000-8000-000000000000"))
    datetime.date(2026, 1, 31)
    """
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=id.int >> 80)).date()


def _floor(day: date) -> UUID:
    since = datetime.combine(day, time(), UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return UUID(int=(since // timedelta(milliseconds=1)) << 80)
