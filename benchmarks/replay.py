"""What a replay of the whole log takes, and what live events feel of it.

A log of events that nobody got, and a subscription made after them. Counted is how long the
count takes; then the replay runs at a rate, through the real command, while a host goes on
emitting events for that subscription and for another. Half way the worker is killed
with SIGKILL and another takes over.

    python -m benchmarks.replay --events 1000000 --rate 1000

Prints a small table and one line of JSON. Exits 1 if an event was lost, or came twice
though it was not in flight when the worker was killed.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import TYPE_CHECKING, Any

import click
import psutil

from outbox import Event, database, emit, schema, subscriptions
from outbox.subscriptions import Author

from .database import LOOPBACK, Database, fresh
from .drain import server, surroundings
from .processes import Stuck, cli, output_of, receiver, wait_until, worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen
    from typing import LiteralString

    from sqlalchemy import Engine

    Run = dict[str, Any]

BY = Author("benchmark", "benchmarks.replay")
CONCURRENCY = 100
AT_THE_KILL = 3 * CONCURRENCY  # claims that may be lost: twice that are held, some not recorded
WARM_UP = 3.0  # seconds after the first delivery
TIMEOUT = 5.0  # seconds for a request; with it the lease, for which a kill is waited out
SAME, OTHER = "live.same", "live.other"

LOG: LiteralString = """
INSERT INTO outbox.event (type, tenant, subject, data)
SELECT 'invoice.paid', 'tenant/' || n %% 100, 'invoice/' || n, json_build_object(
    'id', 'in_' || n, 'customer', 'cus_4QFJOjw2pOmAGJ', 'amount', n,
    'lines', json_build_array(repeat('Subscription, team plan ', 8)))
FROM generate_series(%s::int + 1, %s::int) n
"""
FANNED_OUT: LiteralString = "DELETE FROM outbox.event_queue"
WAITS: LiteralString = """
SELECT count(*) AS events, coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), 0) AS p50_ms,
    coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms), 0) AS p99_ms
FROM (
    SELECT 1000 * extract(epoch FROM a.started_at - e.occurred_at) AS ms
    FROM outbox.event e
    JOIN outbox.delivery d ON d.event_id = e.id AND d.replay_id IS NULL
    JOIN outbox.attempt a ON a.delivery_id = d.id AND a.attempt = 1
    WHERE e.type = %s AND e.source = %s AND e.id >= outbox.uuid7_floor(now() - interval '1 day')
) w
"""
PROGRESS: LiteralString = "SELECT made, counted, state FROM outbox.replay"
FIRST: LiteralString = "SELECT count(*) AS n FROM outbox.attempt"
OPEN: LiteralString = """
SELECT (SELECT count(*) FROM outbox.event_queue) + (SELECT count(*) FROM outbox.delivery_queue) AS n
"""
ACCOUNT: LiteralString = """
SELECT count(*) AS deliveries, count(DISTINCT event_id) AS events,
    (SELECT count(*) FROM outbox.attempt WHERE outcome = 'delivered') AS delivered,
    (SELECT count(*) FROM outbox.attempt WHERE outcome = 'lost') AS lost,
    (SELECT count(*) FROM outbox.delivery WHERE replay_id IS NULL) AS live
FROM outbox.delivery WHERE replay_id IS NOT NULL
"""


@dataclass(slots=True)
class Host:
    """Emits events for both subscriptions in turn, a steady number a second, until told."""

    engine: Engine
    rate: float
    phase: str = "warm-up"
    emitted: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _idle: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Emit; `phase` says what is going on beside it."""
        begin = time.monotonic()
        for number, type in zip(count(), cycle((SAME, OTHER)), strict=False):
            if self._stop.wait(max(0.0, begin + number / self.rate - time.monotonic())):
                break
            with self.engine.begin() as connection:
                emit(connection, Event(type=type, source=self.phase, data={"n": number}))
            self.emitted += 1
        self._idle.set()

    def stop(self) -> None:
        """Let `run` return, and wait until it has."""
        self._stop.set()
        self._idle.wait()


