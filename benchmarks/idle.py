"""What a worker costs that has nothing to do.

Measured with no worker, with one process and with four, after each has delivered a few
events: CPU of the worker and, beyond that with no worker, of PostgreSQL; statements, which
are counted on their way to the server; transactions, as `pg_stat_database` has them; memory.

    python -m benchmarks.idle --processes 1 --processes 4 --seconds 60

Prints a row for each and, at the end, one line of JSON. Exits 1 if the few events were not
delivered exactly once.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from .database import OPEN, Database, fresh
from .drain import server, surroundings
from .memory import rss_mib, shared_out_mib
from .processes import Stuck, cpu_seconds, receiver, wait_until, worker
from .report import Table
from .wiretap import Wiretap, tapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen
    from typing import LiteralString

    from .processes import Receiver

    Run = dict[str, Any]

EVENTS = 1_000  # delivered before it is idle
PATIENCE = 60.0  # seconds for them
COLUMNS = {
    "worker_cpu": ("worker CPU", ".2%"),
    "postgresql_cpu": ("PostgreSQL CPU", ".2%"),
    "statements": ("statements/s", ",.1f"),
    "transactions": ("transactions/s", ",.1f"),
    "connections": ("connections", ",.0f"),
    "rss_mib": ("largest MiB", ",.0f"),
    "all_mib": ("together MiB", ",.0f"),
}
TABLE = Table(f"{'processes':<11}", COLUMNS)

SERVER: LiteralString = """
SELECT (SELECT xact_commit + xact_rollback FROM pg_stat_database
        WHERE datname = current_database()) AS transactions,
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid()) AS connections
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """The meters at one moment: CPU in seconds, all else counted from the start."""

    moment: float
    statements: int
    transactions: int
    worker_cpu: float | None
    postgresql_cpu: float | None


def read(base: Database, tap: Wiretap, process: Popen[str] | None) -> Reading:
    """Read all meters."""
    return Reading(
        time.monotonic(),
        tap.count,
        base.ask(SERVER)["transactions"],
        cpu_seconds(process.pid) if process else None,
        cpu_seconds(base.postmaster()),
    )


def each_second(first: Reading, last: Reading) -> dict[str, float | None]:
    """Return what was used a second between two readings: of CPU, cores."""
    names = ("statements", "transactions", "worker_cpu", "postgresql_cpu")
    return {name: _each_second(first, last, name) for name in names}


def _each_second(first: Reading, last: Reading, name: str) -> float | None:
    then, now = getattr(first, name), getattr(last, name)
    if then is None or now is None:
        return None
    return float(now - then) / (last.moment - first.moment)


def measure(server: Database, sink: Receiver, processes: int, settle: float, seconds: float) -> Run:
    """Let so many processes deliver a few events, then look at them being idle."""
    sink.forget()
    with fresh(server) as base, tapped(base.url) as tap:
        base.install(sink.url)
        with _worker(tap.url, processes) as process:
            if process:
                _deliver(base, sink, process)
            time.sleep(settle)
            first = read(base, tap, process)
            time.sleep(seconds)
            last = read(base, tap, process)
            return {
                "processes": processes,
                **each_second(first, last),
                "connections": base.ask(SERVER)["connections"],
                "rss_mib": rss_mib(process.pid) if process else None,
                "all_mib": shared_out_mib(process.pid) if process else None,
                "exact": sink.seen().requests == sink.seen().distinct == EVENTS or not process,
            }


@contextmanager
def _worker(url: str, processes: int) -> Iterator[Popen[str] | None]:
    if not processes:
        yield None
        return
    with worker(url, processes=processes, concurrency=100) as process:
        yield process


def _deliver(base: Database, sink: Receiver, process: Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    base.emit(EVENTS)
    wait_until(lambda: sink.seen().requests >= EVENTS or process.poll() is not None, deadline)
    if process.poll() is not None:
        raise Stuck("the worker ended by itself")
    wait_until(lambda: base.ask(OPEN)["n"] == 0, deadline)


def beyond(run: Run, none: Run) -> Run:
    """Return `run` with the CPU of PostgreSQL and its transactions beyond those of no worker."""
    names = ("postgresql_cpu", "transactions")
    known = [name for name in names if run[name] is not None and none[name] is not None]
    return {**run, **{name: run[name] - none[name] for name in known}}


@click.command(context_settings={"show_default": True})
@click.option("--processes", default=(1, 4), multiple=True, help="Of the worker; give it again.")
@click.option("--seconds", default=60.0, help="To look at each.")
@click.option("--settle", default=5.0, help="Seconds before that.")
@click.option("--database-url", help="Another server: its default settings, CREATEDB, no TLS.")
def main(
    processes: tuple[int, ...], seconds: float, settle: float, database_url: str | None
) -> None:
    """Measure workers that have nothing to do."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    TABLE.head()
    runs: list[Run] = []
    with server(database_url) as base, receiver() as sink:
        around = surroundings(base)
        try:
            none = measure(base, sink, 0, settle, seconds)
            TABLE.row("no worker", none)
            for count in processes:
                runs.append(beyond(measure(base, sink, count, settle, seconds), none))
                TABLE.row(str(count), runs[-1])
        except Stuck as error:
            sys.exit(f"Error: {error}")
    load = {"seconds": seconds, "settle": settle}
    click.echo(json.dumps({"load": load, "surroundings": around, "none": none, "runs": runs}))
    if not all(run["exact"] for run in runs):
        sys.exit("Error: not every event was delivered exactly once")


if __name__ == "__main__":
    main()
