"""Rows that a worker would write, for commands that only read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert

from outbox import Event, emit
from outbox.tables import attempt, delivery, delivery_queue, event_queue
from tests.factories import subscribe

if TYPE_CHECKING:
    from uuid import UUID

    from tests.databases import Database

URL = "https://example.com/hooks"


def add_subscription(database: Database, **values: Any) -> UUID:
    """A subscription to everything, of `ada`."""
    with database.engine.begin() as connection:
        return subscribe(connection, URL, **values).id


def add_event(database: Database, *, fanned_out: bool = True, **values: Any) -> UUID:
    """An event, which is still in its queue if it is not `fanned_out`."""
    with database.engine.begin() as connection:
        id = emit(connection, Event(**{"type": "invoice.paid", **values}))
        if fanned_out:
            connection.execute(event_queue.delete().where(event_queue.c.event_id == id))
    return id


def add_delivery(database: Database, event: UUID, subscription: UUID, **queue: Any) -> UUID:
    """A delivery; it is open if it has a place in the `queue`."""
    ids = {"event_id": event, "subscription_id": subscription}
    with database.engine.begin() as connection:
        query = insert(delivery).values(ids).returning(delivery.c.id)
        id: UUID = connection.execute(query).scalar_one()
        if queue:
            connection.execute(insert(delivery_queue).values(delivery_id=id, **ids, **queue))
    return id


def add_attempt(database: Database, delivery: UUID, number: int, outcome: str, **row: Any) -> None:
    """An attempt of a delivery."""
    with database.engine.begin() as connection:
        row |= {"delivery_id": delivery, "attempt": number, "outcome": outcome}
        connection.execute(insert(attempt).values(row))
