"""How many deliveries a second, and what each costs, beside the HTTP client alone.

Events are emitted first; then the real `outbox-worker` starts and drains them into a
receiver on this machine. The rate is counted at the receiver, from the first request to
the last. Each drain is measured right after the raw client, which posts the same bytes
to the same receiver: only the ratio of the two means something on another machine.

    python -m benchmarks.drain --events 20000 --rounds 3

Prints a row for each run and, at the end, one line of JSON with everything. Exits 1 if
the receiver did not get each event exactly once, or if something got stuck.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from outbox import embedded

from .database import ATTEMPTS, SETTINGS, UPDATES, WAL, Database, fresh
from .processes import Receiver, Stuck, cpu_seconds, raw_client, receiver, wait_until, worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from subprocess import Popen

    Run = dict[str, Any]

PACKAGES = ("aiohttp", "httpx", "psycopg", "uvloop")
COLUMNS = {  # of a row: its title and its format
    "rate": ("a second", ",.0f"),
    "ratio": ("of raw", ".2f"),
    "sender_us": ("sender µs", ",.0f"),
    "postgresql_us": ("PostgreSQL µs", ",.0f"),
    "receiver_us": ("receiver µs", ",.0f"),
    "wal_bytes": ("WAL bytes", ",.0f"),
    "hot_share": ("HOT", ".1%"),
    "p50_ms": ("p50 ms", ",.0f"),
    "p99_ms": ("p99 ms", ",.0f"),
    "seconds": ("start to end s", ".1f"),
}


@dataclass(frozen=True, slots=True)
class Load:
    """What each run has to do, and how many seconds it may take."""

    events: int
    concurrency: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The meters of a drain at one moment: requests so far, CPU seconds of each program."""

    requests: int
    cpu: Mapping[str, float | None]

    def each_since(self, first: Reading) -> dict[str, float | None]:
        """Return the CPU time of each request since `first`, in microseconds."""
        return {f"{name}_us": self._each(name, first) for name in self.cpu}

    def _each(self, name: str, first: Reading) -> float | None:
        then, now = first.cpu[name], self.cpu[name]
        if then is None or now is None or self.requests == first.requests:
            return None
        return 1e6 * (now - then) / (self.requests - first.requests)


def post_raw(receiver: Receiver, load: Load) -> Run:
    """Let the raw client post as many requests; return its rate and its price."""
    receiver.forget()
    cpu = raw_client(receiver.url, **asdict(load))
    seen = receiver.seen()
    if seen.requests != load.events:
        raise Stuck(f"the raw client made {seen.requests} requests")
    return {
        "run": "raw",
        "rate": seen.rate,
        "sender_us": 1e6 * cpu / seen.requests,
        "request_bytes": seen.bytes / seen.requests,
    }


def drain(server: Database, receiver: Receiver, load: Load, processes: int) -> Run:
    """Let a worker of so many processes drain a fresh database; return what it took."""
    with fresh(server) as database:
        database.fill(receiver.url, load.events)
        return drained(database, receiver, load, processes)


def drained(database: Database, receiver: Receiver, load: Load, processes: int) -> Run:
    """Let a worker of so many processes do what is to do in `database`; return what it took."""
    receiver.forget()
    wal, start = database.ask(WAL)["bytes"], time.monotonic()
    with worker(database.url, processes=processes, concurrency=load.concurrency) as process:
        prices = _watch(database, receiver, process, load)
        prices["wal_bytes"] = (database.ask(WAL)["bytes"] - wal) / load.events
    account = database.ask(ATTEMPTS) | database.ask(UPDATES)
    seen = receiver.seen()
    return {
        "run": "drain",
        "processes": processes,
        "rate": seen.rate,
        "seconds": seen.last - start,
        "request_bytes": seen.bytes / seen.requests,
        "requests": seen.requests,
        "distinct": seen.distinct,
        "hot_share": account["hot_updates"] / account["updates"] if account["updates"] else None,
        **prices,
        **account,
    }