@dataclass(slots=True)
class Memory:
    """The resident memory of programs over time, in MiB."""

    readings: dict[str, list[float]] = field(default_factory=dict)

    def read(self, name: str, pid: int) -> None:
        """Take one reading."""
        try:
            found = psutil.Process(pid).memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            return
        self.readings.setdefault(name, []).append(found)

    def told(self) -> dict[str, list[float]]:
        """Return for each program what it was early on, at its most, and at its end."""
        return {
            name: [round(each) for each in (found[min(5, len(found) - 1)], max(found), found[-1])]
            for name, found in self.readings.items()
        }


class Benchmark:
    """One database with a log, and what is measured on it."""

    def __init__(self, base: Database, url: str, events: int, rate: float) -> None:
        self._base = base
        self._events = events
        self._rate = rate
        self.engine = database.engine(base.url)
        self._fill(url)
        self.result: Run = {"events": events, "rate": rate}

    def _fill(self, url: str) -> None:
        with self.engine.begin() as connection:
            schema.apply(connection)
        for start in range(0, self._events, 50_000):
            self._base.do(LOG, [start, min(start + 50_000, self._events)])
            self._base.do(FANNED_OUT)
        with self.engine.begin() as connection:
            new = subscriptions.add(connection, url, ["invoice.*", SAME], by=BY, allow=LOOPBACK)[0]
            subscriptions.add(connection, url, [OTHER], by=BY, allow=LOOPBACK)
        self._to = str(new.id)
        for statement in ("VACUUM ANALYZE outbox.event", "VACUUM outbox.event_queue", "CHECKPOINT"):
            self._base.run(statement)

    def count(self) -> None:
        """Time the count, with the start of the command."""
        begin = time.monotonic()
        with cli(self._base.url, "replay", "--missing", "--dry-run", "--json") as process:
            counted = json.loads(output_of(process))["deliveries"]
        self.result |= {"count_seconds": time.monotonic() - begin, "counted": counted}

    def replay(self, host: Host, seconds: float, memory: Memory) -> None:
        """Replay, kill the worker half way, and wait until another has done the rest."""
        options = (f"--rate={self._rate:g}/s", "--yes", "--json", f"--subscription={self._to}")
        with working(self._base) as victim, working_host(host):
            wait_until(lambda: self._base.ask(FIRST)["n"] > 0, time.monotonic() + 60)
            time.sleep(WARM_UP)
            self._idle(host, seconds)
            with cli(self._base.url, "replay", "--missing", *options) as process:
                self._until_half(host, victim, process, memory)
                victim.kill()
                with working(self._base) as heir:
                    self._until_done(heir, process, memory)
                    self._idle(host, seconds)
                    host.stop()
                    wait_until(lambda: self._base.ask(OPEN)["n"] == 0, time.monotonic() + 120)

    def _idle(self, host: Host, seconds: float) -> None:
        """Let live events alone be delivered: before and after, for the machine is not alone."""
        host.phase = "idle"
        time.sleep(seconds)
        host.phase = "between"

    def _until_half(
        self, host: Host, victim: Popen[str], process: Popen[str], memory: Memory
    ) -> None:
        """Measure until half of it is made."""
        wait_until(lambda: self._made() > self._rate, time.monotonic() + 60)
        host.phase, begin, first = "replay", time.monotonic(), self._made()
        while (made := self._made()) < self._events // 2:
            if process.poll() is not None:
                raise Stuck("the command ended by itself")
            memory.read("worker", victim.pid)
            memory.read("command", process.pid)
            time.sleep(1)
        host.phase = "kill"
        self.result["rate_held"] = (made - first) / (time.monotonic() - begin)

    def _until_done(self, heir: Popen[str], process: Popen[str], memory: Memory) -> None:
        deadline = time.monotonic() + 120 + 4 * self._events / self._rate
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise Stuck("the deadline is over")
            memory.read("worker after", heir.pid)
            memory.read("command", process.pid)
            time.sleep(1)
        self.result["state"] = json.loads(output_of(process))["state"]

    def _made(self) -> int:
        return int(self._base.ask(PROGRESS).get("made", 0))

    def close(self, requests: int, distinct: int, emitted: int) -> None:
        """Draw up the account, and how long live events waited."""
        self.result |= self._base.ask(ACCOUNT)
        self.result |= {"requests": requests, "distinct": distinct, "emitted": emitted}
        for type in (SAME, OTHER):
            for phase in ("idle", "replay"):
                waits = self._base.ask(WAITS, [type, phase])
                self.result[f"{type} {phase}"] = {name: float(n) for name, n in waits.items()}

    @property
    def is_exact(self) -> bool:
        """Whether nothing was lost, and nothing doubled that was not in flight at the kill."""
        found = self.result
        whole = found["deliveries"] == found["events"] == found["counted"] == self._events
        arrived = found["distinct"] == self._events + found["emitted"] == found["delivered"]
        extra = found["requests"] - found["distinct"]
        return bool(whole and arrived and extra <= found["lost"] <= AT_THE_KILL)


