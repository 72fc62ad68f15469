"""Deliveries as they are read: the state is derived from the queue and the attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

import outbox
from outbox import Event, InvalidInput, NotFound, deliveries, subscriptions
from outbox.delivery_filter import STATES
from tests.factories import BY, subscribe, value

if TYPE_CHECKING:
    from outbox.deliveries import Delivery

QUEUE = """
INSERT INTO outbox.delivery_queue (
    delivery_id, subscription_id, event_id, due_at, attempt, failures, lease_until, lease_owner)
SELECT id, subscription_id, event_id, now(), :attempt, 0,
    now() + make_interval(secs => :lease), CASE WHEN :leased THEN 1 END
FROM outbox.delivery WHERE id = :id
"""


def make(
    db: Connection,
    *outcomes: str,
    attempt: int | None = None,
    lease: float | None = None,
    subscription: UUID | None = None,
) -> UUID:
    """A delivery with an attempt for each outcome; in the queue if `attempt` is given."""
    values = {
        "event": outbox.emit(db, Event(type="a.b")),
        "subscription": subscription or subscribe(db).id,
    }
    query = """
        INSERT INTO outbox.delivery (event_id, subscription_id) VALUES (:event, :subscription)
        RETURNING id
    """
    id: UUID = value(db, query, **values)
    for number, outcome in enumerate(outcomes, start=1):
        add_attempt(db, id, number, outcome)
    if attempt is not None:
        queue = {"id": id, "attempt": attempt, "lease": lease, "leased": lease is not None}
        db.execute(text(QUEUE), queue)
    return id


def add_attempt(db: Connection, id: UUID, number: int, outcome: str) -> None:
    status = {"delivered": 204, "retry": 503, "dead": 410, "late": 200}.get(outcome)
    values = {"id": id, "number": number, "outcome": outcome, "status": status}
    query = """
        INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status, error, recorded_at)
        VALUES (:id, :number, :outcome, :status, :outcome, clock_timestamp())
    """
    db.execute(text(query), values)


def told(found: Delivery) -> tuple[Any, ...]:
    return (found.state, found.attempts, found.status, found.error)


def test_states(db: Connection) -> None:
    """In the queue it is pending; else the attempt that ended it tells."""
    found = {
        "new": make(db, attempt=0),
        "retried": make(db, "retry", "retry", attempt=2),
        "delivered": make(db, "retry", "delivered"),
        "dead": make(db, "dead"),
        "cancelled": make(db, "retry", "cancelled"),
    }

    assert {name: told(deliveries.show_delivery(db, id)) for name, id in found.items()} == {
        "new": ("pending", 0, None, None),
        "retried": ("pending", 2, 503, "retry"),
        "delivered": ("delivered", 2, 204, "delivered"),
        "dead": ("dead", 1, 410, "dead"),
        "cancelled": ("cancelled", 2, None, "cancelled"),
    }


def test_late_attempts_decide_nothing(db: Connection) -> None:
    """What came too late stands among the attempts, and not in the delivery."""
    id = make(db, "lost", "delivered")
    add_attempt(db, id, 1, "late")

    assert told(deliveries.show_delivery(db, id)) == ("delivered", 2, 204, "delivered")
    assert [a.outcome for a in deliveries.list_attempts(db, id)] == ["lost", "late", "delivered"]


def test_in_flight(db: Connection) -> None:
    """A delivery is in flight while its lease lasts; the attempt under way counts."""
    leased = deliveries.show_delivery(db, make(db, attempt=1, lease=60))
    expired = deliveries.show_delivery(db, make(db, attempt=1, lease=-1))

    assert (leased.in_flight, leased.attempts) == (True, 1)
    assert (expired.in_flight, expired.attempts) == (False, 1)


def test_held(db: Connection) -> None:
    """A pending delivery of a stopped subscription is held, for the reason of the stop."""
    id = subscribe(db).id
    pending, ended = make(db, attempt=0, subscription=id), make(db, "dead", subscription=id)

    assert deliveries.show_delivery(db, pending).held is None
    subscriptions.pause(db, id, by=BY, reason="maintenance")
    assert deliveries.show_delivery(db, pending).held == "paused: maintenance"
    assert deliveries.show_delivery(db, ended).held is None


def test_list(db: Connection) -> None:
    """Deliveries are listed newest first, by event, subscription and state, in pages."""
    one = subscribe(db).id
    ids = [
        make(db, attempt=0, subscription=one),
        make(db, "delivered"),
        make(db, "dead", subscription=one),
        make(db, "cancelled"),
    ]
    event_id = deliveries.show_delivery(db, ids[1]).event_id

    def listed(**options: Any) -> list[UUID]:
        return [found.id for found in deliveries.list_deliveries(db, **options)]

    assert listed() == ids[::-1]
    assert listed(event_id=event_id) == [ids[1]]
    assert listed(subscription_id=one) == [ids[2], ids[0]]
    assert [listed(state=state) for state in STATES] == [[ids[0]], [ids[1]], [ids[2]], [ids[3]]]
    assert listed(limit=2) == [ids[3], ids[2]]
    assert listed(before=ids[2]) == [ids[1], ids[0]]


def test_unknown(db: Connection) -> None:
    """An unknown id is NotFound, an unknown state a mistake."""
    with pytest.raises(NotFound):
        deliveries.show_delivery(db, UUID(int=0))
    with pytest.raises(InvalidInput):
        deliveries.list_deliveries(db, state="failed")


def test_count_open(db: Connection) -> None:
    """Open are the deliveries in the queue, held ones as well."""
    id = subscribe(db).id
    make(db, attempt=0, subscription=id)
    make(db, attempt=1, lease=60, subscription=id)
    make(db, "dead", subscription=id)

    assert deliveries.count_open(db, id) == 2
