"""Recording: each result once, in order, whatever the database does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest

from outbox.worker.record import Recorder
from outbox.worker.settings import FLUSH_SIZE
from outbox.worker.store import Store
from tests.factories import subscribe

from .conftest import Fleet, result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outbox.worker.claim import Claim
    from outbox.worker.rows import Gone, Recorded, Result


class Unreliable(Store):
    """A store that fails as `faults` say: `before` it wrote, or `after` (the answer is lost)."""

    def __init__(self, store: Store, *faults: str) -> None:
        super().__init__(store._pool)
        self.owner = store.owner
        self._faults = list(faults)
        self.batches: list[int] = []
        self.results: list[Result] = []

    async def record(
        self, results: Sequence[Result], *, again: bool, gone: Mapping[str, Gone]
    ) -> list[Recorded]:
        fault = self._faults.pop(0) if self._faults else None
        if fault == "before":
            raise psycopg.OperationalError("the connection is lost")
        recorded = await super().record(results, again=again, gone=gone)
        if fault == "after":
            raise psycopg.OperationalError("the connection is lost")
        self.batches.append(len(results))
        self.results.extend(results)
        return recorded


def claims(fleet: Fleet, count: int) -> list[Claim]:
    with fleet.database.engine.begin() as connection:
        lane = subscribe(connection).id
    fleet.emit(count)
    fleet.fan_out(count)
    return fleet.claim(fleet.a, lane, count)


async def recording(store: Store, *results: Result, lane: str = "-", **put: Any) -> list[str]:
    """Put all results, let the recorder end, and return the outcomes it told of."""
    told: list[str] = []
    recorder = Recorder(store, lambda _lane, outcome, _due_in: told.append(outcome))
    running = asyncio.create_task(recorder.run())
    for made in results:
        recorder.put(lane, made, **put)
    recorder.close()
    await running
    return told


@pytest.mark.parametrize(
    "faults",
    [[], ["before"], ["before"] * 3, ["after"], ["after", "before"], ["before", "after", "after"]],
    ids=lambda faults: "-".join(faults) or "none",
)
def test_each_once(fleet: Fleet, faults: list[str]) -> None:
    """With the database away, or its answer lost, each result is recorded, and once."""
    taken = claims(fleet, 6)
    outcomes = ["delivered", "retry", "dead"] * 2
    results = [result(c, o, delay=60.0) for c, o in zip(taken, outcomes, strict=True)]
    fleet.run(recording(Unreliable(fleet.a, *faults), *results))

    found = fleet.rows("SELECT outcome, count(*) FROM outbox.attempt GROUP BY 1 ORDER BY 1")
    assert found == [("dead", 2), ("delivered", 2), ("retry", 2)]
    assert fleet.queue() == [(1, 1, False), (1, 1, False)]


def test_what_is_told(fleet: Fleet) -> None:
    """The recorder tells what became of each result."""
    taken = claims(fleet, 3)
    fleet.record(fleet.a, result(taken[2]))
    outcomes = ["retry", "dead", "delivered"]
    results = [result(c, o) for c, o in zip(taken, outcomes, strict=True)]
    results[2] = result(taken[2], attempt=9)

    assert sorted(fleet.run(recording(fleet.a, *results))) == ["dead", "late", "retry"]


def test_one_statement_for_many(fleet: Fleet) -> None:
    """Results are written in batches of at most 500."""
    store = Unreliable(fleet.a)
    fleet.run(recording(store, *map(result, claims(fleet, FLUSH_SIZE + 20))))

    assert store.batches == [FLUSH_SIZE, 20]
    assert fleet.queue() == []


@pytest.mark.parametrize("second", ["retry", "delivered", "dead"])
def test_two_results_of_one_delivery(fleet: Fleet, second: str) -> None:
    """Who stood still has one of the claim it lost and one of its next: the delivery ends once."""
    (first,) = claims(fleet, 1)
    fleet.execute("UPDATE outbox.delivery_queue SET lease_until = now() - interval '1 s'")
    (again,) = fleet.claim(fleet.a, UUID(first.subscription_id), 1)
    store = Unreliable(fleet.a)
    told = fleet.run(recording(store, result(first), result(again, second)))

    assert (told, store.batches) == (["delivered", "late"], [1, 1])
    assert fleet.queue() == []
    assert fleet.rows(
        "SELECT attempt, outcome FROM outbox.attempt ORDER BY attempt, outcome DESC"
    ) == [(1, "lost"), (1, "delivered"), (2, "late")]


def test_a_result_does_not_wait_for_others(fleet: Fleet) -> None:
    """A single result is written within moments, and the recorder goes on."""
    taken = claims(fleet, 2)

    async def one_after_the_other() -> None:
        heard = asyncio.Queue[str]()
        recorder = Recorder(fleet.a, lambda _lane, outcome, _due_in: heard.put_nowait(outcome))
        running = asyncio.create_task(recorder.run())
        for claim in taken:
            recorder.put("lane", result(claim))
            assert await asyncio.wait_for(heard.get(), 5) == "delivered"
        recorder.close()
        await running

    fleet.run(one_after_the_other())
    assert fleet.queue() == []


def test_a_lane_that_has_limits_by_now(fleet: Fleet) -> None:
    """Results of claims made before it had any count against them as well."""
    taken = claims(fleet, 2)
    lanes = {taken[0].delivery_id: "limited", taken[1].delivery_id: "free"}
    store = Unreliable(fleet.a)

    async def record() -> None:
        recorder = Recorder(store, lambda *_: None, lambda lane: lane == "limited")
        running = asyncio.create_task(recorder.run())
        for claim in taken:
            recorder.put(lanes[claim.delivery_id], result(claim))
        recorder.close()
        await running

    fleet.run(record())
    assert {lanes[made.delivery_id]: made.limited for made in store.results} == {
        "limited": True, "free": False,
    }  # fmt: skip


def test_close_without_results(fleet: Fleet) -> None:
    """A recorder that has nothing to write ends when it is closed."""
    assert fleet.run(recording(fleet.a)) == []


def test_a_410_disables_with_its_record(fleet: Fleet) -> None:
    """The subscription is disabled once, however often the writing fails."""
    (claim,) = claims(fleet, 1)
    store = Unreliable(fleet.a, "before", "after")
    fleet.run(recording(store, result(claim, "dead"), lane=claim.subscription_id, disable="gone"))

    assert fleet.attempts() == [(1, "dead", fleet.a.owner)]
    query = "SELECT state, state_reason, revision FROM outbox.subscription"
    assert fleet.rows(query) == [("disabled", "gone", 2)]