def working(base: Database) -> Any:
    """Run a worker of one process."""
    return worker(
        base.url, processes=1, concurrency=CONCURRENCY, timeout=TIMEOUT, log_level="error"
    )


@contextmanager
def working_host(host: Host) -> Iterator[None]:
    """Let the host emit for as long as this."""
    threading.Thread(target=host.run).start()
    try:
        yield
    finally:
        host.stop()


def show(result: Run) -> None:
    """Print the table."""
    click.echo(f"count of {result['counted']:,}: {result['count_seconds']:.1f} s")
    click.echo(f"rate: asked for {result['rate']:,g}/s, held {result['rate_held']:,.1f}/s")
    click.echo(f"{'live events':<18}  {'p50 ms':>8}  {'p99 ms':>8}  {'events':>7}")
    for type in (SAME, OTHER):
        for phase in ("idle", "replay"):
            run = result[f"{type} {phase}"]
            click.echo(
                f"{type:<10}  {phase:<6}  {run['p50_ms']:>8,.1f}  {run['p99_ms']:>8,.1f}"
                f"  {run['events']:>7,.0f}"
            )
    for name, (early, most, late) in result["memory_mib"].items():
        click.echo(f"memory of {name}: {early} MiB early, {most} at most, {late} at the end")
    extra = result["requests"] - result["distinct"]
    click.echo(f"killed half way: {result['lost']} in flight, {extra} requests more than events")


@click.command(context_settings={"show_default": True})
@click.option("--events", default=20_000, help="In the log.")
@click.option("--rate", default=500.0, help="Deliveries a second, of the replay.")
@click.option("--live", default=50.0, help="Live events a second.")
@click.option("--seconds", default=20.0, help="So long without the replay, before and after.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(events: int, rate: float, live: float, seconds: float, database_url: str | None) -> None:
    """Measure a replay of the whole log."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    memory = Memory()
    with server(database_url) as base, fresh(base) as one, receiver() as sink:
        around = surroundings(base)
        run = Benchmark(one, sink.url, events, rate)
        host = Host(run.engine, live)
        try:
            run.count()
            run.replay(host, seconds, memory)
        except Stuck as error:
            sys.exit(f"Error: {error}")
        seen = sink.seen()
        run.close(seen.requests, seen.distinct, host.emitted)
        run.engine.dispose()
    run.result["memory_mib"] = memory.told()
    show(run.result)
    click.echo(json.dumps({"surroundings": around, **run.result}))
    if not run.is_exact:
        sys.exit("Error: an event was lost, or came twice without need")


if __name__ == "__main__":
    main()
