"""Limits that a user sets: exact for the whole fleet, by the lock of one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from outbox import deliveries, subscriptions
from tests.factories import BY, subscribe

from .conftest import LEASE, result

if TYPE_CHECKING:
    from uuid import UUID

    from outbox.worker.claim import Claim
    from outbox.worker.rows import LimitedClaims
    from outbox.worker.store import Store

    from .conftest import Fleet


def add(fleet: Fleet, **options: Any) -> UUID:
    with fleet.database.engine.begin() as connection:
        return subscribe(connection, **options).id


def claim(store: Store, fleet: Fleet, lane: UUID, quota: int = 100) -> LimitedClaims:
    return fleet.run(store.claim_limited({str(lane): quota}, LEASE))


def record(fleet: Fleet, store: Store, *claims: Claim, outcome: str = "delivered") -> None:
    fleet.record(store, *(result(each, outcome, limited=True) for each in claims))


def subjects(found: LimitedClaims) -> list[str]:
    return sorted(str(each.subject) for each in found.claims)


def test_the_others_pay_nothing(fleet: Fleet) -> None:
    """Fan-out tells lanes with limits from those without, and each is claimed in its own way."""
    plain, limited = add(fleet), add(fleet, max_in_flight=1)
    fleet.emit(3)
    made = fleet.run(fleet.a.fan_out(10))

    assert (made.lanes, made.limited) == ([str(plain)], [str(limited)])
    assert fleet.claim(fleet.a, limited) == []
    assert claim(fleet.a, fleet, plain).claims == []
    assert len(fleet.claim(fleet.a, plain)) == 3


# --max-in-flight.


def test_max_in_flight(fleet: Fleet) -> None:
    """Two workers together never hold more than the limit; what ends makes room."""
    lane = add(fleet, max_in_flight=3)
    fleet.emit(10)
    fleet.fan_out()
    first = claim(fleet.a, fleet, lane, 2)
    second = claim(fleet.b, fleet, lane)

    assert (len(first.claims), len(second.claims)) == (2, 1)
    assert (first.full, second.full) == (set(), {str(lane)})
    assert claim(fleet.a, fleet, lane).claims == []

    record(fleet, fleet.a, first.claims[0])
    record(fleet, fleet.b, second.claims[0], outcome="retry")

    assert len(claim(fleet.b, fleet, lane).claims) == 2
    assert fleet.value("SELECT count(*) FROM outbox.limited_claim") == 3


def test_released_claims_count_no_more(fleet: Fleet) -> None:
    """What is given back makes room as well."""
    lane = add(fleet, max_in_flight=1)
    fleet.emit(2)
    fleet.fan_out()
    fleet.run(fleet.a.release(claim(fleet.a, fleet, lane).claims, cut=False))

    assert len(claim(fleet.b, fleet, lane).claims) == 1


def test_leases_that_ran_out_count_no_more(fleet: Fleet) -> None:
    """A worker that died holds its place until its lease is over; its answer may not free it."""
    lane = add(fleet, max_in_flight=1)
    fleet.emit(2)
    fleet.fan_out()
    (late,) = claim(fleet.a, fleet, lane).claims
    fleet.expire_leases()
    fleet.execute("UPDATE outbox.limited_claim SET lease_until = now() - interval '1 ms'")
    (taken,) = claim(fleet.b, fleet, lane).claims
    record(fleet, fleet.a, late, outcome="retry")

    assert (taken.delivery_id, taken.attempt, taken.took_over) == (late.delivery_id, 2, True)
    assert claim(fleet.a, fleet, lane).claims == []
    assert [attempt[:2] for attempt in fleet.attempts()] == [(1, "lost"), (1, "late")]


def test_a_lane_in_another_hand_is_busy(fleet: Fleet) -> None:
    """Who finds the limits locked does not wait for them."""
    lane = add(fleet, rate=5)
    fleet.emit(2)
    fleet.fan_out()
    with fleet.database.engine.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM outbox.throttle FOR UPDATE")
        found = claim(fleet.a, fleet, lane)

    assert (found.claims, found.busy) == ([], {str(lane)})


# --rate.


def test_rate(fleet: Fleet) -> None:
    """The bucket holds half the burst, fills by the clock, and tells when the next may go."""
    lane = add(fleet, rate=2, burst=8)
    fleet.emit(20)
    fleet.fan_out()
    fleet.execute("UPDATE outbox.throttle SET filled_at = now() - interval '1 hour'")
    first, second = claim(fleet.a, fleet, lane), claim(fleet.b, fleet, lane)

    assert (len(first.claims), len(second.claims)) == (4, 0)
    assert second.waits[str(lane)] == pytest.approx(0.5, abs=0.4)

    fleet.execute("UPDATE outbox.throttle SET filled_at = filled_at - interval '1 s'")

    assert len(claim(fleet.b, fleet, lane).claims) == 2


def test_what_is_not_sent_is_not_spent(fleet: Fleet) -> None:
    """A claim that finds less than the rate allows leaves the rest for later."""
    lane = add(fleet, rate=10, burst=20)
    fleet.emit(3)
    fleet.fan_out()
    fleet.execute("UPDATE outbox.throttle SET filled_at = now() - interval '1 hour'")

    assert len(claim(fleet.a, fleet, lane).claims) == 3
    assert 7 <= fleet.value("SELECT tokens FROM outbox.throttle") < 8


# --ordered.


def test_one_of_a_subject_at_a_time(fleet: Fleet) -> None:
    """Of each subject the oldest goes first, alone; without a subject there is no order."""
    lane = add(fleet, ordered="skip")
    fleet.emit(3, subject="a")
    fleet.emit(2, subject="b")
    fleet.emit(2)
    fleet.fan_out()
    found = claim(fleet.a, fleet, lane)

    assert subjects(found) == ["None", "None", "a", "b"]
    assert claim(fleet.b, fleet, lane).claims == []
    assert fleet.value("SELECT count(*) FROM outbox.delivery_queue WHERE due_at = 'infinity'") == 3


def test_in_the_order_of_events(fleet: Fleet) -> None:
    """What ends lets the next event go, across fan-outs and workers."""
    lane = add(fleet, ordered="skip")
    events = fleet.emit(2, subject="a")
    fleet.fan_out()
    sent = []
    for n in range(5):
        events += fleet.emit(subject="a") if n < 3 else []
        fleet.fan_out()
        store = (fleet.a, fleet.b)[n % 2]
        (one,) = claim(store, fleet, lane).claims
        sent.append(one.event_id)
        record(fleet, store, one)

    assert sent == [str(id) for id in events]


def test_a_retry_keeps_its_place(fleet: Fleet) -> None:
    """While the head waits for its next attempt, nothing of its subject overtakes it."""
    lane = add(fleet, ordered="skip")
    events = fleet.emit(2, subject="a")
    fleet.fan_out()
    record(fleet, fleet.a, *claim(fleet.a, fleet, lane).claims, outcome="retry")
    (again,) = claim(fleet.b, fleet, lane).claims

    assert (again.event_id, again.attempt) == (str(events[0]), 2)


@pytest.mark.parametrize(("ordered", "following"), [("skip", 1), ("stop", 0)])
def test_behind_a_dead_one(fleet: Fleet, ordered: str, following: int) -> None:
    """Behind a dead delivery its subject goes on or stands still, as the subscription says."""
    lane = add(fleet, ordered=ordered)
    fleet.emit(2, subject="a")
    fleet.emit(2, subject="b")
    fleet.fan_out()
    of_a = next(each for each in claim(fleet.a, fleet, lane).claims if each.subject == "a")
    record(fleet, fleet.a, of_a, outcome="dead")
    fleet.emit(subject="a")
    fleet.fan_out()

    assert len(claim(fleet.a, fleet, lane).claims) == following
    blocked = fleet.rows("SELECT subject, delivery_id::text FROM outbox.blocked_subject")
    assert blocked == [("a", of_a.delivery_id)] * (1 - following)


def test_what_is_held_says_why(fleet: Fleet) -> None:
    """A delivery behind another is held, and tells behind which dead one it stands still."""
    add(fleet, ordered="stop")
    fleet.emit(2, subject="a")
    fleet.fan_out()
    (head,) = claim(
        fleet.a, fleet, lane := fleet.value("SELECT id FROM outbox.subscription")
    ).claims

    def held() -> tuple[object, object]:
        with fleet.database.engine.connect() as connection:
            last = deliveries.list_deliveries(connection, subscription_id=lane)[0]
        return last.held, last.due_at

    assert held() == ("in order: another delivery of its subject is first", None)

    record(fleet, fleet.a, head, outcome="dead")

    assert held() == (f"blocked: a delivery of its subject is dead, {head.delivery_id}", None)


def test_unblock(fleet: Fleet) -> None:
    """A person lets a subject that stands still go on, and the change is on record."""
    lane = add(fleet, ordered="stop")
    fleet.emit(2, subject="a")
    fleet.fan_out()
    record(fleet, fleet.a, *claim(fleet.a, fleet, lane).claims, outcome="dead")
    with fleet.database.engine.begin() as connection:
        assert subscriptions.unblock(connection, lane, by=BY) == ["a"]

    assert subjects(claim(fleet.b, fleet, lane)) == ["a"]
    assert fleet.value("SELECT change FROM outbox.subscription_change WHERE revision = 2") == (
        "unblocked"
    )


def test_an_older_event_that_was_committed_late(fleet: Fleet) -> None:
    """It waits for the one that is on its way and goes before those that are not."""
    lane = add(fleet, ordered="skip")
    with fleet.database.engine.begin() as connection:
        old = str(connection.exec_driver_sql("SELECT outbox.uuid7()").scalar_one())
    first, second = fleet.emit(2, subject="a")
    fleet.fan_out()
    (head,) = claim(fleet.a, fleet, lane).claims
    fleet.execute(f"""
        INSERT INTO outbox.event (id, type, subject, data, due_at)
        VALUES ('{old}', 'a.b', 'a', '1', '2020-01-01')
    """)  # noqa: S608
    fleet.fan_out()
    sent = [head.event_id]
    for _ in range(2):
        record(fleet, fleet.a, head)
        (head,) = claim(fleet.a, fleet, lane).claims
        sent.append(head.event_id)

    assert sent == [str(first), old, str(second)]


def test_a_subject_that_nobody_let_go(fleet: Fleet) -> None:
    """If two workers are lost with the head between them, a duty lets the next one go."""
    lane = add(fleet, ordered="skip")
    fleet.emit(2, subject="a")
    fleet.fan_out()
    (first,) = claim(fleet.a, fleet, lane).claims
    fleet.expire_leases()
    claim(fleet.b, fleet, lane)
    record(fleet, fleet.a, first)  # too late, but a 2xx; b will never be heard of again

    assert claim(fleet.a, fleet, lane).claims == []
    assert fleet.run(fleet.a.promote_forgotten()) == 1
    assert fleet.run(fleet.a.promote_forgotten()) == 0
    assert len(claim(fleet.a, fleet, lane).claims) == 1


def test_removed(fleet: Fleet) -> None:
    """Nothing of its limits stays when a subscription is removed."""
    lane = add(fleet, ordered="stop", max_in_flight=9)
    fleet.emit(2, subject="a")
    fleet.fan_out()
    record(fleet, fleet.a, *claim(fleet.a, fleet, lane).claims, outcome="dead")
    with fleet.database.engine.begin() as connection:
        subscriptions.remove(connection, lane, by=BY)

    for table in ("throttle", "blocked_subject", "delivery_queue"):
        assert fleet.value(f"SELECT count(*) FROM outbox.{table}") == 0  # noqa: S608