def _watch(database: Database, receiver: Receiver, process: Popen[str], load: Load) -> Run:
    """Wait until all is delivered and recorded; return the CPU time of each delivery."""
    pids = {"sender": process.pid, "postgresql": database.postmaster(), "receiver": receiver.pid}
    deadline = time.monotonic() + load.deadline

    def received() -> int:
        if process.poll() is not None:
            raise Stuck("the worker ended by itself")
        return receiver.seen().requests

    def read() -> Reading:
        return Reading(received(), {name: cpu_seconds(pid) for name, pid in pids.items()})

    wait_until(lambda: received() > 0, deadline)
    first = read()
    wait_until(lambda: received() >= load.events, deadline)
    wait_until(lambda: database.ask(ATTEMPTS)["attempts"] >= load.events, deadline)
    return {**read().each_since(first)}


def is_exact(run: Run, events: int) -> bool:
    """Return whether each event was delivered, recorded, and sent exactly once."""
    counts = ("requests", "distinct", "deliveries", "attempts", "delivered")
    return all(run[name] == events for name in counts) and run["open"] == 0


@contextmanager
def server(url: str | None) -> Iterator[Database]:
    """The PostgreSQL at `url`, or else one of our own as it is by default, for as long as this."""
    with tempfile.TemporaryDirectory(prefix="outbox-benchmark-") as folder:
        url = url or f"embedded:{folder}/pg"
        try:
            yield Database(embedded.resolve(url))
        finally:
            embedded.leave(url)


def measure(server: Database, load: Load, processes: tuple[int, ...], rounds: int) -> list[Run]:
    """Make all runs, in turns, and print each."""
    runs = []
    with receiver() as sink:
        for number in range(1, rounds + 1):
            for count in processes:
                raw = post_raw(sink, load)
                run = drain(server, sink, load, count)
                run["raw_rate"], run["ratio"] = raw["rate"], run["rate"] / raw["rate"]
                for each in (raw, run):
                    each["round"] = number
                    show(str(number), each)
                    runs.append(each)
    return runs


def medians(runs: list[Run]) -> Run:
    """Return the median of each number of `runs`, which are of one kind."""
    numbers = (name for name, value in runs[0].items() if isinstance(value, int | float))
    known = [name for name in numbers if all(run[name] is not None for run in runs)]
    return {name: median(run[name] for run in runs) for name in known if name != "round"}


def show(title: str, run: Run) -> None:
    """Print one row."""
    cells = (
        (format(run[name], form) if run.get(name) is not None else "").rjust(len(head))
        for name, (head, form) in COLUMNS.items()
    )
    click.echo("  ".join((f"{title:<6}  {_kind(run):<11}", *cells)))


def _kind(run: Run) -> str:
    count = run.get("processes", 0)
    return {0: "raw client", 1: "1 process"}.get(count, f"{count:.0f} processes")


def surroundings(server: Database) -> Run:
    """Return what the numbers depend on."""
    return {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        **server.ask(SETTINGS),
    }


@click.command(context_settings={"show_default": True})
@click.option("--events", default=20_000, help="To deliver in each run.")
@click.option("--rounds", default=3, help="The median of so many counts.")
@click.option("--processes", default=(1, 2), multiple=True, help="Of the worker; give it again.")
@click.option("--concurrency", default=100, help="Requests in flight, in each process.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
@click.option("--deadline", default=120.0, help="Seconds for one run.")
def main(
    events: int,
    rounds: int,
    processes: tuple[int, ...],
    concurrency: int,
    database_url: str | None,
    deadline: float,
) -> None:
    """Measure the worker beside the raw HTTP client."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    load = Load(events, concurrency, deadline)
    click.echo("  ".join((f"{'round':<6}  {'run':<11}", *(head for head, _ in COLUMNS.values()))))
    with server(database_url) as base:
        result = {"load": asdict(load), "surroundings": surroundings(base)}
        try:
            runs = measure(base, load, processes, rounds)
        except Stuck as error:
            sys.exit(f"Error: {error}")
    drains = [run for run in runs if run["run"] != "raw"]
    middle = {n: medians([run for run in drains if run["processes"] == n]) for n in processes}
    for run in middle.values():
        show("median", run)
    click.echo(json.dumps({**result, "median": middle, "runs": runs}))
    if not all(is_exact(run, events) for run in drains):
        sys.exit("Error: not every event was delivered exactly once")


if __name__ == "__main__":
    main()
