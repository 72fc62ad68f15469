"""What a worker counts, and that it is what the database says."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from outbox import subscriptions
from outbox.backlog import HELD, look
from outbox.delivery_filter import ERROR_CLASSES
from outbox.worker.claim import Claim
from outbox.worker.exposition import exposed
from outbox.worker.ledger import SILENCE, Ledger
from outbox.worker.look import Look, note
from outbox.worker.monitor import STUCK, Monitor, Post, unhealthy, unready
from outbox.worker.outcome import Judgement, Reply
from outbox.worker.series import (
    BACKLOG,
    CATALOGUE,
    CLASSES,
    COUNTED,
    DATABASE,
    DELIVERIES,
    EVENTS,
    HAD,
    HOLDS,
    LATENCY,
    MADE,
    OLDEST,
    PROCESSES,
    REQUESTS,
    START,
    WIDTH,
    WORKERS,
    error_class,
)
from outbox.worker.watch import Load, Watch, latency
from tests.factories import BY, emit_many, event, subscribe

from .conftest import result, until, working

if TYPE_CHECKING:
    from outbox.worker.ledger import Row
    from outbox.worker.process import Process

    from .conftest import Fleet

LOAD = Load(in_use=3, free=7, waiting=2, unrecorded=1, open=1)


def samples(page: bytes) -> dict[str, float]:
    """Each sample of a page by its name and its labels, as a query would name it."""
    return {
        sample.name + "".join(f"[{value}]" for _, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def page(ledger: Ledger, now: float | None = None) -> dict[str, float]:
    return samples(exposed(ledger.totals(time.monotonic() if now is None else now)))


def id_at(seconds: float) -> str:
    """A UUIDv7 of that moment."""
    return str(UUID(int=(round(seconds * 1000) << 80) | (7 << 76) | (2 << 62)))


def claim(**changes: Any) -> Claim:
    made = Claim(
        delivery_id=id_at(1_000.1), subscription_id="s", event_id=id_at(1_000), attempt=1,
        failures=0, revision=1, took_over=False, type="a.b", tenant=None, subject=None,
        source=None, data="{}", occurred_at=datetime(2026, 1, 1, tzinfo=UTC), traceparent=None,
    )  # fmt: skip
    return made._replace(**changes)


def attempted(watch: Watch, outcome: str, *, ended_at: float = 1_001.0) -> None:
    reply = Reply(200 if outcome == "delivered" else 503, (), b"", None, None)
    judgement = Judgement("delivered") if outcome == "delivered" else Judgement("retry", delay=1.0)
    watch.attempted(claim(), reply, judgement, ended_at=ended_at, seconds=0.02)


# Where numbers lie.


def test_each_series_has_its_own_place() -> None:
    """No two series share a number, and all have room."""
    ends = [START[series.name] + series.width for series in CATALOGUE]

    assert len(START) == len(CATALOGUE)
    assert [START[series.name] for series in CATALOGUE[1:]] == ends[:-1]
    assert ends[-1] == WIDTH


def test_every_result_has_a_series() -> None:
    """Whatever the log of attempts can say has its class, however odd the status."""
    for status in (100, 199, 302, 404, 503, 599, 600, 999):
        assert error_class(status, None) in CLASSES
    for error in ERROR_CLASSES:
        assert error_class(None, error) in CLASSES
    assert error_class(None, "of a later version") in CLASSES
    assert error_class(204, None) == error_class(None, None) == ""


def test_processes_add_up() -> None:
    """What two processes have counted is served as one sum; the oldest buckets hold the newer."""
    ledger = Ledger(2)
    for row, ended_at in zip(ledger.rows, (1_000.004, 1_000.5), strict=True):
        attempted(Watch(row), "delivered", ended_at=ended_at)
    found = page(ledger)

    assert found["outbox_delivery_latency_seconds_count"] == 2
    assert found["outbox_delivery_latency_seconds_sum"] == pytest.approx(0.504)
    assert found["outbox_delivery_latency_seconds_bucket[0.005]"] == 1
    assert found["outbox_delivery_latency_seconds_bucket[0.25]"] == 1
    assert found["outbox_delivery_latency_seconds_bucket[0.5]"] == 2
    assert found["outbox_delivery_latency_seconds_bucket[+Inf]"] == 2
    assert found["outbox_request_duration_seconds_count"] == 2


def test_a_dead_process_leaves_what_it_counted() -> None:
    """Counters stand, and its successor counts on; what it had in hand is gone with it."""
    ledger = Ledger(2)
    for row in ledger.rows:
        watch = Watch(row)
        watch.recorded(result(claim()), "delivered")
        watch.holds(LOAD, now=100.0)
    ledger.rows[1].live(100.0 + SILENCE)
    later = 100.0 + SILENCE + 0.1

    assert ledger.total(DELIVERIES, later) == ledger.total(DELIVERIES, 100.0)
    assert ledger.total(PROCESSES, 100.0) == [2.0]
    assert ledger.total(PROCESSES, later) == [1.0]
    Watch(ledger.rows[0]).recorded(result(claim()), "delivered")
    assert page(ledger, later)["outbox_deliveries_total[][delivered]"] == 3
    assert page(ledger, later)["outbox_slots[in_use]"] == 3


def test_nobody_can_make_series() -> None:
    """A page of everything that can ever be counted is bounded, and so is a scrape."""
    ledger = Ledger(1)
    for series in (*COUNTED, *HAD):
        for label in series.values:
            ledger.rows[0].observe(series, 1) if series.bounds else ledger.rows[0].add(
                series, label
            )

    assert len(page(ledger)) < 400


def test_what_is_not_known_is_not_served() -> None:
    """Without a look at the database there is no backlog, rather than one of zero."""
    assert not [name for name in page(Ledger(1)) if "backlog" in name or "held" in name]


# When the time of a delivery begins.


@pytest.mark.parametrize(
    ("made_at", "scheduled", "begins"),
    [
        (1_000.1, None, 1_000.0),
        (1_600.1, 1_600.0, 1_600.0),  # it was to be delivered later
        (1_000.1, 500.0, 1_000.0),  # or earlier than it was stored
        (3_000.0, None, 1_000.0),  # the workers were away: that is latency
        (90_000.0, None, 90_000.0),  # a replay
    ],
)
def test_latency(made_at: float, scheduled: float | None, begins: float) -> None:
    """The time of a delivery counts from its event, or when this was due, or from its replay."""
    seconds = latency(claim(delivery_id=id_at(made_at), scheduled=scheduled), 90_000.5)

    assert seconds == pytest.approx(90_000.5 - begins)


def test_clocks_may_differ() -> None:
    """A worker whose clock is behind the database's counts no negative time."""
    ledger = Ledger(1)
    attempted(Watch(ledger.rows[0]), "delivered", ended_at=999.0)

    assert page(ledger)["outbox_delivery_latency_seconds_sum"] == 0


