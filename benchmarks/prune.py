"""What it costs hosts and workers that a whole day of facts is dropped.

A day of the past has a million events, each delivered once. Hosts emit at a steady rate and
a worker delivers, first undisturbed, then while `outbox prune` drops the day.

    python -m benchmarks.prune --events 1000000

Prints how long the slowest statement of a host took, without and with it, how long the
prune took, and one line of JSON. Exits 1 if an event of the hosts was not delivered exactly
once, or if the day is still there.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import click
import psycopg

from outbox import Event, database, emit, retention, schema, subscriptions
from outbox.subscriptions import Author

from .database import LOOPBACK, Database, fresh
from .drain import server, surroundings
from .processes import Receiver, Stuck, receiver, wait_until, worker

if TYPE_CHECKING:
    from typing import LiteralString

BY = Author("benchmark", "benchmarks.prune")
DAY: LiteralString = """
SELECT outbox.make_partition(fact, current_date - 10),
    outbox.attach_partition(fact, current_date - 10)
FROM unnest(ARRAY['event', 'delivery', 'attempt']) AS fact
"""
FILL: LiteralString = """
WITH made AS (
    SELECT overlay(outbox.uuid7_floor(current_date - 10 + n * interval '1 ms' * %(step)s)::text
            PLACING lpad(to_hex(n), 12, '0') FROM 25)::uuid AS id
    FROM generate_series(0, %(events)s - 1) AS n
), event AS (
    INSERT INTO outbox.event (id, type, data)
    SELECT id, 'old.invoice', json_build_object('id', id, 'text', repeat('x', 200)) FROM made
), delivery AS (
    INSERT INTO outbox.delivery (id, event_id, subscription_id)
    SELECT id, id, (SELECT id FROM outbox.subscription) FROM made
)
INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status, started_at, duration_ms)
SELECT id, 1, 'delivered', 200, now(), 10 FROM made
"""
LEFT: LiteralString = """
SELECT (SELECT count(*) FROM outbox.attempt a JOIN outbox.delivery d ON d.id = a.delivery_id
        WHERE a.outcome = 'delivered'
            AND a.delivery_id >= outbox.uuid7_floor(current_date)) AS delivered,
    to_regclass('outbox.event_' || to_char(current_date - 10, 'YYYYMMDD')) IS NULL AS dropped
"""


class Hosts:
    """Threads that emit at a steady rate and remember how long each transaction took."""

    def __init__(self, url: str, rate: float, count: int) -> None:
        self.seconds: list[float] = []
        self._engine = database.engine(url)
        self._pause = count / rate
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._emit) for _ in range(count)]

    def __enter__(self) -> Hosts:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._engine.dispose()

    def _emit(self) -> None:
        while not self._ending.wait(self._pause):
            began = time.monotonic()
            with self._engine.begin() as connection:
                emit(connection, Event(type="invoice.paid", data={"at": began}))
            self.seconds.append(time.monotonic() - began)


def prepare(base: Database, sink: Receiver, events: int) -> float:
    """Install the schema and the old day; return how long that took, in seconds."""
    began = time.monotonic()
    engine = database.engine(base.url)
    with engine.begin() as connection:
        schema.apply(connection)
        subscriptions.add(connection, sink.url, ["invoice.*"], by=BY, allow=LOOPBACK)
        retention.keep_for(connection, 7 * retention.DAY, by=BY)
    engine.dispose()
    with psycopg.connect(database.conninfo(base.url, application_name="outbox-benchmark")) as raw:
        raw.execute(DAY)
        raw.execute(FILL, {"events": events, "step": 80_000_000 // events})
        raw.execute("TRUNCATE outbox.event_queue")
    base.run("VACUUM ANALYZE")
    return time.monotonic() - began


def prune(base: Database) -> tuple[float, dict[str, Any]]:
    """Run the command; return its seconds and what it said."""
    began = time.monotonic()
    command = [sys.executable, "-m", "outbox.cli", "--database-url", base.url, "prune"]
    done = subprocess.run(  # noqa: S603 - our own program
        [*command, "--yes", "--json"], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise Stuck(done.stderr)
    return time.monotonic() - began, json.loads(done.stdout)


def measure(base: Database, events: int, rate: float, seconds: float) -> dict[str, Any]:
    """Emit undisturbed for so long, then beside the prune."""
    with receiver() as sink, fresh(base) as one:
        filled = prepare(one, sink, events)
        with worker(one.url, processes=1, concurrency=100):
            with Hosts(one.url, rate, 4) as quiet:
                time.sleep(seconds)
            with Hosts(one.url, rate, 4) as busy:
                time.sleep(1)
                took, said = prune(one)
                time.sleep(1)
            emitted = len(quiet.seconds) + len(busy.seconds)
            wait_until(lambda: one.ask(LEFT)["delivered"] >= emitted, time.monotonic() + 60)
        seen = sink.seen()
        return {
            "events": events, "filled_s": filled, "pruned_s": took, "said": said,
            "quiet": spread(quiet.seconds), "busy": spread(busy.seconds), "emitted": emitted,
            "requests": seen.requests, "distinct": seen.distinct, **one.ask(LEFT),
        }  # fmt: skip


def spread(seconds: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest, in milliseconds."""
    ordered = sorted(seconds)
    places = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": len(ordered) - 1}
    return {name: ordered[place] * 1_000 for name, place in places.items()}


@click.command(context_settings={"show_default": True})
@click.option("--events", default=200_000, help="Of the day that is dropped.")
@click.option("--rate", default=200.0, help="Events a second, of the hosts.")
@click.option("--seconds", default=10.0, help="Undisturbed for so long.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(events: int, rate: float, seconds: float, database_url: str | None) -> None:
    """Measure hosts without and with a day being dropped beside them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    with server(database_url) as base:
        around = surroundings(base)
        try:
            run = measure(base, events, rate, seconds)
        except Stuck as error:
            sys.exit(f"Error: {error}")
    click.echo(f"{'host transactions, ms':<22}  {'p50':>8}  {'p99':>8}  {'max':>8}")
    for title in ("quiet", "busy"):
        click.echo(f"{title:<22}  " + "  ".join(f"{ms:>8.1f}" for ms in run[title].values()))
    click.echo(f"the day of {events:,} events was dropped in {run['pruned_s']:.1f} s")
    click.echo(json.dumps({"surroundings": around, "run": run}))
    exact = run["emitted"] == run["distinct"] == run["delivered"]
    if not run["dropped"] or not exact:
        sys.exit("Error: the day is still there, or an event was not delivered exactly once")


if __name__ == "__main__":
    main()
