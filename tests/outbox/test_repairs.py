"""Deliveries that are asked for again."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import func, select

from outbox import subscriptions
from outbox.repairs import deliver_again
from outbox.tables import delivery, delivery_queue
from tests.factories import BY, emit_many, event, rows, subscribe

if TYPE_CHECKING:
    from sqlalchemy import Connection

REPLAY = UUID("0190163d-8694-739b-aea5-966c26f8ad91")


def test_each_event_to_its_subscription(db: Connection) -> None:
    """Pair by pair, due now, with the replay that asked for it."""
    first, second = subscribe(db).id, subscribe(db).id
    a, b = emit_many(db, [event(), event()])

    assert deliver_again(db, [(a, first), (b, first), (b, second)], REPLAY) == 3

    made = db.execute(select(delivery.c.event_id, delivery.c.subscription_id, delivery.c.replay_id))
    assert {(e, s) for e, s, _ in made.all()} == {(a, first), (b, first), (b, second)}
    assert rows(db, "SELECT DISTINCT due_at = now(), subject FROM outbox.delivery_queue") == [
        (True, None)
    ]
    assert rows(db, "SELECT DISTINCT replay_id::text FROM outbox.delivery") == [(str(REPLAY),)]


def test_an_ordered_subscription_keeps_its_order(db: Connection) -> None:
    """Of each subject only the oldest event may go; the others wait for it."""
    to = subscribe(db, ordered="stop").id
    events = emit_many(db, [event(subject=subject) for subject in ("x", "x", "y")])

    assert deliver_again(db, [(id, to) for id in reversed(events)]) == 3

    due = select(delivery_queue.c.event_id).where(delivery_queue.c.due_at <= func.now())
    assert set(db.execute(due).scalars()) == {events[0], events[2]}


def test_a_removed_subscription_gets_nothing(db: Connection) -> None:
    """What nobody would ever send is not made."""
    gone = subscribe(db).id
    subscriptions.remove(db, gone, by=BY)

    assert deliver_again(db, [(id, gone) for id in emit_many(db, [event()])]) == 0
