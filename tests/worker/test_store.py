"""The worker's statements: fan-out, claims, fences, and plans that stay small."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from outbox import subscriptions
from outbox.fleet import CHANNEL
from outbox.keyring import StoredSecret
from outbox.schema import VERSION
from outbox.worker.claim import Claim
from outbox.worker.fanout import FanOut
from outbox.worker.maintenance import Maintenance
from outbox.worker.rows import FannedOut, Gone, Heartbeat, Lane, Recipient
from outbox.worker.store import Store, query
from tests.factories import BY, subscribe
from tests.logs import CANARY

from .conftest import LEASE, Fleet, result, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from psycopg import AsyncConnection

NO_LANE = str(UUID(int=0))


def add(fleet: Fleet, **options: Any) -> UUID:
    with fleet.database.engine.begin() as connection:
        return subscribe(connection, **options).id


# Fan-out.


def test_fan_out(fleet: Fleet) -> None:
    """It tells how much it did and for whom."""
    a, b = add(fleet, types=["a.*"]), add(fleet, types=["*"])
    fleet.emit(3, type="a.b")
    fleet.emit(2, type="c.d")
    done = fleet.run(fleet.a.fan_out(500))

    assert (done.events, done.deliveries) == (5, 8)
    assert set(done.lanes) == {str(a), str(b)}
    assert fleet.run(fleet.a.fan_out(500)).events == 0


def test_fan_out_takes_a_limit(fleet: Fleet) -> None:
    """It takes what has been due longest first, and no more than the limit."""
    add(fleet)
    late = fleet.emit(2)
    early = fleet.emit(due_at=None, occurred_at=None)
    done = [fleet.run(fleet.a.fan_out(2)) for _ in range(2)]

    assert [d.events for d in done] == [2, 1]
    found = fleet.rows("SELECT event_id FROM outbox.delivery ORDER BY id")
    assert found == [(late[0],), (late[1],), (early[0],)]


def test_fan_out_leaves_what_is_not_due(fleet: Fleet) -> None:
    """An event with a later due_at stays in the queue."""
    add(fleet)
    fleet.execute(
        "INSERT INTO outbox.event (type, data, due_at) VALUES ('a.b', '1', now() + interval '1 h')"
    )

    assert fleet.run(fleet.a.fan_out(500)).events == 0
    assert fleet.value("SELECT count(*) FROM outbox.event_queue") == 1


def test_fan_out_keeps_the_order(fleet: Fleet) -> None:
    """Deliveries have the order of their events, so a lane is served in it."""
    lane = add(fleet)
    ids = [str(id) for id in fleet.emit(300, due_at=None)]
    fleet.fan_out(100)
    fleet.fan_out()
    claims = fleet.claim(fleet.a, lane, 300)

    assert [c.event_id for c in sorted(claims, key=lambda c: c.delivery_id)] == ids


def test_one_fan_out_at_a_time(fleet: Fleet) -> None:
    """While one worker fans out, another finds nothing to do and does not wait."""
    add(fleet)
    fleet.emit(3)
    with psycopg.connect(fleet.database.url) as other:
        other.execute(query("fan_out"), {"limit": 1, "owner": 0, "only": None})
        assert fleet.run(fleet.a.fan_out(500)).events == 0
        other.rollback()

    assert fleet.run(fleet.a.fan_out(500)).events == 3


def test_concurrent_fan_outs(fleet: Fleet) -> None:
    """However many try, each event is fanned out once."""
    add(fleet)
    fleet.emit(40)
    for _ in range(20):
        fleet.together(*(store.fan_out(5) for store in (fleet.a, fleet.b) * 2))

    query = "SELECT count(*), count(DISTINCT event_id) FROM outbox.delivery"
    assert fleet.rows(query) == [(40, 40)]


def test_late_commit(fleet: Fleet) -> None:
    """An event that commits after younger ones were fanned out is fanned out all the same."""
    add(fleet)
    with psycopg.connect(fleet.database.url) as slow:
        slow.execute("INSERT INTO outbox.event (type, data) VALUES ('a.slow', '1')")
        fleet.emit(5, due_at=None)
        assert fleet.run(fleet.a.fan_out(500)).events == 5
    done = fleet.run(fleet.b.fan_out(500))

    assert (done.events, done.deliveries) == (1, 1)


def test_the_others_are_woken(fleet: Fleet) -> None:
    """After a fan-out other workers hear of it, by a transaction of its own."""
    add(fleet)
    with psycopg.connect(fleet.database.url, autocommit=True) as other:
        other.execute(f"LISTEN {CHANNEL}")
        fleet.emit()
        fleet.run(fleet.a.fan_out(1))
        assert list(other.notifies(timeout=0)) == []

        fleet.emit()
        fleet.run(FanOut(fleet.a, lambda _: None).step())
        assert [n.payload for n in other.notifies(timeout=5, stop_after=1)] == [str(fleet.a.owner)]


# An event whose fan-out fails.

BROKEN = """
CREATE FUNCTION outbox.break_fan_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT type FROM outbox.event WHERE id = NEW.event_id) = 'a.broken' THEN
        RAISE EXCEPTION 'broken by a test' USING ERRCODE = '{code}';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER break_fan_out BEFORE INSERT ON outbox.delivery
    FOR EACH ROW EXECUTE FUNCTION outbox.break_fan_out();
