"""Workers that share a database without knowing of each other: 1, 2, 4 and 8 of them.

Each is an `outbox-worker` of its own with its own connections. They are all there before a
host commits a backlog at once, of twenty subscriptions; then they fan it out and drain it into
one receiver on this machine. Told is the rate of all together, how evenly they shared it, and
the CPU time of each. Then eight of them with nothing to do; and at last eight of which half
are killed with SIGKILL half way: the others take over once the leases have run out. The same
again with two workers that serve two databases each.

    python -m benchmarks.workers --events 20000

Prints a row for each run and, at the end, one line of JSON. Exits 1 if an event was lost, came
twice without need, or if more came twice than was in flight at the kill.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from .bulk import install, settle, subscribe
from .database import ATTEMPTS, Database, fresh
from .drain import server, surroundings
from .processes import Stuck, cpu_seconds, receiver, wait_until, worker
from .report import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from subprocess import Popen
    from typing import LiteralString

    from .processes import Receiver

    Run = dict[str, Any]

LANES = 20
CONCURRENCY = 100
AT_THE_KILL = 3 * CONCURRENCY  # claims of one: twice that are held, some are not recorded
TIMEOUT, LEASE = 5.0, 12.0  # seconds of a run with a kill, which waits for leases to run out
PATIENCE = 60.0  # seconds until all workers are there
SETTLED = 3.0  # seconds until the work of a start is over
TABLE = Table(
    " " * 12,
    {
        "databases": ("databases", ",.0f"),
        "workers": ("workers", ",.0f"),
        "rate": ("a second", ",.0f"),
        "of_first": ("of first", ".2f"),
        "least": ("least share", ".1%"),
        "fairness": ("least / most", ".2f"),
        "worker_us": ("worker µs", ",.0f"),
        "postgresql_us": ("PostgreSQL µs", ",.0f"),
        "repeats": ("repeats", ",.0f"),
        "lost": ("lost attempts", ",.0f"),
        "cpu": ("CPU of each", ".1%"),
        "postgresql_cpu": ("PostgreSQL", ".1%"),
    },
)

EMIT: LiteralString = """
INSERT INTO outbox.event (type, data)
SELECT 'lane-' || 1 + mod(n, %(lanes)s), json_build_object(
    'id', 'in_' || n, 'customer', 'cus_4QFJOjw2pOmAGJ', 'currency', 'eur', 'amount', 129900,
    'note', repeat('a line of an invoice ', 10))
FROM generate_series(1, %(events)s) n
"""
WORKERS: LiteralString = "SELECT count(*) AS n FROM outbox.worker WHERE stopped_at IS NULL"
SPLIT: LiteralString = """
SELECT json_object_agg(pid, n) AS split FROM (
    SELECT w.pid, count(a.worker_id) AS n
    FROM outbox.worker w LEFT JOIN outbox.attempt a ON a.worker_id = w.id
    GROUP BY w.pid
) s
"""
LOST: LiteralString = """
SELECT count(*) FILTER (WHERE outcome = 'lost') AS lost,
    count(*) FILTER (WHERE outcome = 'late') AS late FROM outbox.attempt
