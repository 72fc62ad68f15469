"""Deliveries that are asked for again, retried and cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from outbox import InvalidInput, NotFound, subscriptions
from outbox.cancels import cancel_some, plan_cancel
from outbox.delivery_filter import DeliveryFilter
from outbox.repairs import Done, deliver_again, plan_retry, retry_some
from outbox.tables import delivery, delivery_queue
from tests.factories import BY, emit_many, event, rows, subscribe, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from outbox.repairs import Plan

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


# Retry and cancel; tests/worker/test_repairs.py has them beside workers.


def dead(db: Connection, to: UUID, event_id: UUID, outcome: str = "dead") -> UUID:
    """A delivery that has ended."""
    query = """
        WITH made AS (
            INSERT INTO outbox.delivery (event_id, subscription_id) VALUES (:event, :to)
            RETURNING id
        )
        INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status)
        SELECT id, 1, :outcome, CASE :outcome WHEN 'delivered' THEN 200 END FROM made
        RETURNING delivery_id
    """
    id: UUID = value(db, query, event=event_id, to=to, outcome=outcome)
    return id


def retry(db: Connection, **wanted: Any) -> tuple[Plan, Done]:
    """Count, and then retry in one slice."""
    plan = plan_retry(db, DeliveryFilter(**wanted))
    return plan, retry_some(db, plan, Done(), by=BY)


def test_of_several_dead_ones_of_an_event_one_is_made(db: Connection) -> None:
    """Also where one is older than a slice: what is open already is not made again."""
    to = subscribe(db).id
    (a,) = emit_many(db, [event()])
    ids = [dead(db, to, a) for _ in range(3)]
    plan = plan_retry(db, DeliveryFilter(state="dead"))
    done = Done()
    while not done.finished:
        done = retry_some(db, plan, done, by=BY, limit=2)

    assert (plan.chosen, plan.again, done.seen, done.made) == (3, 1, 3, 1)
    assert retry(db, ids=(ids[0],))[1].made == 0


def test_what_was_delivered_meanwhile_is_not_made(db: Connection) -> None:
    """A newer delivery that arrived settles the older one that is dead; an older does not."""
    to = subscribe(db).id
    a, b = emit_many(db, [event(), event()])
    dead(db, to, a)
    dead(db, to, a, "delivered")
    dead(db, to, b, "delivered")
    dead(db, to, b)

    plan, done = retry(db, state="dead")
    assert (plan.again, done.made) == (1, 1)
    assert rows(db, "SELECT event_id FROM outbox.delivery_queue") == [(b,)]


def test_nobody_sends_to_a_removed_subscription(db: Connection) -> None:
    """Its dead deliveries are neither counted nor made again."""
    to = subscribe(db).id
    (a,) = emit_many(db, [event()])
    dead(db, to, a)
    subscriptions.remove(db, to, by=BY)

    plan, done = retry(db, state="dead")
    assert (plan.chosen, plan.again, done.made, done.replay_id) == (1, 0, 0, None)


def test_what_comes_later_is_not_meant(db: Connection) -> None:
    """A plan is about what was there when it was counted."""
    to = subscribe(db).id
    a, b = emit_many(db, [event(), event()])
    dead(db, to, a)
    plan = plan_retry(db, DeliveryFilter(state="dead"))
    dead(db, to, b)

    assert retry_some(db, plan, Done(), by=BY).made == 1


@pytest.mark.parametrize(
    ("plan", "wanted", "rule"),
    [
        (plan_retry, {"state": "delivered"}, "state: only pending, dead and cancelled"),
        (plan_retry, {"status": "2xx"}, "state: only pending, dead and cancelled"),
        (plan_retry, {"outcome": "delivered"}, "state: only pending, dead and cancelled"),
        (plan_cancel, {"state": "dead"}, "state: only pending deliveries"),
        (plan_cancel, {"outcome": "cancelled"}, "state: only pending deliveries"),
        (plan_cancel, {"status": "200"}, "state: only pending deliveries"),
    ],
)
def test_what_cannot_be_repaired(
    db: Connection, plan: Callable[..., Plan], wanted: dict[str, Any], rule: str
) -> None:
    """A filter that means nothing that can be repaired is a mistake."""
    with pytest.raises(InvalidInput, match=rule):
        plan(db, DeliveryFilter(**wanted))


@pytest.mark.parametrize("plan", [plan_retry, plan_cancel])
def test_an_id_that_is_none(db: Connection, plan: Callable[..., Plan]) -> None:
    """It is named, and nothing is done of the rest."""
    with pytest.raises(NotFound, match=f"delivery: there is none with the id {REPLAY}"):
        plan(db, DeliveryFilter(ids=(REPLAY,)))


def test_held_ones_are_cancelled_too(db: Connection) -> None:
    """A delivery of a stopped subscription, or one that waits in order, is pending."""
    paused, ordered = subscribe(db).id, subscribe(db, ordered="stop").id
    events = emit_many(db, [event(subject="s") for _ in range(3)])
    deliver_again(db, [(id, to) for id in events for to in (paused, ordered)])
    subscriptions.pause(db, paused, by=BY)

    plan = plan_cancel(db, DeliveryFilter(state="held"))
    done = cancel_some(db, plan, Done(), by=BY)
    assert (plan.chosen, done.cancelled) == (5, 5)
    assert rows(db, "SELECT subscription_id FROM outbox.delivery_queue") == [(ordered,)]