"""


@pytest.fixture(params=["22012", "0A000", "42704", "XX000", "P0001"])
def broken(request: pytest.FixtureRequest, fleet: Fleet) -> Any:
    """A fan-out of an event `a.broken` fails, with each kind of error that data can cause."""
    fleet.execute(BROKEN.format(code=request.param))
    yield
    fleet.execute("DROP FUNCTION outbox.break_fan_out() CASCADE")


def set_aside(fleet: Fleet) -> list[UUID]:
    query = "SELECT event_id FROM outbox.event_queue WHERE due_at = 'infinity' ORDER BY 1"
    return [row[0] for row in fleet.rows(query)]


async def steps(fan_out: FanOut, count: int) -> None:
    for _ in range(count):
        await fan_out.step()


@pytest.mark.usefixtures("broken")
def test_a_bad_event_is_set_aside(fleet: Fleet) -> None:
    """The batch is halved until the event at fault stands alone; the others go on."""
    made: list[FannedOut] = []
    lane = add(fleet)
    fleet.emit(20)
    bad = fleet.emit(type="a.broken")
    fleet.emit(20)
    fan_out = FanOut(fleet.a, made.append)
    fleet.run(steps(fan_out, 40))

    assert set_aside(fleet) == bad
    assert fleet.value("SELECT count(*) FROM outbox.event_queue") == 1
    assert fleet.value("SELECT error FROM outbox.event_queue") == "broken by a test"
    assert fleet.value("SELECT count(*) FROM outbox.delivery") == 40
    assert {lane for done in made for lane in done.lanes} == {str(lane)}


class Interrupted(Store):
    """A store in which something happens before an event is set aside."""

    def __init__(self, store: Store, before: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store._pool)
        self.owner = store.owner
        self._before = before

    async def set_aside(self, *arguments: Any) -> Any:
        await self._before()
        return await super().set_aside(*arguments)


def one_by_one(store: Store) -> FanOut:
    """A fan-out that has halved its batch to one event."""
    fan_out = FanOut(store, lambda _: None)
    fan_out._size = 1
    return fan_out


@pytest.fixture
def bad(fleet: Fleet) -> Iterator[list[UUID]]:
    """The first event, whose fan-out fails."""
    fleet.execute(BROKEN.format(code="P0001"))
    add(fleet)
    yield fleet.emit(type="a.broken")
    fleet.execute("DROP FUNCTION outbox.break_fan_out() CASCADE")


WAITING = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


def test_two_workers_set_aside_one_event(fleet: Fleet, bad: list[UUID]) -> None:
    """When two workers find the same event at fault, no other one is set aside."""
    fleet.emit(3)
    others: list[asyncio.Task[float]] = []

    async def the_other_comes_by() -> None:
        others.append(asyncio.create_task(one_by_one(fleet.b).step()))
        await until(lambda: others[0].done() or fleet.value(WAITING))

    async def both() -> None:
        await one_by_one(Interrupted(fleet.a, the_other_comes_by)).step()
        await others[0]
        await steps(FanOut(fleet.b, lambda _: None), 10)

    fleet.run(both())

    assert set_aside(fleet) == bad
    assert fleet.value("SELECT count(*) FROM outbox.delivery") == 3


def test_the_event_at_fault_is_set_aside(fleet: Fleet, bad: list[UUID]) -> None:
    """It is, also when an event with an earlier due_at commits at that very moment."""

    async def an_older_event_commits() -> None:
        fleet.emit(due_at=datetime(2010, 1, 1, tzinfo=UTC))

    fleet.run(steps(one_by_one(Interrupted(fleet.a, an_older_event_commits)), 3))

    assert set_aside(fleet) == bad
    assert fleet.value("SELECT count(*) FROM outbox.delivery") == 1


def test_an_outage_sets_nothing_aside(fleet: Fleet) -> None:
    """An error that is no fault of the data is left to the loop, which waits."""
    fleet.execute(BROKEN.format(code="57P03"))
    add(fleet)
    fleet.emit(type="a.broken")
    with pytest.raises(psycopg.Error):
        fleet.run(steps(FanOut(fleet.a, lambda _: None), 1))
    fleet.execute("DROP FUNCTION outbox.break_fan_out() CASCADE")

    assert set_aside(fleet) == []


class Hurried(Store):
    """A store whose role may take a twentieth of a second for a statement."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._pool)
        self.owner = store.owner

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with super()._connection() as connection:
            await connection.execute("SET statement_timeout = '50ms'")
            try:
                yield connection
            finally:
                await connection.execute("RESET statement_timeout")