def test_what_sent_nothing_is_no_request() -> None:
    """A delivery that is too old is dead without a request, and none is counted."""
    ledger = Ledger(1)
    reply, judgement = Reply(None, (), b"", None, None), Judgement("dead", reason="too old")
    Watch(ledger.rows[0]).attempted(claim(), reply, judgement, ended_at=1.0, seconds=0.0)

    assert sum(ledger.total(REQUESTS, 0.0)) == sum(ledger.total(LATENCY, 0.0)) == 0


# Whether it is well.


def test_healthy() -> None:
    """A loop that stands still for half a minute is not healthy; a new process is."""
    ledger = Ledger(2)
    now = time.monotonic()

    assert unhealthy(ledger.rows, now) == []
    ledger.rows[1].live(now - STUCK - 1)
    assert unhealthy(ledger.rows, now) == ["process 1: its loop has not turned for 31 s"]


def test_ready() -> None:
    """A process is ready once it is registered, and no longer when it is gone."""
    ledger = Ledger(2)
    now = time.monotonic()
    ledger.rows[0].ready(True)

    assert unready(ledger.rows, now) == ["process 1: not registered"]
    ledger.rows[1].ready(True)
    assert unready(ledger.rows, now) == []
    ledger.rows[0].live(now - SILENCE - 1)
    assert unready(ledger.rows, now) == ["process 0: not running"]


def test_a_restarted_process_is_not_ready_yet() -> None:
    """What its predecessor said does not count for it."""
    row = Ledger(1).rows[0]
    row.ready(True)
    Watch(row).started(1.0)

    assert not row.is_ready


def test_readyz_asks_the_database(fleet: Fleet) -> None:
    """It tells of another schema in words, and asks at most once a second."""
    post = Post(Ledger(1))
    post.row.ready(True)
    monitor = Monitor(post, fleet.a, fleet.database.url)
    fleet.execute("ALTER TABLE outbox.schema_version RENAME TO away")
    try:
        first = fleet.run(monitor.readyz())
    finally:
        fleet.execute("ALTER TABLE outbox.away RENAME TO schema_version")

    assert first.status == 503
    assert first.body.startswith(b"schema: ")
    assert fleet.run(monitor.readyz()) == first
    assert fleet.run(Monitor(post, fleet.a, fleet.database.url).readyz()).status == 200


