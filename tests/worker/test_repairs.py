"""Repairs beside running workers: what one of them has in hand, nobody takes from it."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest

from outbox import cancels, deliveries, repairs
from outbox.delivery_filter import DeliveryFilter
from outbox.repairs import Done
from tests.factories import BY, subscribe
from tests.helpers import eventually

from .conftest import LEASE, result

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.worker.claim import Claim
    from outbox.worker.store import Store

    from .conftest import Fleet


def add(fleet: Fleet, **options: Any) -> UUID:
    with fleet.database.engine.begin() as connection:
        return subscribe(connection, **options).id


def open_(fleet: Fleet, count: int = 1, *, ordered: bool = False, **options: Any) -> UUID:
    """A lane with so many deliveries that are due."""
    lane = add(fleet, ordered="stop" if ordered else None, **options)
    fleet.emit(count, subject="s" if ordered else None)
    fleet.fan_out()
    return lane


def retry(fleet: Fleet, *, limit: int = 500, **wanted: Any) -> Done:
    return repair(fleet, repairs.plan_retry, repairs.retry_some, limit, wanted)


def cancel(fleet: Fleet, *, limit: int = 500, **wanted: Any) -> Done:
    return repair(fleet, cancels.plan_cancel, cancels.cancel_some, limit, wanted)


def repair(
    fleet: Fleet, plan: Callable[..., Any], some: Callable[..., Done], limit: int,
    wanted: dict[str, Any],
) -> Done:  # fmt: skip
    with fleet.database.engine.begin() as connection:
        planned = plan(connection, DeliveryFilter(**wanted))
    done = Done()
    while not done.finished:
        with fleet.database.engine.begin() as connection:
            done = some(connection, planned, done, by=BY, limit=limit)
    return done


def claim(fleet: Fleet, store: Store, lane: UUID) -> list[Claim]:
    """What a worker would claim of a lane, whether it has limits or not."""
    plain = fleet.claim(store, lane)
    return plain or fleet.run(store.claim_limited({str(lane): 100}, LEASE)).claims


def states(fleet: Fleet) -> list[str]:
    """The states of all deliveries, oldest first."""
    with fleet.database.engine.connect() as connection:
        return [each.state for each in deliveries.list_deliveries(connection)][::-1]


# Retry.


def test_a_pending_one_is_due_now(fleet: Fleet) -> None:
    """It can be claimed at once, and its failures stay: its place in the schedule."""
    lane = open_(fleet)
    (first,) = claim(fleet, fleet.a, lane)
    fleet.record(fleet.a, result(first, "retry", delay=3600.0))
    assert claim(fleet, fleet.a, lane) == []

    assert retry(fleet, subscription_id=lane).due_now == 1
    (second,) = claim(fleet, fleet.b, lane)
    assert (second.attempt, second.failures) == (2, 1)


def test_one_in_flight_is_left_alone(fleet: Fleet) -> None:
    """Whoever has it keeps it, also when the claim is not committed yet."""
    lane = open_(fleet, 2)
    claim(fleet, fleet.a, lane)
    before = fleet.rows("SELECT * FROM outbox.delivery_queue ORDER BY 1")

    assert retry(fleet, state="pending").due_now == 0
    assert fleet.rows("SELECT * FROM outbox.delivery_queue ORDER BY 1") == before


def test_it_waits_for_no_worker(fleet: Fleet) -> None:
    """What a worker just records is left to it; what was made due is claimed after the commit."""
    lane = open_(fleet, 2)
    for each in claim(fleet, fleet.a, lane):
        fleet.record(fleet.a, result(each, "retry", delay=3600.0))
    with psycopg.connect(fleet.database.url) as worker:
        worker.execute("SELECT FROM outbox.delivery_queue LIMIT 1 FOR UPDATE")
        with fleet.database.engine.begin() as connection:
            plan = repairs.plan_retry(connection, DeliveryFilter(subscription_id=lane))
            assert repairs.retry_some(connection, plan, Done(), by=BY).due_now == 1
            assert claim(fleet, fleet.b, lane) == []

    assert len(claim(fleet, fleet.b, lane)) == 1


def test_a_dead_one_is_made_again_once(fleet: Fleet) -> None:
    """While the new one is open, and when it was delivered, there is no other."""
    lane = open_(fleet, 3)
    for each, outcome in zip(claim(fleet, fleet.a, lane), ("dead", "dead", "retry"), strict=True):
        fleet.record(fleet.a, result(each, outcome, delay=3600.0))

    first = retry(fleet, state="dead")
    assert (first.made, first.due_now) == (2, 0)
    assert retry(fleet, state="dead").made == 0

    for each, outcome in zip(claim(fleet, fleet.a, lane), ("delivered", "dead"), strict=True):
        fleet.record(fleet.a, result(each, outcome))
    again = retry(fleet)
    assert (again.made, again.due_now) == (1, 1)
    assert sorted(states(fleet)) == ["dead"] * 3 + ["delivered"] + ["pending"] * 2


def test_two_at_once(fleet: Fleet) -> None:
    """However many retry the same, it is made once."""
    lane = open_(fleet, 5)
    fleet.record(fleet.a, *(result(each, "dead") for each in claim(fleet, fleet.a, lane)))
    made: list[int] = []
    with fleet.database.engine.begin() as connection:
        plan = repairs.plan_retry(connection, DeliveryFilter(state="dead"))
        made.append(repairs.retry_some(connection, plan, Done(), by=BY).made)
        other = threading.Thread(target=lambda: made.append(retry(fleet, state="dead").made))
        other.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        eventually(lambda: fleet.value(waiting))
    other.join()

    assert made == [5, 0]


def test_a_dead_one_that_holds_up_its_subject(fleet: Fleet) -> None:
    """The new one is sent first of its subject, and the others follow in their order."""
    lane = open_(fleet, 3, ordered=True)
    (head,) = claim(fleet, fleet.a, lane)
    fleet.record(fleet.a, result(head, "dead", limited=True))
    assert claim(fleet, fleet.a, lane) == []

    assert retry(fleet, state="dead").made == 1
    order = []
    while found := claim(fleet, fleet.a, lane):
        fleet.record(fleet.a, *(result(each, limited=True) for each in found))
        order += [each.event_id for each in found]
    events = fleet.rows("SELECT id::text FROM outbox.event WHERE type = 'invoice.paid' ORDER BY id")
    assert order == [id for (id,) in events]


def test_one_that_failed_again_holds_up_its_subject_again(fleet: Fleet) -> None:
    """Order is kept whatever a person tries."""
    lane = open_(fleet, 2, ordered=True)
    for _ in range(2):
        (head,) = claim(fleet, fleet.a, lane)
        fleet.record(fleet.a, result(head, "dead", limited=True))
        assert claim(fleet, fleet.a, lane) == []
        retry(fleet, state="dead")

    assert len(claim(fleet, fleet.a, lane)) == 1
    assert fleet.value("SELECT count(*) FROM outbox.blocked_subject") == 0


def test_of_a_subject_only_the_head_becomes_due(fleet: Fleet) -> None:
    """The others wait for it as before."""
    lane = open_(fleet, 3, ordered=True)
    (head,) = claim(fleet, fleet.a, lane)
    fleet.record(fleet.a, result(head, "retry", delay=3600.0, limited=True))

    assert retry(fleet, subscription_id=lane).due_now == 1
    assert [each.delivery_id for each in claim(fleet, fleet.a, lane)] == [head.delivery_id]


# Cancel.


def test_a_pending_one_ends(fleet: Fleet) -> None:
    """It is claimed no more, and the log says who ended it."""
    lane = open_(fleet, 2)
    with fleet.database.engine.begin() as connection:
        plan = cancels.plan_cancel(connection, DeliveryFilter(subscription_id=lane))
        done = cancels.cancel_some(connection, plan, Done(), by=BY, reason="enough")

    assert (done.cancelled, done.missed, done.finished) == (2, 0, True)
    assert claim(fleet, fleet.a, lane) == []
    found = fleet.rows("SELECT attempt, outcome, worker_id, error FROM outbox.attempt")
    assert found == [(0, "cancelled", None, "cancelled by ada: enough")] * 2


@pytest.mark.parametrize("outcome", ["delivered", "retry", "dead"])
def test_one_in_flight_ends_late(fleet: Fleet, outcome: str) -> None:
    """What its worker brings is on record, and changes nothing any more."""
    lane = open_(fleet)
    (taken,) = claim(fleet, fleet.a, lane)
    cancel(fleet, state="pending")
    (recorded,) = fleet.record(fleet.a, result(taken, outcome))

    assert recorded.outcome == "late"
    assert states(fleet) == ["cancelled"]
    assert fleet.attempts() == [(1, "cancelled", None), (1, "late", fleet.a.owner)]


def test_one_that_was_recorded_first(fleet: Fleet) -> None:
    """A delivery ends once: who is first ends it, and the other finds nothing to end."""
    lane = open_(fleet)
    (taken,) = claim(fleet, fleet.a, lane)
    with fleet.database.engine.begin() as connection:
        plan = cancels.plan_cancel(connection, DeliveryFilter(subscription_id=lane))
    fleet.record(fleet.a, result(taken))
    with fleet.database.engine.begin() as connection:
        done = cancels.cancel_some(connection, plan, Done(), by=BY)

    assert (done.cancelled, done.finished) == (0, True)
    assert states(fleet) == ["delivered"]


def test_one_whose_worker_died(fleet: Fleet) -> None:
    """A request that may have gone out keeps its row: it was lost."""
    lane = open_(fleet)
    claim(fleet, fleet.a, lane)
    fleet.expire_leases()
    cancel(fleet, subscription_id=lane)

    assert sorted(fleet.attempts()) == [(1, "cancelled", None), (1, "lost", fleet.a.owner)]


def test_one_in_the_hand_of_a_worker_has_another_pass(fleet: Fleet) -> None:
    """Nobody is waited for: it is missed in this pass, and ended in the next."""
    lane = open_(fleet, 3)
    with fleet.database.engine.begin() as connection:
        plan = cancels.plan_cancel(connection, DeliveryFilter(subscription_id=lane))
    with psycopg.connect(fleet.database.url) as worker:
        worker.execute("SELECT FROM outbox.delivery_queue LIMIT 1 FOR UPDATE")
        with fleet.database.engine.begin() as connection:
            done = cancels.cancel_some(connection, plan, Done(), by=BY)
        assert (done.cancelled, done.finished, done.passes) == (2, False, 1)
    with fleet.database.engine.begin() as connection:
        done = cancels.cancel_some(connection, plan, done, by=BY)

    assert (done.cancelled, done.finished, done.missed) == (3, True, 0)


def test_it_does_not_try_for_ever(fleet: Fleet) -> None:
    """What stays in someone's hand is counted in the end."""
    lane = open_(fleet)
    with psycopg.connect(fleet.database.url) as other:
        other.execute("SELECT FROM outbox.delivery_queue FOR UPDATE")
        done = cancel(fleet, subscription_id=lane)

    assert (done.cancelled, done.missed, done.passes) == (0, 1, cancels.PASSES)