def test_a_lock_sets_nothing_aside(fleet: Fleet) -> None:
    """An event that waits for a table is not at fault, however short the role's timeout is."""
    add(fleet)
    fleet.emit()
    hurried = Hurried(fleet.a)

    async def step_while_locked() -> None:
        with psycopg.connect(fleet.database.url) as other:
            other.execute("LOCK TABLE outbox.delivery_queue IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(psycopg.errors.QueryCanceled):
                await hurried.fan_out(1)
            step = asyncio.create_task(one_by_one(hurried).step())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(step), 0.2)  # four times the timeout
            other.rollback()
        await step

    fleet.run(step_while_locked())

    assert set_aside(fleet) == []
    assert fleet.value("SELECT count(*) FROM outbox.delivery") == 1


# Claims.


def test_claim(fleet: Fleet) -> None:
    """A claim brings all that a request needs, and counts its attempt."""
    lane = add(fleet)
    (id,) = fleet.emit(
        type="a.b", data={"x": "é"}, tenant="acme", subject="user/7", source="billing",
        context={"traceparent": "00-1-2-01"},
    )  # fmt: skip
    fleet.fan_out()
    (claim,) = fleet.claim(fleet.a, lane)
    delivery = fleet.value("SELECT id FROM outbox.delivery")
    occurred_at, due_at = fleet.rows("SELECT occurred_at, due_at FROM outbox.event")[0]

    assert claim == Claim(
        delivery_id=str(delivery), subscription_id=str(lane), event_id=str(id), attempt=1,
        failures=0, revision=1, took_over=False, type="a.b", data='{"x":"é"}',
        tenant="acme", subject="user/7", source="billing", traceparent="00-1-2-01",
        occurred_at=occurred_at, scheduled=due_at.timestamp(),
    )  # fmt: skip
    assert fleet.queue() == [(1, 0, True)]
    assert fleet.claim(fleet.b, lane) == []


