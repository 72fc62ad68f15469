"""The audit beside workers: no false alarm while they run, and repairs that do no harm."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy.exc import DBAPIError

from outbox import WrongState, audit, subscriptions
from outbox.repairs import deliver_again
from tests.factories import BY, emit_many, event, rows, subscribe, value

from .conftest import LEASE, Fleet, result, until, working

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from uuid import UUID

    from sqlalchemy import Connection, Engine

    from outbox.worker.claim import Claim
    from outbox.worker.store import Store

BY_HAND = "facts_changed"  # PostgreSQL's own count: other tests of this database delete rows


def differing(engine: Engine) -> dict[str, int]:
    """What an audit finds, in slices of some rows."""
    report = audit.run(engine, audit.plan(engine, size=500))
    return {name: count for name, count in report.found.items() if name != BY_HAND}


def claim_all(fleet: Fleet, store: Store) -> list[Claim]:
    """What any lane has, with limits or without."""
    lanes = [str(id) for (id,) in fleet.rows("SELECT id FROM outbox.subscription ORDER BY id")]
    plain = fleet.run(store.claim(dict.fromkeys(lanes, 100), LEASE))
    return plain + fleet.run(store.claim_limited(dict.fromkeys(lanes, 100), LEASE)).claims


def record(fleet: Fleet, store: Store, claims: list[Claim], outcome: str) -> None:
    if claims:
        made = (result(each, outcome, limited=each.limited) for each in claims)
        fleet.record(store, *made)


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("plain", {}),
    ("limited", {"max_in_flight": 4}),
    ("stop", {"ordered": "stop"}),
    ("skip", {"ordered": "skip"}),
    ("paused", {}),
    ("gone", {}),
]


@pytest.fixture
def history(fleet: Fleet) -> Fleet:
    """Deliveries in every state, of subscriptions of every kind."""
    with fleet.database.engine.begin() as connection:
        made = {name: subscribe(connection, types=["a.*"], **given).id for name, given in KINDS}
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(
            "UPDATE outbox.subscription_change SET changed_at = changed_at - interval '1 day'"
        )
    fleet.emit(4, type="a.b", subject="x")
    fleet.emit(2, type="a.b", subject="y", key=None)
    fleet.fan_out()
    first = claim_all(fleet, fleet.a)
    record(fleet, fleet.a, first[0::5], "delivered")
    record(fleet, fleet.a, first[1::5], "retry")
    record(fleet, fleet.a, first[2::5], "dead")
    fleet.run(fleet.a.release(first[3::5], cut=True))
    fleet.expire_leases()
    fleet.execute("UPDATE outbox.limited_claim SET lease_until = now() - interval '1 ms'")
    second = claim_all(fleet, fleet.b)
    record(fleet, fleet.a, first[4::5], "delivered")  # too late, but a 2xx
    record(fleet, fleet.b, second[0::3], "retry")
    fleet.run(fleet.b.release(second[1::3], cut=False))
    with fleet.database.engine.begin() as connection:
        subscriptions.pause(connection, made["paused"], by=BY)
        subscriptions.remove(connection, made["gone"], by=BY)
    fleet.emit(2, type="a.b", subject="x")
    fleet.emit(1, type="b.c")
    return fleet


def test_history(history: Fleet) -> None:
    """Whatever workers and people did, it adds up."""
    assert differing(history.database.engine) == {}


def drain(fleet: Fleet) -> None:
    """Deliver everything, as a worker would."""
    fleet.expire_leases()
    fleet.execute("UPDATE outbox.limited_claim SET lease_until = now() - interval '1 ms'")
    with fleet.database.engine.begin() as connection:
        for id, state in rows(connection, "SELECT id, state FROM outbox.subscription"):
            if state == "paused":
                subscriptions.resume(connection, id, by=BY)
            if state != "removed":
                subscriptions.unblock(connection, id, by=BY)
    fleet.run(fleet.a.cancel_removed())
    for _ in range(50):
        fleet.fan_out()
        fleet.execute("UPDATE outbox.delivery_queue SET due_at = now()"
                      " WHERE due_at < 'infinity' AND due_at > now()")  # fmt: skip
        record(fleet, fleet.a, claim_all(fleet, fleet.a), "delivered")
        if not fleet.value("SELECT count(*) FROM outbox.delivery_queue"):
            return
    raise AssertionError(fleet.rows("SELECT * FROM outbox.delivery_queue"))


ENDS = """
SELECT e.id, d.subscription_id, count(*),
    count(a.outcome) FILTER (WHERE a.outcome IN ('delivered', 'dead', 'cancelled'))
