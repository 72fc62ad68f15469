"""How many deliveries a second, and what each costs, beside the HTTP client alone.

Events are emitted first; then the real `outbox-worker` starts and drains them into a
receiver on this machine. The rate is counted at the receiver, from the first request to
the last. Each drain is measured right after the raw client, which posts the same bytes
to the same receiver: only the ratio of the two means something on another machine.

    python -m benchmarks.drain --events 20000 --rounds 3
    python -m benchmarks.drain --fan-out 10

Prints a row for each run and, at the end, one line of JSON with everything. Exits 1 if
the receiver did not get each event exactly once for each subscription, or if something
got stuck.
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
from typing import TYPE_CHECKING, Any

import click

from outbox import embedded

from .database import ATTEMPTS, OPEN, SETTINGS, UPDATES, Database, fresh
from .processes import Receiver, Stuck, cpu_seconds, raw_client, receiver, wait_until, worker
from .report import Table, medians, microseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from subprocess import Popen

    Run = dict[str, Any]

PACKAGES = ("aiohttp", "httptools", "httpx", "psycopg", "uvloop")
COLUMNS = {
    "rate": ("a second", ",.0f"),
    "ratio": ("of raw", ".2f"),
    "sender_us": ("sender µs", ",.0f"),
    "postgresql_us": ("PostgreSQL µs", ",.0f"),
    "receiver_us": ("receiver µs", ",.0f"),
    "event_wal_bytes": ("event WAL", ",.0f"),
    "wal_bytes": ("WAL bytes", ",.0f"),
    "hot_share": ("HOT", ".1%"),
    "p50_ms": ("p50 ms", ",.0f"),
    "p99_ms": ("p99 ms", ",.0f"),
    "seconds": ("start to end s", ".1f"),
}
TABLE = Table(f"{'round':<6}  {'run':<11}", COLUMNS)
PATIENCE_FOR = 20_000  # requests in the deadline; more of them have more time


@dataclass(frozen=True, slots=True)
class Load:
    """What each run has to do, and how many seconds it may take."""

    events: int
    concurrency: int
    deadline: float
    fan_out: int = 1

    @property
    def requests(self) -> int:
        """One for each event and subscription."""
        return self.events * self.fan_out

    @property
    def patience(self) -> float:
        """Seconds for all of them."""
        return self.deadline * max(1.0, self.requests / PATIENCE_FOR)


@dataclass(frozen=True, slots=True)
class Reading:
    """The meters of a drain at one moment: requests so far, CPU seconds of each program."""

    requests: int
    cpu: Mapping[str, float | None]

    def each_since(self, first: Reading) -> dict[str, float | None]:
        """Return the CPU time of each request since `first`, in microseconds."""
        count = self.requests - first.requests
        return {f"{name}_us": microseconds(first.cpu[name], self.cpu[name], count)
                for name in self.cpu}  # fmt: skip


def post_raw(receiver: Receiver, load: Load) -> Run:
    """Let the raw client post as many requests; return its rate and its price."""
    receiver.forget()
    cpu = raw_client(
        receiver.url, requests=load.requests, fan_out=load.fan_out,
        concurrency=load.concurrency, deadline=load.patience,
    )  # fmt: skip
    seen = receiver.seen()
    if seen.requests != load.requests:
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
        database.install(receiver.url, load.fan_out)
        before = database.wal()
        database.emit(load.events)
        event_wal = (database.wal() - before) / load.events
        return {"event_wal_bytes": event_wal, **drained(database, receiver, load, processes)}


def drained(database: Database, receiver: Receiver, load: Load, processes: int) -> Run:
    """Let a worker of so many processes do what is to do in `database`; return what it took."""
    receiver.forget()
    wal, start = database.wal(), time.monotonic()
    with worker(database.url, processes=processes, concurrency=load.concurrency) as process:
        prices = _watch(database, receiver, process, load)
        prices["wal_bytes"] = (database.wal() - wal) / load.requests
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
    deadline = time.monotonic() + load.patience

    def received() -> int:
        if process.poll() is not None:
            raise Stuck("the worker ended by itself")
        return receiver.seen().requests

    def read() -> Reading:
        return Reading(received(), {name: cpu_seconds(pid) for name, pid in pids.items()})

    wait_until(lambda: received() > 0, deadline)
    first = read()
    wait_until(lambda: received() >= load.requests, deadline)
    wait_until(lambda: database.ask(OPEN)["n"] == 0, deadline)
    return {**read().each_since(first)}


def is_exact(run: Run, load: Load) -> bool:
    """Return whether each subscription was sent each event once, and all of it is recorded."""
    counts = ("requests", "distinct", "deliveries", "attempts", "delivered")
    return all(run[name] == load.requests for name in counts) and run["open"] == 0


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
                    show(number, each)
                    runs.append(each)
    return runs


def show(title: str | int, run: Run) -> None:
    """Print one row."""
    count = run.get("processes", 0)
    kind = {0: "raw client", 1: "1 process"}.get(count, f"{count:.0f} processes")
    TABLE.row(f"{title:<6}  {kind}", run)


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
@click.option("--fan-out", default=1, help="Subscriptions that get each of them.")
@click.option("--rounds", default=3, help="The median of so many counts.")
@click.option("--processes", default=(1, 2), multiple=True, help="Of the worker; give it again.")
@click.option("--concurrency", default=100, help="Requests in flight, in each process.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
@click.option("--deadline", default=120.0, help="Seconds for 20,000 requests.")
def main(
    events: int,
    fan_out: int,
    rounds: int,
    processes: tuple[int, ...],
    concurrency: int,
    database_url: str | None,
    deadline: float,
) -> None:
    """Measure the worker beside the raw HTTP client."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    load = Load(events, concurrency, deadline, fan_out)
    TABLE.head()
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
    if not all(is_exact(run, load) for run in drains):
        sys.exit("Error: not every event was delivered exactly once to each subscription")


if __name__ == "__main__":
    main()