def test_quotas(fleet: Fleet) -> None:
    """Of each lane at most its quota is claimed, what is due longest first."""
    x, y, z = (add(fleet) for _ in range(3))
    fleet.emit(10)
    fleet.fan_out()
    quotas = {str(x): 3, str(y): 20}
    claims = fleet.run(fleet.a.claim(quotas, LEASE))
    first = fleet.rows(
        "SELECT id::text FROM outbox.delivery WHERE subscription_id = :x ORDER BY id LIMIT 3", x=x
    )

    assert Counter(c.subscription_id for c in claims) == {str(x): 3, str(y): 10}
    assert {(c.delivery_id,) for c in claims if c.subscription_id == str(x)} == set(first)
    assert len(fleet.claim(fleet.b, z)) == 10


def test_claims_do_not_meet(fleet: Fleet) -> None:
    """Stores that claim from one lane at once get different deliveries, and miss none."""
    lane = add(fleet)
    fleet.emit(100)
    fleet.fan_out()
    claims = fleet.together(
        *(store.claim({str(lane): 30}, LEASE) for store in (fleet.a, fleet.b) * 2)
    )
    taken = [claim.delivery_id for some in claims for claim in some]

    assert len(taken) == len(set(taken))
    rest = fleet.claim(fleet.a, lane)
    assert len(taken) + len(rest) == 100


def test_claim_does_not_wait(fleet: Fleet) -> None:
    """Rows that another one holds locked are passed over."""
    lane = add(fleet)
    fleet.emit(5)
    fleet.fan_out()
    with psycopg.connect(fleet.database.url) as other:
        values = {"lanes": [lane], "quotas": [2], "lease": LEASE, "owner": fleet.b.owner}
        held = other.execute(query("claim"), values).fetchall()
        claims = fleet.claim(fleet.a, lane)
        other.rollback()

    assert (len(held), len(claims)) == (2, 3)


@pytest.mark.parametrize("state", ["paused", "disabled", "removed"])
def test_stopped_lanes_are_not_claimed(fleet: Fleet, state: str) -> None:
    """Deliveries of a stopped subscription stay, and are not claimed."""
    lane = add(fleet)
    fleet.emit()
    fleet.fan_out()
    fleet.execute(f"UPDATE outbox.subscription SET state = '{state}'")  # noqa: S608

    assert fleet.claim(fleet.a, lane) == []
    assert fleet.queue() == [(0, 0, False)]


def test_what_is_not_due_is_not_claimed(fleet: Fleet) -> None:
    """A retry waits for its time."""
    lane = add(fleet)
    fleet.emit()
    fleet.fan_out()
    (claim,) = fleet.claim(fleet.a, lane)
    (recorded,) = fleet.record(fleet.a, result(claim, "retry", delay=60.0))

    assert recorded.due_in == pytest.approx(60, abs=1)
    assert fleet.claim(fleet.a, lane) == []


def test_lease_that_ran_out(fleet: Fleet) -> None:
    """It is claimed by another, who writes the lost attempt in the same transaction."""
    lane = add(fleet)
    fleet.emit()
    fleet.fan_out()
    fleet.claim(fleet.a, lane)
    assert fleet.claim(fleet.b, lane) == []
    fleet.expire_leases()
    with psycopg.connect(fleet.database.url) as other:
        values = {"lanes": [lane], "quotas": [1], "lease": LEASE, "owner": fleet.b.owner}
        other.execute(query("claim"), values)
        other.rollback()
    assert fleet.attempts() == []
    (claim,) = fleet.claim(fleet.b, lane)

    assert (claim.attempt, claim.failures, claim.took_over) == (2, 0, True)
    assert fleet.attempts() == [(1, "lost", fleet.a.owner)]


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("context", r"""'{"traceparent": "\u0000"}'"""),
        ("context", r"""'{"x": "\u0000"}'"""),
        ("context", "'[1]'"),
        ("context", "'\"text\"'"),
        ("occurred_at", "'infinity'"),
        ("occurred_at", "'-infinity'"),
        ("occurred_at", "'12345-01-01'"),
        ("occurred_at", "'0044-03-15 BC'"),
        ("due_at", "'-infinity'"),
    ],
)
def test_no_event_spoils_a_claim(fleet: Fleet, columns: str, values: str) -> None:
    """Whatever an event holds, the claim that meets it brings the others."""
    lane = add(fleet)
    fleet.emit(2)
    statement = f"INSERT INTO outbox.event (type, data, {columns}) VALUES ('a.b', '1', {values})"  # noqa: S608
    try:
        fleet.execute(statement)
    except DBAPIError:  # the table refuses it, which is as good
        fleet.emit()
    fleet.emit(2)
    fleet.fan_out()

    assert len(fleet.claim(fleet.a, lane)) == 5