"""


class Fleet:
    """Workers on the same databases, and what these tell of them all."""

    def __init__(self, bases: Sequence[Database], workers: list[Popen[str]]) -> None:
        self.bases = bases
        self.workers = workers

    def emit(self, events: int) -> None:
        """Commit so many events at once, in each database its part."""
        for base in self.bases:
            base.do(EMIT, {"events": events // len(self.bases), "lanes": LANES})

    def account(self) -> dict[str, int]:
        """Return the counts of deliveries and attempts, all databases together."""
        names = ("attempts", "delivered", "deliveries", "open")
        found = [base.ask(ATTEMPTS) | base.ask(LOST) for base in self.bases]
        return {name: sum(each[name] for each in found) for name in (*names, "lost", "late")}

    def split(self) -> list[int]:
        """Return how many attempts each worker made."""
        found = [base.ask(SPLIT)["split"] for base in self.bases]
        return [sum(each[str(process.pid)] for each in found) for process in self.workers]

    def cpu(self) -> list[float]:
        """Return the CPU seconds of each worker so far, then those of PostgreSQL.

        Of a server on another machine they are not known: then as if it used none.
        """
        pids = [process.pid for process in self.workers]
        return [cpu_seconds(pid) or 0.0 for pid in (*pids, self.bases[0].postmaster())]

    def kill_half(self) -> int:
        """Kill half of the workers as the kernel would; return how many."""
        victims = self.workers[: len(self.workers) // 2]
        for process in victims:
            process.kill()
            process.wait()
        return len(victims)

    def check(self, killed: int = 0) -> None:
        """Raise Stuck if a worker ended that was not killed."""
        ended = sum(process.poll() is not None for process in self.workers)
        if ended > killed:
            raise Stuck("a worker ended by itself")


@contextmanager
def fleet(
    bases: Sequence[Database], sink: Receiver, count: int, *, short: bool = False
) -> Iterator[Fleet]:
    """Prepare the databases, start so many workers on all of them, wait until they are there."""
    for base in bases:
        install(base)
        subscribe(base, LANES, "lane-#", url=sink.url)
        settle(base)
    times = {"timeout": TIMEOUT, "lease": LEASE} if short else {}
    urls = [base.url for base in bases]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                worker(*urls, processes=1, concurrency=CONCURRENCY, log_level="error", **times)
            )
            for _ in range(count)
        ]
        started = Fleet(bases, workers)
        wait_until(
            lambda: all(base.ask(WORKERS)["n"] >= count for base in bases), deadline(PATIENCE)
        )
        time.sleep(SETTLED)
        started.check()
        sink.forget()
        yield started


def deadline(seconds: float) -> float:
    """Return the moment of the monotonic clock in so many seconds."""
    return time.monotonic() + seconds


def drain(
    bases: Sequence[Database], sink: Receiver, events: int, count: int, seconds: float
) -> Run:
    """Let so many workers drain a backlog; return their rate, their shares, their prices."""
    with fleet(bases, sink, count) as workers:
        before = workers.cpu()
        workers.emit(events)
        _wait(workers, sink, events, seconds)
        used = [now - then for now, then in zip(workers.cpu(), before, strict=True)]
        split = workers.split()
        return {
            "run": "drain",
            "databases": len(bases),
            "workers": count,
            "least": min(split) / events,
            "fairness": min(split) / max(split),
            "split": split,
            "worker_us": 1e6 * sum(used[:-1]) / events,
            "postgresql_us": 1e6 * used[-1] / events,
            "cpu_seconds": used[:-1],
            **_told(workers, sink),
        }


def kill(bases: Sequence[Database], sink: Receiver, events: int, count: int, seconds: float) -> Run:
    """Kill half of the workers when half is delivered; return what became of the events."""
    with fleet(bases, sink, count, short=True) as workers:
        workers.emit(events)
        wait_until(lambda: sink.seen().requests >= events // 2, deadline(seconds), every=0.01)
        killed = workers.kill_half()
        _wait(workers, sink, events, seconds, killed)
        about = {"databases": len(bases), "workers": count, "killed": killed}
        return {"run": "half killed", **about, **_told(workers, sink)}


def _wait(workers: Fleet, sink: Receiver, events: int, seconds: float, killed: int = 0) -> None:
    """Wait until all is delivered, and nothing is open."""

    def is_sent() -> bool:
        workers.check(killed)
        return sink.seen().distinct >= events

    def is_done() -> bool:
        found = workers.account()
        return found["delivered"] >= events and found["open"] == 0

    end = deadline(seconds)
    wait_until(is_sent, end)
    wait_until(is_done, end)


def _told(workers: Fleet, sink: Receiver) -> Run:
    seen = sink.seen()
    repeats = seen.requests - seen.distinct
    return {"rate": seen.rate, "distinct": seen.distinct, "repeats": repeats, **workers.account()}


def idle(bases: Sequence[Database], sink: Receiver, count: int, seconds: float) -> Run:
    """Let so many workers wait for work; return what that costs, in cores."""
    with fleet(bases, sink, count) as workers:
        before, begin = workers.cpu(), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begin
        used = [(now - then) / took for now, then in zip(workers.cpu(), before, strict=True)]
        return {
            "run": "idle",
            "databases": len(bases),
            "workers": count,
            "cpu": sum(used[:-1]) / count,
            "cpu_of_each": used[:-1],
            "postgresql_cpu": used[-1],
        }


def is_exact(run: Run, events: int) -> bool:
    """Return whether nothing was lost, and nothing came twice that was not in flight at a kill."""
    if run["run"] == "idle":
        return True
    whole = run["distinct"] == run["delivered"] == run["deliveries"] == events
    most = run.get("killed", 0) * AT_THE_KILL
    return bool(whole and run["open"] == 0 and run["repeats"] <= run["lost"] <= most)


def measure(
    server: Database, events: int, counts: Sequence[int], seconds: float, still: float
) -> Iterator[Run]:
    """Make all runs: a drain by each number of workers, then what most of them do besides."""
    most = max(counts)
    with receiver() as sink:
        first = None
        for count in counts:
            with fresh(server) as base:
                run = drain([base], sink, events, count, seconds)
            first = first or run["rate"]
            yield {**run, "of_first": run["rate"] / first}
        with fresh(server) as base:
            yield idle([base], sink, most, still)
        with fresh(server) as base:
            yield kill([base], sink, events, most, seconds)
        for work in (drain, kill):
            with fresh(server) as one, fresh(server) as two:
                yield work([one, two], sink, events, 2, seconds)


@click.command(context_settings={"show_default": True})
@click.option("--events", default=20_000, help="In each backlog.")
@click.option("--workers", default=(1, 2, 4, 8), multiple=True, help="So many; give it again.")
@click.option("--idle", "still", default=10.0, help="Seconds without work.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
@click.option("--deadline", "seconds", default=120.0, help="Seconds for one run.")
def main(
    events: int, workers: tuple[int, ...], still: float, database_url: str | None, seconds: float
) -> None:
    """Measure workers that share a database."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    TABLE.head()
    runs = []
    with server(database_url) as base:
        around = surroundings(base)
        try:
            for run in measure(base, events, workers, seconds, still):
                TABLE.row(run["run"], run)
                runs.append(run)
        except Stuck as error:
            sys.exit(f"Error: {error}")
    click.echo(json.dumps({"surroundings": around, "events": events, "runs": runs}))
    if not all(is_exact(run, events) for run in runs):
        sys.exit("Error: an event was lost, or came twice without need")


if __name__ == "__main__":
    main()