def test_the_next_of_a_subject_may_go(fleet: Fleet) -> None:
    """A head that is cancelled lets the next go; one that is in flight when it was recorded."""
    lane = open_(fleet, 3, ordered=True)
    ids = [id for (id,) in fleet.rows("SELECT id FROM outbox.delivery ORDER BY event_id")]
    cancel(fleet, ids=(ids[0],))
    (second,) = claim(fleet, fleet.a, lane)
    assert second.delivery_id == str(ids[1])

    cancel(fleet, ids=(ids[1],))
    assert claim(fleet, fleet.b, lane) == []
    fleet.record(fleet.a, result(second, limited=True))
    assert [each.delivery_id for each in claim(fleet, fleet.b, lane)] == [str(ids[2])]


def test_limits_count_what_is_in_flight(fleet: Fleet) -> None:
    """A cancelled request counts while it is on its way, and not for ever."""
    lane = open_(fleet, 4, max_in_flight=1)
    (first,) = claim(fleet, fleet.a, lane)
    cancel(fleet, ids=(UUID(first.delivery_id),))
    assert claim(fleet, fleet.b, lane) == []
    fleet.record(fleet.a, result(first, limited=True))

    (second,) = claim(fleet, fleet.b, lane)
    fleet.expire_leases()
    cancel(fleet, ids=(UUID(second.delivery_id),))
    assert fleet.value("SELECT count(*) FROM outbox.limited_claim") == 0
    assert len(claim(fleet, fleet.b, lane)) == 1