# Records and fences.


def claimed(fleet: Fleet, count: int = 1) -> list[Claim]:
    lane = add(fleet)
    fleet.emit(count)
    fleet.fan_out()
    return fleet.claim(fleet.a, lane)


def test_delivered(fleet: Fleet) -> None:
    """A delivered one leaves the queue; the attempt tells everything."""
    (claim,) = claimed(fleet)
    changes: dict[str, Any] = {
        "error": "HTTP 200, then reset",
        "error_class": "truncated",
        "response_body": b"\0x",
    }
    recorded = fleet.record(fleet.a, result(claim, **changes))
    query = """
        SELECT attempt, outcome, worker_id, revision, duration_ms, status, error_class, error,
            response_body, due_at
        FROM outbox.attempt
    """

    assert recorded == []
    assert fleet.queue() == []
    assert fleet.rows(query) == [
        (
            1,
            "delivered",
            fleet.a.owner,
            1,
            7,
            200,
            "truncated",
            "HTTP 200, then reset",
            b"\0x",
            None,
        )
    ]


def test_dead(fleet: Fleet) -> None:
    """A dead one leaves the queue as well."""
    (claim,) = claimed(fleet)
    fleet.record(fleet.a, result(claim, "dead"))

    assert fleet.queue() == []
    assert fleet.attempts() == [(1, "dead", fleet.a.owner)]


def test_retry(fleet: Fleet) -> None:
    """A retry is free again at its time, one failure further on in its schedule."""
    (claim,) = claimed(fleet)
    fleet.record(fleet.a, result(claim, "retry"))
    (again,) = fleet.claim(fleet.b, claim.subscription_id)

    assert (again.attempt, again.failures, again.took_over) == (2, 1, False)
    assert fleet.value("SELECT due_at IS NOT NULL FROM outbox.attempt") is True


def test_retry_for_a_fault_of_ours(fleet: Fleet) -> None:
    """A fault of ours is an attempt, and no failure of the receiver."""
    (claim,) = claimed(fleet)
    fleet.record(fleet.a, result(claim, "retry", counts=False, status=None))

    assert fleet.queue() == [(1, 0, False)]


def test_a_batch_is_mixed(fleet: Fleet) -> None:
    """One statement records what came to different ends, and tells which did not deliver."""
    claims = claimed(fleet, 4)
    outcomes = ["delivered", "retry", "dead"]
    recorded = fleet.record(fleet.a, *map(result, claims, outcomes))

    assert {r.delivery_id: r.outcome for r in recorded} == {
        claims[1].delivery_id: "retry", claims[2].delivery_id: "dead",
    }  # fmt: skip
    assert sorted(fleet.attempts()) == [(1, outcome, fleet.a.owner) for outcome in sorted(outcomes)]
    assert fleet.queue() == [(1, 0, True), (1, 1, False)]


def taken_over(fleet: Fleet) -> tuple[Claim, Claim]:
    """The claims of a worker that was slow, and of the one that took over."""
    (stale,) = claimed(fleet)
    fleet.expire_leases()
    (fresh,) = fleet.claim(fleet.b, stale.subscription_id)
    return stale, fresh


@pytest.mark.parametrize("outcome", ["retry", "dead"])
def test_a_stale_failure_changes_nothing(fleet: Fleet, outcome: str) -> None:
    """Who lost the claim is recorded as late; the new owner keeps it."""
    stale, fresh = taken_over(fleet)
    (recorded,) = fleet.record(fleet.a, result(stale, outcome))

    assert (recorded.outcome, recorded.due_in) == ("late", None)
    assert fleet.queue() == [(2, 0, True)]
    fleet.record(fleet.b, result(fresh, "retry"))
    assert fleet.queue() == [(2, 1, False)]
    assert {outcome for _, outcome, _ in fleet.attempts()} == {"lost", "late", "retry"}


