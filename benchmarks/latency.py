"""How soon the receiver hears of an event, at a steady rate.

A host emits so many events a second, each in a transaction of its own; the real
`outbox-worker` delivers them to a receiver on this machine. Counted is the time from the
return of the host's COMMIT to the first byte of the request. The loop is open: when each
event is due is fixed beforehand. Each rate is measured without the bell and with it
(`outbox.ring` after the commit), after the raw client has posted the same bytes one at a
time at the same rate: from its call to the first byte at the same receiver.

    python -m benchmarks.latency --rate 10 --rate 100 --rate 500 --seconds 60

Prints a row for each run and, at the end, one line of JSON. Exits 1 if the receiver did
not get each event exactly once.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from .database import ATTEMPTS, OPEN, Database, fresh
from .drain import server, surroundings
from .open_loop import Emitted, Host, Pace
from .processes import Stuck, bare_requests, cpu_seconds, receiver, wait_until, worker
from .report import Table, microseconds, milliseconds

if TYPE_CHECKING:
    from collections.abc import Generator

    from .processes import Receiver

    Run = dict[str, Any]

BARE_SECONDS = 5.0  # of the raw client, at each rate
WARM_UP = 200  # events, as fast as they come, before anything is counted
PATIENCE = 30.0  # seconds for the last to arrive
COLUMNS = {
    "events": ("events", ",.0f"),
    "p50_ms": ("  p50 ms", ",.1f"),
    "p95_ms": ("  p95 ms", ",.1f"),
    "p99_ms": ("  p99 ms", ",.1f"),
    "longest_ms": ("longest ms", ",.1f"),
    "ratio": ("of bare", ",.1f"),
    "commit_p50_ms": ("commit p50 ms", ",.1f"),
    "ring_p50_ms": ("ring p50 ms", ",.1f"),
    "late_p99_ms": ("late p99 ms", ",.1f"),
    "sender_us": ("sender µs", ",.0f"),
    "postgresql_us": ("PostgreSQL µs", ",.0f"),
}
TABLE = Table(f"{'a second':>8}  {'run':<12}", COLUMNS)


def bare(sink: Receiver, rate: float) -> Run:
    """Let the raw client post one at a time; return how long each took to arrive."""
    sink.forget()
    count = max(2, round(rate * BARE_SECONDS))
    found = bare_requests(sink.url, requests=count, rate=rate)
    return {"run": "bare", "rate": rate, "events": count, **found}


def measure(base: Database, sink: Receiver, pace: Pace, sender: int) -> Run:
    """Emit at this pace beside the worker that is `sender`; return what came of it."""
    sink.forget()
    pids = {"sender": sender, "postgresql": base.postmaster()}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    with Host(base, pace) as host:
        host.wait()
    emitted = host.taken()
    wait_until(lambda: sink.seen().requests >= len(emitted), time.monotonic() + PATIENCE)
    wait_until(lambda: base.ask(OPEN)["n"] == 0, time.monotonic() + PATIENCE)
    return {
        "run": "with bell" if pace.bell else "without bell",
        "rate": pace.rate,
        "exact": sink.seen().requests == len(emitted),
        **{f"{name}_us": microseconds(before[name], cpu_seconds(pid), len(emitted))
           for name, pid in pids.items()},
        **account(emitted, sink.answers()),
    }  # fmt: skip


def account(emitted: list[Emitted], answers: dict[str, float]) -> Run:
    """Return the figures of what was emitted, given when each id arrived."""
    arrived = [event for event in emitted if event.id in answers]
    rings = [event.rang - event.committed for event in emitted if event.rang > event.committed]
    return {
        "events": len(emitted),
        "lost": len(emitted) - len(arrived),
        **milliseconds([answers[event.id] - event.committed for event in arrived]),
        **milliseconds([event.committed - event.began for event in emitted], "commit_"),
        **milliseconds([event.began - event.due for event in emitted], "late_"),
        **milliseconds(rings, "ring_"),
    }


def runs_at(
    server: Database, sink: Receiver, rate: float, seconds: float, processes: int
) -> Generator[Run, None, None]:
    """Make the runs of one rate: the raw client, then the worker without and with the bell."""
    yardstick = bare(sink, rate)
    yield yardstick
    total = round(rate * seconds)
    with fresh(server) as base:
        base.install(sink.url)
        sink.forget()
        with worker(base.url, processes=processes, concurrency=100) as process:
            base.emit(WARM_UP)
            wait_until(lambda: sink.seen().requests >= WARM_UP, time.monotonic() + PATIENCE)
            for bell in (False, True):
                run = measure(base, sink, Pace(rate, total, bell=bell), process.pid)
                yield {**run, "ratio": run["p50_ms"] / yardstick["p50_ms"]}
        found = base.ask(ATTEMPTS)
    if not found["attempts"] == found["delivered"] == 2 * total + WARM_UP:
        raise Stuck(f"{found['attempts']} attempts for {2 * total + WARM_UP} events")


@click.command(context_settings={"show_default": True})
@click.option("--rate", "rates", default=(10.0, 100.0, 500.0), multiple=True,
              help="Events a second; give it again.")  # fmt: skip
@click.option("--seconds", default=60.0, help="For each rate, without the bell and with it.")
@click.option("--processes", default=1, help="Of the worker.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(
    rates: tuple[float, ...], seconds: float, processes: int, database_url: str | None
) -> None:
    """Measure how long it takes from a commit to the receiver."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    TABLE.head()
    runs: list[Run] = []
    with server(database_url) as base, receiver() as sink:
        around = surroundings(base)
        try:
            for rate in rates:
                with closing(runs_at(base, sink, rate, seconds, processes)) as found:
                    for run in found:
                        TABLE.row(f"{rate:>8g}  {run['run']}", run)
                        runs.append(run)
        except Stuck as error:
            sys.exit(f"Error: {error}")
    load = {"seconds": seconds, "processes": processes}
    click.echo(json.dumps({"load": load, "surroundings": around, "runs": runs}))
    if not all(run["exact"] and not run["lost"] for run in runs if run["run"] != "bare"):
        sys.exit("Error: not every event was delivered exactly once")


if __name__ == "__main__":
    main()
