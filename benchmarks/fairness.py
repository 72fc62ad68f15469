"""What one receiver that hangs costs the others.

Twenty subscriptions, each with events of its own. Measured twice, without and with one of
them hanging until the deadline while thousands of its deliveries wait:

- how many deliveries a second the other nineteen get when all of theirs wait as well;
- how long they wait, from the host's commit to the start of the request, at a steady rate.

    python -m benchmarks.fairness --rounds 3

Prints a row for each run, the ratios of the medians, and one line of JSON. Exits 1 if a
delivery of the others was not made exactly once.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from itertools import cycle, islice
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from outbox import Event, database, emit, emit_many, schema, subscriptions
from outbox.subscriptions import Author

from .database import BATCH, LOOPBACK, Database, fresh
from .drain import server, surroundings
from .processes import Receiver, Stuck, receiver, wait_until, worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import LiteralString

    from sqlalchemy import Engine

    Run = dict[str, Any]

OTHERS = 19
WAITING = 10_000  # deliveries of the one that hangs
TIMEOUT = 5.0  # seconds that each of its requests hangs
BY = Author("benchmark", "benchmarks.fairness")

WAITS: LiteralString = """
SELECT count(*) AS delivered,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM a.started_at - e.occurred_at))
        * 1000 AS p50_ms,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM a.started_at - e.occurred_at))
        * 1000 AS p99_ms
FROM outbox.attempt a
JOIN outbox.delivery d ON d.id = a.delivery_id
JOIN outbox.event e ON e.id = d.event_id
WHERE a.outcome = 'delivered'
"""


def prepare(base: Database, sink: Receiver, *, hanging: bool) -> Engine:
    """Install the schema and the subscriptions; return the host's engine."""
    engine = database.engine(base.url)
    with engine.begin() as connection:
        schema.apply(connection)
        for number in range(OTHERS):
            subscriptions.add(
                connection, f"{sink.url}/{number}", [f"other.{number}"], by=BY, allow=LOOPBACK
            )
        if hanging:
            subscriptions.add(connection, f"{sink.url}/hang", ["hanging"], by=BY, allow=LOOPBACK)
    if hanging:
        fill(engine, ("hanging",), WAITING)
    return engine


def fill(engine: Engine, types: tuple[str, ...], count: int) -> None:
    """Emit `count` events, of each type in turn."""
    todo = [Event(type=type, data={"n": n}) for n, type in enumerate(islice(cycle(types), count))]
    for start in range(0, count, BATCH):
        with engine.begin() as connection:
            emit_many(connection, todo[start : start + BATCH])


def types() -> tuple[str, ...]:
    """Return the types of the others."""
    return tuple(f"other.{number}" for number in range(OTHERS))


def drain(base: Database, sink: Receiver, events: int, *, hanging: bool) -> Run:
    """Let all of the others' deliveries wait; return how many a second are made."""
    sink.forget()
    engine = prepare(base, sink, hanging=hanging)
    fill(engine, types(), events)
    with working(base):
        wait_until(lambda: base.ask(WAITS)["delivered"] >= events, time.monotonic() + 120)
    engine.dispose()
    return {"rate": sink.seen().rate, "distinct": sink.seen().distinct}


def steady(base: Database, sink: Receiver, rate: float, seconds: float, *, hanging: bool) -> Run:
    """Emit `rate` events a second for so long; return how long they waited."""
    sink.forget()
    engine = prepare(base, sink, hanging=hanging)
    count = round(rate * seconds)
    with working(base):
        wait_until(lambda: is_at_work(base, hanging=hanging), time.monotonic() + 60)
        begin = time.monotonic()
        for number, type in enumerate(islice(cycle(types()), count)):
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            with engine.begin() as connection:
                emit(connection, Event(type=type, data={"n": number}))
        wait_until(lambda: base.ask(WAITS)["delivered"] >= count, time.monotonic() + 60)
    engine.dispose()
    return base.ask(WAITS) | {"distinct": sink.seen().distinct}


def is_at_work(base: Database, *, hanging: bool) -> bool:
    """Return whether the worker is there, and the deliveries of the one that hangs wait."""
    at_work = base.ask(AT_WORK)
    waiting = at_work["claims"] > 0 and at_work["events"] == 0
    return at_work["workers"] > 0 and (waiting or not hanging)


AT_WORK: LiteralString = """
SELECT (SELECT count(*) FROM outbox.worker) AS workers,
    (SELECT count(*) FROM outbox.event_queue) AS events,
    (SELECT count(*) FROM outbox.delivery_queue WHERE lease_owner IS NOT NULL) AS claims
"""


def working(base: Database) -> Any:
    """Run a worker with one process and a short deadline."""
    return worker(base.url, processes=1, concurrency=100, timeout=TIMEOUT)


def measure(base: Database, events: int, rate: float, seconds: float, rounds: int) -> Iterator[Run]:
    """Make all runs, in turns."""
    with receiver() as sink:
        for _ in range(rounds):
            for hanging in (False, True):
                with fresh(base) as one:
                    drained = drain(one, sink, events, hanging=hanging)
                with fresh(base) as one:
                    waited = steady(one, sink, rate, seconds, hanging=hanging)
                yield {
                    "hanging": hanging,
                    "rate": drained["rate"],
                    "p50_ms": float(waited["p50_ms"]),
                    "p99_ms": float(waited["p99_ms"]),
                    "exact": (drained["distinct"], waited["distinct"])
                    == (events, round(rate * seconds)),
                }


def show(title: str, run: Run) -> None:
    """Print one row."""
    numbers = f"{run['rate']:>10,.0f}  {run['p50_ms']:>8,.1f}  {run['p99_ms']:>8,.1f}"
    click.echo(f"{title:<22}  {numbers}")


def middle(runs: list[Run]) -> Run:
    """Return the medians of runs of one kind."""
    return {name: median(run[name] for run in runs) for name in ("rate", "p50_ms", "p99_ms")}


@click.command(context_settings={"show_default": True})
@click.option("--events", default=9_500, help="Of the others, in a drain.")
@click.option("--rate", default=200.0, help="Events a second, when it is steady.")
@click.option("--seconds", default=15.0, help="So long.")
@click.option("--rounds", default=3, help="The median of so many counts.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(events: int, rate: float, seconds: float, rounds: int, database_url: str | None) -> None:
    """Measure nineteen receivers without and with one beside them that hangs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    click.echo(f"{'':<22}  {'a second':>10}  {'p50 ms':>8}  {'p99 ms':>8}")
    runs = []
    with server(database_url) as base:
        around = surroundings(base)
        try:
            for run in measure(base, events, rate, seconds, rounds):
                show("one of 20 hangs" if run["hanging"] else "19", run)
                runs.append(run)
        except Stuck as error:
            sys.exit(f"Error: {error}")
    without, with_ = (
        middle([r for r in runs if r["hanging"] is hanging]) for hanging in (False, True)
    )
    ratios = {name: with_[name] / without[name] for name in without}
    click.echo(f"{'median, with / without':<22}  {ratios['rate']:>10.2f}  "
               f"{ratios['p50_ms']:>8.2f}  {ratios['p99_ms']:>8.2f}")  # fmt: skip
    click.echo(json.dumps({"surroundings": around, "ratios": ratios, "runs": runs}))
    if not all(run["exact"] for run in runs):
        sys.exit("Error: not every event of the others was delivered exactly once")


if __name__ == "__main__":
    main()