def test_a_stale_success_ends_it(fleet: Fleet) -> None:
    """A 2xx is a fact, whoever brings it; what the new owner finds then is late."""
    stale, fresh = taken_over(fleet)
    first = fleet.record(fleet.a, result(stale))
    (second,) = fleet.record(fleet.b, result(fresh, "retry"))

    assert (first, second.outcome) == ([], "late")
    assert fleet.queue() == []


def test_a_result_of_a_delivery_that_is_not_there(fleet: Fleet) -> None:
    """After a failover that lost it: its result is left out, the others of the batch stand."""
    (claim,) = claimed(fleet)
    recorded = fleet.record(
        fleet.a, result(claim._replace(delivery_id=str(UUID(int=7)))), result(claim)
    )

    assert recorded == []
    assert [outcome for _, outcome, _ in fleet.attempts()] == ["delivered"]


def test_two_successes_end_it_once(fleet: Fleet) -> None:
    """Two 2xx for one delivery: the first ends it, the second is late."""
    stale, fresh = taken_over(fleet)
    recorded = fleet.together(
        fleet.a.record([result(stale)], again=False, gone={}),
        fleet.b.record([result(fresh)], again=False, gone={}),
    )

    assert [each.outcome for some in recorded for each in some] == ["late"]
    assert sorted(outcome for _, outcome, _ in fleet.attempts()) == ["delivered", "late", "lost"]
    assert fleet.queue() == []


def test_the_fence_is_owner_and_attempt(fleet: Fleet) -> None:
    """An old attempt of the same worker is stale too."""
    (stale,) = claimed(fleet)
    fleet.expire_leases()
    fleet.claim(fleet.a, stale.subscription_id)
    (recorded,) = fleet.record(fleet.a, result(stale, "retry"))

    assert recorded.outcome == "late"
    assert fleet.queue() == [(2, 0, True)]


def test_again(fleet: Fleet) -> None:
    """After an answer that was lost, what was recorded is not recorded twice, the rest is."""
    claims = claimed(fleet, 3)
    results = [result(c, o) for c, o in zip(claims, ("delivered", "retry", "retry"), strict=True)]
    fleet.record(fleet.a, *results[:2])
    before = fleet.queue()
    (recorded,) = fleet.record(fleet.a, *results, again=True)

    assert recorded.delivery_id == claims[2].delivery_id
    assert before == [(1, 0, True), (1, 1, False)]
    assert fleet.queue() == [(1, 1, False), (1, 1, False)]
    assert len(fleet.attempts()) == 3


def test_again_after_the_lease(fleet: Fleet) -> None:
    """A result that was never recorded is recorded again also when its attempt is lost by now."""
    stale, _ = taken_over(fleet)
    fleet.record(fleet.a, result(stale), again=True)

    assert sorted(outcome for _, outcome, _ in fleet.attempts()) == ["delivered", "lost"]
    assert fleet.queue() == []


def test_removed_meanwhile(fleet: Fleet) -> None:
    """An answer for a delivery that was cancelled meanwhile is late."""
    (claim,) = claimed(fleet)
    with fleet.database.engine.begin() as connection:
        subscriptions.remove(connection, UUID(claim.subscription_id), by=BY)
    (recorded,) = fleet.record(fleet.a, result(claim))

    assert recorded.outcome == "late"
    assert fleet.attempts() == [(1, "cancelled", None), (1, "late", fleet.a.owner)]


def test_record_with_disable(fleet: Fleet) -> None:
    """A 410 ends the delivery and disables the subscription in one transaction."""
    (claim,) = claimed(fleet)
    gone = {claim.subscription_id: Gone("gone", tell=True)}
    fleet.run(fleet.a.record([result(claim, "dead")], again=False, gone=gone))
    query = "SELECT state, state_reason, revision FROM outbox.subscription"

    assert fleet.rows(query) == [("disabled", "gone", 2)]