# What waits.


def test_backlog(fleet: Fleet) -> None:
    """The gauges say what `outbox status` says."""
    with fleet.database.engine.begin() as connection:
        stopped = subscribe(connection, name="stopped")
        subscribe(connection, name="works")
        emit_many(connection, [event()] * 3)
    fleet.fan_out()
    with fleet.database.engine.begin() as connection:
        subscriptions.pause(connection, stopped.id, by=BY)
        emit_many(connection, [event()])
        backlog, _ = look(connection)
    ledger = Ledger(1)
    fleet.run(Look(fleet.database.url, ledger.whole).refresh())
    found = page(ledger)

    assert found["outbox_database_up"] == 1
    assert found["outbox_workers"] == 2
    assert found["outbox_backlog[event][due]"] == backlog.not_fanned_out.number == 1
    assert found["outbox_backlog[delivery][due]"] == backlog.due.number == 3
    assert found["outbox_backlog[delivery][held]"] == found["outbox_held[paused]"] == 3
    assert found["outbox_oldest_waiting_seconds[delivery]"] > 0


def test_looks_are_rare(fleet: Fleet) -> None:
    """Two scrapes at once, or one after the other, look at the database once."""
    ledger = Ledger(1)
    look = Look(fleet.database.url, ledger.whole)
    fleet.together(look.refresh(), look.refresh())
    with fleet.database.engine.begin() as connection:
        emit_many(connection, [event()])
    fleet.run(look.refresh())

    assert page(ledger)["outbox_backlog[event][due]"] == 0


def test_a_database_that_is_away(fleet: Fleet) -> None:
    """The page is served all the same, says so, and shows nothing old."""
    ledger = Ledger(1)
    with fleet.database.engine.begin() as connection:
        note(ledger.whole, look(connection)[0], 2)
    fleet.run(Look("postgresql://nobody@127.0.0.1:1/none", ledger.whole).refresh())
    found = page(ledger)

    assert found["outbox_database_up"] == 0
    assert not [name for name in found if "backlog" in name or name == "outbox_workers"]


def test_every_state_has_a_gauge() -> None:
    """What the database can tell of has its place."""
    assert len(HOLDS.values) == len(HELD)
    assert {queue for queue, _ in BACKLOG.values} == {queue for (queue,) in OLDEST.values}
    assert DATABASE.values == WORKERS.values == ((),)


# A worker at work.


def numbers(process: Process) -> Row:
    return process._post.row


def counted(process: Process) -> dict[str, int]:
    """Attempts by their outcome, as they were counted."""
    found: dict[str, int] = {}
    for (outcome, _), number in zip(
        DELIVERIES.values, numbers(process).read(DELIVERIES), strict=True
    ):
        found[outcome] = found.get(outcome, 0) + int(number)
    return {outcome: number for outcome, number in found.items() if number}


def test_counts_are_those_of_the_log(fleet: Fleet) -> None:
    """After deliveries, failures and lost attempts the sums are what the tables say."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(410 if request.url.path == "/gone" else 200)

    async def run() -> dict[str, int]:
        async with working(fleet.database, httpx.MockTransport(answer)) as process:
            await until(lambda: sum(counted(process).values()) == 14)
        assert process._post.ledger.total(EVENTS, 0.0)[0] >= 12
        assert numbers(process).read(MADE)[0] >= 12
        assert sum(numbers(process).read(LATENCY)[:-1]) == 12
        return counted(process)

    with fleet.database.engine.begin() as connection:
        lane = subscribe(connection, url="https://hooks.example/ok", types=["a.b"]).id
        subscribe(connection, url="https://hooks.example/gone", types=["a.c"])
    fleet.emit(type="a.b")
    fleet.fan_out()
    fleet.claim(fleet.a, lane)  # and never heard of again
    fleet.expire_leases()
    fleet.emit(11, type="a.b")
    fleet.emit(type="a.c")
    found = asyncio.run(run())
    logged = fleet.rows("SELECT outcome, count(*) FROM outbox.attempt GROUP BY 1")

    assert found == dict(logged) == {"delivered": 12, "dead": 1, "lost": 1}
