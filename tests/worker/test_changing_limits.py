"""Limits that are changed while deliveries are open: what is open follows them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from outbox import repairs, subscriptions
from outbox.worker.store import query
from tests.factories import BY, rows, subscribe, value
from tests.helpers import eventually

from .conftest import LEASE, result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from outbox.worker.claim import Claim

    from .conftest import Fleet

LOCKS_WAITED_FOR = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def add(fleet: Fleet, **options: Any) -> UUID:
    with fleet.database.engine.begin() as connection:
        return subscribe(connection, **options).id


def change(fleet: Fleet, lane: UUID, **changes: Any) -> None:
    with fleet.database.engine.begin() as connection:
        subscriptions.update(connection, lane, by=BY, **changes)


@contextmanager
def meanwhile(fleet: Fleet, lane: UUID, **changes: Any) -> Iterator[None]:
    """A change that somebody makes while the block runs, and that is made when it ends."""
    thread = threading.Thread(target=lambda: change(fleet, lane, **changes))
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive()


def claim(fleet: Fleet, lane: UUID, quota: int = 100) -> list[Claim]:
    """What the other worker claims of a lane, with its limits if it has any."""
    plain = fleet.claim(fleet.a, lane, quota)
    return plain or fleet.run(fleet.a.claim_limited({str(lane): quota}, LEASE)).claims


def record(fleet: Fleet, *claims: Claim, outcome: str = "delivered", **changes: Any) -> None:
    """As a worker that has heard of the limits."""
    fleet.record(fleet.a, *(result(each, outcome, limited=True, **changes) for each in claims))


def drain(fleet: Fleet, lane: UUID) -> list[str]:
    """Deliver all, one round after the other; return the subjects of each round."""
    rounds = []
    while claims := claim(fleet, lane):
        rounds.append("".join(sorted(str(each.subject or "-") for each in claims)))
        record(fleet, *claims)
    return rounds


def places(fleet: Fleet) -> list[tuple[Any, ...]]:
    """Subject, and whether it may go, of each open delivery in the order of events."""
    return fleet.rows(
        "SELECT subject, due_at < 'infinity' FROM outbox.delivery_queue ORDER BY event_id"
    )


# Limits without order.


def test_a_rate_that_begins_and_ends(fleet: Fleet) -> None:
    """The lane is claimed with its limits as long as it has them."""
    lane = add(fleet)
    fleet.emit(3)
    fleet.fan_out()
    change(fleet, lane, rate=1)

    assert fleet.claim(fleet.a, lane) == []
    assert fleet.rows("SELECT subscription_id FROM outbox.throttle") == [(lane,)]

    change(fleet, lane, rate=50, burst=100)

    assert fleet.value("SELECT count(*) FROM outbox.throttle") == 1

    change(fleet, lane, rate=None, burst=None)

    assert fleet.value("SELECT count(*) FROM outbox.throttle") == 0
    assert len(fleet.claim(fleet.a, lane)) == 3


def test_what_is_in_flight_counts(fleet: Fleet) -> None:
    """Requests that began before there was a limit take their places in it."""
    lane = add(fleet)
    fleet.emit(5)
    fleet.fan_out()
    before = claim(fleet, lane, 2)
    change(fleet, lane, max_in_flight=3)
    after = claim(fleet, lane)

    assert (len(before), len(after)) == (2, 1)
    assert claim(fleet, lane) == []

    record(fleet, *before)

    assert len(claim(fleet, lane)) == 2


def test_limits_that_end_while_requests_run(fleet: Fleet) -> None:
    """What was claimed under a limit is recorded as ever, and nothing of the limit is left."""
    lane = add(fleet, max_in_flight=2, ordered="stop")
    fleet.emit(3, subject="a")
    fleet.fan_out()
    head = claim(fleet, lane)
    change(fleet, lane, max_in_flight=None, ordered=None)
    rest = claim(fleet, lane)
    record(fleet, *head, outcome="dead")
    record(fleet, *rest)

    assert (len(head), len(rest)) == (1, 2)
    for table in ("delivery_queue", "limited_claim", "throttle", "blocked_subject"):
        assert fleet.value(f"SELECT count(*) FROM outbox.{table}") == 0  # noqa: S608


def test_the_sweep_tells_of_limits_while_nothing_is_due(fleet: Fleet) -> None:
    """A worker hears of a new limit also when all of the lane is in flight."""
    lane = add(fleet)
    fleet.emit(1)
    fleet.fan_out()
    claim(fleet, lane)
    change(fleet, lane, rate=1)
    (swept,) = fleet.run(fleet.a.sweep("00000000-0000-0000-0000-000000000000", 10))

    assert (swept.subscription_id, swept.due_in, swept.limited) == (str(lane), None, True)


# Order that begins.


def test_order_begins(fleet: Fleet) -> None:
    """Of each subject the oldest may go; the others follow it; what has no subject is free."""
    lane = add(fleet)
    for subject in ("a", "b", "a", None, "a"):
        fleet.emit(subject=subject)
    fleet.fan_out()
    change(fleet, lane, ordered="stop")

    assert places(fleet) == [
        ("a", True), ("b", True), ("a", False), (None, True), ("a", False),
    ]  # fmt: skip
    assert drain(fleet, lane) == ["-ab", "a", "a"]


def test_the_first_keeps_its_time(fleet: Fleet) -> None:
    """A delivery that waits for its next attempt waits as long when order begins."""
    lane = add(fleet)
    fleet.emit(2, subject="a")
    fleet.fan_out()
    record(fleet, *claim(fleet, lane), outcome="retry", delay=3600.0)
    change(fleet, lane, ordered="skip")

    assert claim(fleet, lane) == []
    assert fleet.rows("""
        SELECT due_at > now() + interval '50 min', failures FROM outbox.delivery_queue
        WHERE due_at < 'infinity'
    """) == [(True, 1)]


def test_the_one_in_flight_is_first(fleet: Fleet) -> None:
    """What is on its way is not overtaken; its end lets the next go, also after a retry."""
    lane = add(fleet)
    fleet.emit(3, subject="a")
    fleet.fan_out()
    (sent,) = claim(fleet, lane, 1)
    change(fleet, lane, ordered="stop")

    assert claim(fleet, lane) == []

    record(fleet, sent, outcome="retry")
    (again,) = claim(fleet, lane)

    assert (again.delivery_id, again.attempt) == (sent.delivery_id, 2)

    record(fleet, again)

    assert drain(fleet, lane) == ["a", "a"]


def test_several_in_flight(fleet: Fleet) -> None:
    """One of them is in the order; the others end as they began, whatever they come to."""
    lane = add(fleet)
    fleet.emit(4, subject="a")
    fleet.fan_out()
    first, second, third = claim(fleet, lane, 3)
    change(fleet, lane, ordered="stop")

    assert places(fleet) == [("a", True), (None, True), (None, True), ("a", False)]

    record(fleet, second, outcome="retry")
    record(fleet, third)
    (outside,) = claim(fleet, lane)

    assert outside.delivery_id == second.delivery_id

    record(fleet, first, outsider := outside)
    assert outsider.attempt == 2
    assert drain(fleet, lane) == ["a"]


def test_a_worker_that_has_not_heard_of_the_order(fleet: Fleet) -> None:
    """If the end of the first lets nobody go, the duty does."""
    lane = add(fleet)
    fleet.emit(2, subject="a")
    fleet.fan_out()
    (sent,) = claim(fleet, lane, 1)
    change(fleet, lane, ordered="stop")
    fleet.record(fleet.a, result(sent))

    assert claim(fleet, lane) == []
    assert fleet.run(fleet.a.promote_forgotten()) == 1
    assert drain(fleet, lane) == ["a"]


def test_a_lease_that_ran_out(fleet: Fleet) -> None:
    """A delivery whose worker died keeps its place and is taken over."""
    lane = add(fleet)
    fleet.emit(2, subject="a")
    fleet.fan_out()
    (lost,) = claim(fleet, lane, 1)
    fleet.expire_leases()
    change(fleet, lane, ordered="stop")
    (taken,) = fleet.run(fleet.b.claim_limited({str(lane): 10}, LEASE)).claims
    record(fleet, lost, outcome="retry")

    assert (taken.delivery_id, taken.took_over) == (lost.delivery_id, True)
    assert places(fleet) == [("a", True), ("a", False)]


# Order that ends, or changes.


def test_order_ends(fleet: Fleet) -> None:
    """All may go at once, also what stood still behind a dead one."""
    lane = add(fleet, ordered="stop")
    fleet.emit(3, subject="a")
    fleet.emit(2, subject="b")
    fleet.fan_out()
    dead = next(each for each in claim(fleet, lane) if each.subject == "a")
    record(fleet, dead, outcome="dead")
    change(fleet, lane, ordered=None)
    found = claim(fleet, lane)

    assert sorted(str(each.subject) for each in found) == ["a", "a", "b"]
    assert {subject for subject, _ in places(fleet)} == {None}
    assert fleet.value("SELECT count(*) FROM outbox.blocked_subject") == 0


def test_skip_instead_of_stop(fleet: Fleet) -> None:
    """What stood still behind a dead one goes on."""
    lane = add(fleet, ordered="stop")
    fleet.emit(3, subject="a")
    fleet.fan_out()
    record(fleet, *claim(fleet, lane), outcome="dead")

    assert claim(fleet, lane) == []

    change(fleet, lane, ordered="skip")

    assert drain(fleet, lane) == ["a", "a"]


def test_there_and_back(fleet: Fleet) -> None:
    """Order that ends and begins again is the order that it was."""
    lane = add(fleet, ordered="stop")
    fleet.emit(3, subject="a")
    fleet.fan_out()
    before = places(fleet)
    change(fleet, lane, ordered=None)
    change(fleet, lane, ordered="stop")

    assert places(fleet) == before == [("a", True), ("a", False), ("a", False)]


# Others at the same time.


@pytest.mark.parametrize("ordered", ["stop", None])
def test_a_fan_out_under_way(fleet: Fleet, ordered: str | None) -> None:
    """It is waited for, and what it made follows the new setting; the old one it saw is gone."""
    lane = add(fleet, ordered=None if ordered else "stop")
    fleet.emit(3, subject="a")
    fleet.fan_out()
    fleet.emit(2, subject="a")
    with fleet.database.engine.connect() as other:
        driver: Any = other.connection.driver_connection
        driver.execute(query("fan_out"), {"limit": 500, "owner": 0, "only": None})
        with meanwhile(fleet, lane, ordered=ordered):
            eventually(lambda: fleet.value(LOCKS_WAITED_FOR))
            driver.commit()

    expected = [("a", True), *[("a", False)] * 4] if ordered else [(None, True)] * 5
    assert places(fleet) == expected


def test_a_fan_out_that_comes_in_between(fleet: Fleet) -> None:
    """It leaves the events to the next one, which sees the new setting."""
    lane = add(fleet)
    fleet.emit(1, subject="a")
    fleet.fan_out()
    fleet.emit(1, subject="a")
    with fleet.database.engine.begin() as connection:
        subscriptions.update(connection, lane, by=BY, ordered="stop")

        assert fleet.run(fleet.b.fan_out(10)).events == 0

    assert fleet.run(fleet.b.fan_out(10)).events == 1
    assert places(fleet) == [("a", True), ("a", False)]


def test_a_replay_that_comes_in_between(fleet: Fleet) -> None:
    """Deliveries that are asked for again wait for the change and obey it."""
    lane = add(fleet)
    (past,) = fleet.emit(1, subject="a")
    fleet.fan_out()

    def replay() -> None:
        with fleet.database.engine.begin() as connection:
            repairs.deliver_again(connection, [(past, lane)])

    thread = threading.Thread(target=replay)
    with fleet.database.engine.begin() as connection:
        subscriptions.update(connection, lane, by=BY, ordered="stop")
        thread.start()
        eventually(lambda: fleet.value(LOCKS_WAITED_FOR))
    thread.join(10)

    assert places(fleet) == [("a", True), ("a", False)]


def test_nobody_waits_in_a_circle(fleet: Fleet) -> None:
    """The end of a delivery leaves the next one to whoever is just at it."""
    lane = add(fleet, ordered="skip")
    fleet.emit(2, subject="a")
    fleet.fan_out()
    (head,) = claim(fleet, lane)
    with fleet.database.engine.begin() as other:
        other.exec_driver_sql(
            "SELECT 1 FROM outbox.delivery_queue WHERE due_at = 'infinity' FOR UPDATE"
        )
        record(fleet, head)

    assert places(fleet) == [("a", False)]
    assert fleet.run(fleet.a.promote_forgotten()) == 1


def test_changed_again_and_again(fleet: Fleet) -> None:
    """Whatever is changed while two workers are busy, each event is delivered exactly once."""
    lane = add(fleet)
    stop = threading.Event()
    failures: list[BaseException] = []

    def restless() -> None:
        changes: list[dict[str, Any]] = [
            {"ordered": "stop"}, {"rate": 10_000.0}, {"ordered": "skip"}, {"ordered": None},
            {"rate": None}, {"max_in_flight": 5}, {"ordered": "stop"},
            {"max_in_flight": None, "ordered": None},
        ]  # fmt: skip
        try:
            while not stop.is_set():
                for each in changes:
                    change(fleet, lane, **each)
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=restless)
    thread.start()
    try:
        for n in range(25):
            fleet.emit(3, subject="ab"[n % 2])
            fleet.run(fleet.b.fan_out(50))
            for store in (fleet.a, fleet.b):
                _work(fleet, store, lane, n)
    finally:
        stop.set()
        thread.join(20)
    change(fleet, lane, ordered=None, rate=None, max_in_flight=None)
    fleet.fan_out()
    while claims := claim(fleet, lane):
        record(fleet, *claims)

    assert failures == []
    assert fleet.value("SELECT count(*) FROM outbox.delivery_queue") == 0
    assert fleet.rows("""
        SELECT count(*), count(DISTINCT delivery_id) FROM outbox.attempt
        WHERE outcome = 'delivered'
    """) == [(75, 75)]


def _work(fleet: Fleet, store: Any, lane: UUID, n: int) -> None:
    found = fleet.claim(store, lane, 4)
    found += fleet.run(store.claim_limited({str(lane): 4}, LEASE)).claims
    ends = (result(each, "retry" if (n + i) % 3 == 0 else "delivered", limited=True)
            for i, each in enumerate(found))  # fmt: skip
    if found:
        fleet.record(store, *ends)


def test_facts_of_a_change(fleet: Fleet) -> None:
    """The change is a fact beside what it did to the queue."""
    lane = add(fleet)
    change(fleet, lane, ordered="stop")
    with fleet.database.engine.connect() as connection:
        assert value(connection, "SELECT after ->> 'ordered' FROM outbox.subscription_change"
                     " WHERE revision = 2") == "stop"  # fmt: skip
        assert rows(connection, "SELECT limited, revision FROM outbox.subscription") == [(True, 2)]