def test_disable(fleet: Fleet) -> None:
    """Only an active subscription is disabled; the change is a fact by the worker."""
    lane = add(fleet)
    done = [fleet.run(fleet.a.disable(str(lane), "gone")) for _ in range(2)]
    query = """
        SELECT revision, change, actor, command, after ->> 'state_reason'
        FROM outbox.subscription_change ORDER BY id
    """

    assert done == [True, False]
    assert fleet.rows(query)[1:] == [
        (2, "disabled", f"worker {fleet.a.owner}", "outbox-worker", "gone")
    ]


def test_paused_is_not_disabled(fleet: Fleet) -> None:
    """What a person stopped stays as the person left it."""
    lane = add(fleet)
    with fleet.database.engine.begin() as connection:
        subscriptions.pause(connection, lane, by=BY)

    assert fleet.run(fleet.a.disable(str(lane), "gone")) is False
    assert fleet.value("SELECT state FROM outbox.subscription") == "paused"


# Release.


def test_release_of_what_never_began(fleet: Fleet) -> None:
    """A claim whose request never began gives its number back and leaves no trace."""
    claims = claimed(fleet, 2)
    fleet.run(fleet.a.release(claims, cut=False))

    assert fleet.queue() == [(0, 0, False), (0, 0, False)]
    assert fleet.attempts() == []
    assert {c.attempt for c in fleet.claim(fleet.b, claims[0].subscription_id)} == {1}


def test_release_of_what_was_cut(fleet: Fleet) -> None:
    """A request that was cut stands as lost, and the delivery is free at once."""
    (claim,) = claimed(fleet)
    fleet.run(fleet.a.release([claim], cut=True))
    (again,) = fleet.claim(fleet.b, claim.subscription_id)

    assert fleet.attempts() == [(1, "lost", fleet.a.owner)]
    assert (again.attempt, again.failures, again.took_over) == (2, 0, False)


@pytest.mark.parametrize("cut", [True, False])
def test_release_of_what_was_taken_over(fleet: Fleet, cut: bool) -> None:
    """A stale release changes nothing."""
    stale, _ = taken_over(fleet)
    fleet.run(fleet.a.release([stale], cut=cut))

    assert fleet.queue() == [(2, 0, True)]
    assert fleet.attempts() == [(1, "lost", fleet.a.owner)]


# Sweep and the rest.


def test_sweep(fleet: Fleet) -> None:
    """It finds each lane once, and when its first free delivery falls due."""
    due, later, claimed_, paused = (add(fleet, types=[t]) for t in ("a.a", "a.b", "a.c", "a.d"))
    for type in ("a.a", "a.b", "a.c", "a.d"):
        fleet.emit(2, type=type)
    fleet.fan_out()
    fleet.claim(fleet.a, claimed_)
    fleet.execute(f"""
        UPDATE outbox.delivery_queue SET due_at = now() + interval '1 h'
        WHERE subscription_id = '{later}';
        UPDATE outbox.subscription SET state = 'paused' WHERE id = '{paused}'
    """)  # noqa: S608
    lanes = fleet.run(fleet.b.sweep(NO_LANE, 1000))
    found = {lane.subscription_id: lane.due_in for lane in lanes}

    assert (found[str(due)] or 0) <= 0
    assert found[str(due)] is not None
    assert found[str(later)] == pytest.approx(3600, abs=5)
    assert (found[str(claimed_)], found[str(paused)]) == (None, None)
    assert len(lanes) == 4


def test_sweep_sees_leases_that_ran_out(fleet: Fleet) -> None:
    """A delivery whose lease is over is due."""
    (claim,) = claimed(fleet)
    assert fleet.run(fleet.b.sweep(NO_LANE, 10)) == [Lane(claim.subscription_id, None, False)]
    fleet.expire_leases()
    (lane,) = fleet.run(fleet.b.sweep(NO_LANE, 10))

    assert lane.due_in is not None


def test_sweep_goes_on(fleet: Fleet) -> None:
    """Slice by slice behind a cursor it comes by every lane, in order."""
    lanes = sorted(str(add(fleet)) for _ in range(7))
    fleet.emit(3)
    fleet.fan_out()
    cursor, found = NO_LANE, list[str]()
    while some := fleet.run(fleet.a.sweep(cursor, 3)):
        found += [lane.subscription_id for lane in some]
        cursor = found[-1]

    assert found == lanes