@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"max_in_flight": 5}])
def test_all_at_once(fleet: Fleet, options: dict[str, Any]) -> None:
    """Workers, retries and cancels together: nobody fails, and everything adds up."""
    lane = open_(fleet, 60, **options)
    rng = random.Random(7)  # noqa: S311 - a test's own

    async def work(store: Store) -> None:
        for _ in range(12):
            claims = await store.claim({str(lane): 5}, LEASE)
            claims += (await store.claim_limited({str(lane): 5}, LEASE)).claims
            outcomes = rng.choices(["delivered", "retry", "dead"], k=len(claims))
            limited = bool(options)
            results = [result(c, o, limited=limited) for c, o in zip(claims, outcomes, strict=True)]
            if results:
                await store.record(results, again=False, gone={})

    def mend() -> None:
        for _ in range(4):
            retry(fleet, subscription_id=lane, limit=7)

    def end() -> None:
        for _ in range(4):
            with fleet.database.engine.connect() as connection:
                some = deliveries.list_deliveries(connection, state="pending", limit=3)
            for each in some:
                with fleet.database.engine.begin() as connection:
                    plan = repairs.Plan(
                        DeliveryFilter(ids=(each.id,)), frozenset({"pending"}),
                        repairs.now_as_id(connection), 1,
                    )  # fmt: skip
                    cancels.cancel_some(connection, plan, Done(), by=BY)

    fleet.together(
        work(fleet.a), work(fleet.b), asyncio.to_thread(mend), asyncio.to_thread(end),
        asyncio.to_thread(mend),
    )  # fmt: skip

    ends = "outcome IN ('delivered', 'dead', 'cancelled')"
    assert (
        fleet.rows(
            f"SELECT count(*) FROM outbox.attempt WHERE {ends}"  # noqa: S608 - a literal
            " GROUP BY delivery_id HAVING count(*) > 1"
        )
        == []
    )
    made = fleet.value("SELECT count(*) FROM outbox.delivery")
    ended = fleet.value(f"SELECT count(*) FROM outbox.attempt WHERE {ends}")  # noqa: S608
    assert made == ended + fleet.value("SELECT count(*) FROM outbox.delivery_queue")