FROM outbox.event e
JOIN outbox.delivery d ON d.event_id = e.id
LEFT JOIN outbox.attempt a ON a.delivery_id = d.id
    AND a.outcome IN ('delivered', 'dead', 'cancelled')
GROUP BY 1, 2
"""


def test_queues_from_the_facts(history: Fleet) -> None:
    """All queues and what hangs on them lost: after a repair everything ends, exactly once."""
    engine = history.database.engine
    before = audit.run(engine, audit.plan(engine)).account
    for table in ("event_queue", "delivery_queue", "subscription_type", "throttle",
                  "blocked_subject", "limited_claim"):  # fmt: skip
        history.execute(f"DELETE FROM outbox.{table}")  # noqa: S608 - names
    history.execute("DELETE FROM outbox.subscription WHERE ordered IS NOT NULL")

    found = differing(engine)
    assert {"queue_missing", "type_missing", "subscription_missing"} <= set(found)
    assert found["queue_missing"] == before["open"]

    audit.repair(engine, audit.plan(engine, size=7))

    assert differing(engine) == {}
    assert audit.run(engine, audit.plan(engine)).account == before
    assert history.value("SELECT count(*) FROM outbox.event_queue") == 2  # one matches nothing

    drain(history)
    ends = history.rows(ENDS)
    assert len(ends) == 6 * 6 + 2 * 5
    assert {(deliveries, ends) for _, _, deliveries, ends in ends} == {(1, 1)}
    assert differing(engine) == {}


def test_order_after_a_repair(fleet: Fleet) -> None:
    """A subject goes on with the delivery that was tried, when that was due; the others wait."""
    with fleet.database.engine.begin() as connection:
        lane = subscribe(connection, ordered="skip").id
    fleet.emit(3, subject="x")
    fleet.fan_out()
    (head,) = fleet.run(fleet.a.claim_limited({str(lane): 9}, LEASE)).claims
    fleet.record(fleet.a, result(head, "retry", delay=3600.0, limited=True))
    before = fleet.rows(QUEUE)
    fleet.execute("DELETE FROM outbox.delivery_queue")
    engine = fleet.database.engine
    audit.repair(engine, audit.plan(engine))

    assert fleet.rows(QUEUE) == before


QUEUE = "SELECT q::text FROM outbox.delivery_queue q ORDER BY delivery_id"


# Beside workers.


def careless(rng: Random, *statuses: int) -> httpx.MockTransport:
    """Receivers of every temper."""

    async def answer(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(rng.random() / 100)
        return httpx.Response(rng.choice(statuses))

    return httpx.MockTransport(answer)


TEMPERS = (*[200] * 12, 503, 500, 503, 500, 410)


class Life:
    """What hosts and people do for so many `days`, which are short."""

    def __init__(self, engine: Engine, rng: Random, days: int) -> None:
        self._days = days
        self._engine = engine
        self._rng = rng

    def go_on(self) -> None:
        pace = threading.Event()
        while self._days and not pace.wait(0.05):
            self._days -= 1
            # What is refused, and a deadlock, is undone as a whole.
            with suppress(DBAPIError, WrongState), self._engine.begin() as connection:
                subjects = [self._rng.choice([None, "x", "y"]) for _ in range(20)]
                ids = emit_many(connection, [event("a.b", subject=s) for s in subjects])
                self._interfere(connection, ids)

    def _interfere(self, connection: Connection, ids: list[UUID]) -> None:
        active = rows(connection, "SELECT id FROM outbox.subscription WHERE state = 'active'")
        deed = self._rng.randrange(8) if active else 7
        if deed > 2:
            self._put_right(connection)
            return
        (id,) = self._rng.choice(active)
        match deed:
            case 0:
                subscriptions.pause(connection, id, by=BY)
            case 1:
                subscriptions.remove(connection, id, by=BY)
            case 2:
                replay = value(connection, REPLAY)
                deliver_again(connection, [(each, id) for each in ids], replay)

    def _put_right(self, connection: Connection) -> None:
        """Let those go on that stand still, and make up for those that are gone."""
        found = rows(
            connection, "SELECT id, state FROM outbox.subscription WHERE state <> 'removed'"
        )
        for id, _ in found:
            subscriptions.resume(connection, id, by=BY)
            subscriptions.unblock(connection, id, by=BY)
        for _ in range(len(found), 4):
            subscribe_to_some(connection, ordered=self._rng.choice([None, "stop", "skip"]))


def subscribe_to_some(connection: Connection, **options: Any) -> None:
    subscribe(connection, types=["a.*"], schedule=[0, 0, 0], **options)


REPLAY = """
INSERT INTO outbox.replay (mode, counted, last_event, actor, command)
VALUES ('all', 1, outbox.uuid7(), 'ada', 'a test') RETURNING id
"""


@pytest.mark.parametrize("days", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_beside_workers(fleet: Fleet, days: int) -> None:
    """While two workers, hosts and people do their work, every audit finds that it adds up."""
    engine, rng = fleet.database.engine, Random(7)  # noqa: S311 - chance, not secrets
    with engine.begin() as connection:
        for options in ({}, {"max_in_flight": 3}, {"ordered": "stop"}, {"ordered": "skip"}):
            subscribe_to_some(connection, **options)
    found: list[dict[str, int]] = []

    async def audit_often() -> None:
        async with (
            working(fleet.database, careless(rng, *TEMPERS)),
            working(fleet.database, careless(rng, *TEMPERS)),
        ):
            living = asyncio.create_task(asyncio.to_thread(Life(engine, rng, days).go_on))
            while not living.done():
                found.append(await asyncio.to_thread(differing, engine))
            await living

    fleet.run(audit_often())

    assert found == [{}] * len(found)
    assert differing(engine) == {}
    assert len(found) > 1
    outcomes = {outcome for (outcome,) in fleet.rows("SELECT DISTINCT outcome FROM outbox.attempt")}
    assert {"delivered", "retry"} < outcomes


def test_repair_beside_workers(fleet: Fleet) -> None:
    """Half of the queue lost while workers send: repaired beside them, everything ends once."""
    engine, rng = fleet.database.engine, Random(7)  # noqa: S311 - chance, not secrets
    with engine.begin() as connection:
        for options in ({}, {"max_in_flight": 3}, {"ordered": "skip"}):
            subscribe_to_some(connection, **options)
    for subject in (None, "x", "y"):
        fleet.emit(30, type="a.b", subject=subject)

    def worker() -> AbstractAsyncContextManager[object]:
        return working(fleet.database, careless(rng, 200, 200, 503))

    async def lose_and_repair() -> None:
        async with worker(), worker():
            await until(lambda: fleet.value("SELECT count(*) > 50 FROM outbox.attempt"))
            for _ in range(3):
                await asyncio.to_thread(fleet.execute, LOSE_HALF)
                await asyncio.to_thread(audit.repair, engine, audit.plan(engine))
            await until(lambda: not fleet.value("SELECT count(*) FROM outbox.delivery_queue"), 30)

    fleet.run(lose_and_repair())

    assert differing(engine) == {}
    assert {row[2:] for row in fleet.rows(ENDS)} == {(1, 1)}
    assert len(fleet.rows(ENDS)) == 270


LOSE_HALF = "DELETE FROM outbox.delivery_queue WHERE random() < 0.5"