def test_recipients(fleet: Fleet) -> None:
    """A subscription comes with its live secrets, newest first."""
    id = add(fleet, headers={"A": "1"}, schedule=[0, 1.5])
    fleet.execute(f"""
        INSERT INTO outbox.secret (subscription_id, sealed, created_at, expires_at) VALUES
            ('{id}', 'newest', now() + interval '1 s', NULL),
            ('{id}', 'expiring', now() - interval '1 h', to_timestamp(4102444800)),
            ('{id}', 'ended', now(), now())
    """)  # noqa: S608
    ids = dict(fleet.rows("SELECT left(sealed, 6), id::text FROM outbox.secret"))
    ((generated,),) = fleet.rows("SELECT sealed FROM outbox.secret WHERE sealed LIKE 'whsec_%'")

    assert fleet.run(fleet.a.recipients([str(id), NO_LANE])) == [
        Recipient(
            str(id), 1, f"http://127.0.0.1:9/?token={CANARY}", "POST", "standard", ("standard",),
            {"A": "1"}, None, None, (0.0, 1.5), None,
            [
                StoredSecret(ids["newest"], None, "newest", None),
                StoredSecret(ids["whsec_"], None, generated, None),
                StoredSecret(ids["expiri"], None, "expiring", 4102444800.0),
            ],
        )
    ]  # fmt: skip


def test_cancel_removed(fleet: Fleet) -> None:
    """What a fan-out made for a subscription while it was removed is cancelled."""
    lane, kept = add(fleet), add(fleet)
    fleet.emit()
    fleet.fan_out()
    fleet.execute(f"""
        UPDATE outbox.subscription SET state = 'removed', state_reason = 'removed by ada'
        WHERE id = '{lane}'
    """)  # noqa: S608

    assert fleet.run(fleet.a.cancel_removed()) == 1
    assert fleet.attempts() == [(0, "cancelled", None)]
    assert fleet.rows("SELECT subscription_id FROM outbox.delivery_queue") == [(kept,)]


def test_a_life(fleet: Fleet) -> None:
    """Each start is a life of its own, that is seen until it ends."""
    assert fleet.a.owner != fleet.b.owner
    assert fleet.run(fleet.a.heartbeat()) == Heartbeat(VERSION, known=True, place=0, workers=2)
    assert fleet.run(fleet.b.heartbeat()) == Heartbeat(VERSION, known=True, place=1, workers=2)
    fleet.run(fleet.a.unregister())
    assert fleet.run(fleet.b.heartbeat()) == Heartbeat(VERSION, known=True, place=0, workers=1)

    query = "SELECT host, stopped_at IS NULL, seen_at >= started_at FROM outbox.worker ORDER BY id"
    assert fleet.rows(query) == [("a", False, True), ("b", True, True)]


def test_a_life_that_was_killed(fleet: Fleet) -> None:
    """Who is not seen any more has no place in the row of those that look for events."""
    query = "UPDATE outbox.worker SET seen_at = seen_at - interval '31 s' WHERE host = 'a'"
    fleet.execute(query)

    assert fleet.run(fleet.b.heartbeat()) == Heartbeat(VERSION, known=True, place=0, workers=1)


def test_a_life_that_is_not_known(fleet: Fleet) -> None:
    """Where a standby took over that had not heard of a life, it goes on under another id."""
    fleet.execute("UPDATE outbox.worker SET pid = 2 WHERE host = 'a'")  # another has its id now
    beats = Maintenance(fleet.a, Counter(), lambda _: None).heartbeat
    former = fleet.a.owner
    fleet.run(beats())
    fleet.run(beats())

    assert fleet.a.owner > max(former, fleet.b.owner)
    query = "SELECT pid FROM outbox.worker WHERE host = 'a' AND stopped_at IS NULL ORDER BY id"
    assert fleet.rows(query) == [(2,), (1,)]
