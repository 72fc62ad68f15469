"""How soon a host that waits has what the subscriptions answered.

A host emits an event, commits, and waits for it (`outbox.wait`): 2,000 times, 100 at the
same time, in threads and then in an event loop, with the real `outbox-worker` and a
receiver on this machine. Counted is the time from the receiver's answer to the return of
the wait. Then once more with a worker that is killed in the middle: who waits then must
be told so when the time is over.

    python -m benchmarks.wait --waits 2000 --parallel 100

Prints a row for each run and, at the end, one line of JSON. Exits 1 if a wait hung, or
returned without the answer while there was a worker.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import outbox

from .database import Database, fresh
from .drain import server, surroundings
from .processes import Stuck, receiver, wait_until, worker
from .report import Table, milliseconds
from .workload import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import Popen

    from outbox import Event, Waited

    from .processes import Receiver

    Run = dict[str, Any]

POOL = 20  # connections that the host keeps
HANGING = 1.0  # seconds by which a wait may return late, on a machine that is busy
COLUMNS = {
    "waits": ("waits", ",.0f"),
    "ended": ("ended", ",.0f"),
    "hung": ("hung", ",.0f"),
    "rate": ("a second", ",.0f"),
    "p50_ms": ("p50 ms", ",.0f"),
    "p99_ms": ("p99 ms", ",.0f"),
    "longest_ms": ("longest ms", ",.0f"),
    "whole_p50_ms": ("whole p50 ms", ",.0f"),
    "whole_p99_ms": ("whole p99 ms", ",.0f"),
}
TABLE = Table(f"{'run':<15}", COLUMNS)


@dataclass(frozen=True, slots=True)
class Load:
    """How many waits, how many of them at the same time, and the timeout of each."""

    waits: int
    parallel: int
    timeout: float


class Wait(NamedTuple):
    """One wait: what it returned; `began` and `returned` are moments of the monotonic clock."""

    waited: Waited
    began: float
    returned: float


def in_threads(base: Database, load: Load, seen: Callable[[int], None]) -> list[Wait]:
    """Emit and wait in so many threads."""
    engine = create_engine(base.host_url, pool_size=POOL, max_overflow=0)
    count = Counter(seen)

    def emit_and_wait(event: Event) -> Wait:
        with engine.begin() as connection:
            id = outbox.emit(connection, event)
        began = time.monotonic()
        waited = outbox.wait(engine, id, load.timeout)
        count.up()
        return Wait(waited, began, time.monotonic())

    with ThreadPoolExecutor(load.parallel) as pool:
        waits = list(pool.map(emit_and_wait, events(load.waits)))
    wait_until(lambda: not _pollers(), time.monotonic() + 1)
    engine.dispose()
    return waits


def _pollers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "outbox.wait"]


def in_a_loop(base: Database, load: Load, seen: Callable[[int], None]) -> list[Wait]:
    """Emit and wait in so many tasks of one event loop."""
    return asyncio.run(_in_a_loop(base, load, Counter(seen)))


async def _in_a_loop(base: Database, load: Load, count: Counter) -> list[Wait]:
    engine = create_async_engine(base.host_url, pool_size=POOL, max_overflow=0)
    todo, waits = iter(events(load.waits)), list[Wait]()

    async def go_on() -> None:
        for event in todo:
            waits.append(await _emit_and_wait(engine, event, load.timeout))
            count.up()

    async with asyncio.TaskGroup() as group:
        for _ in range(load.parallel):
            group.create_task(go_on())
    await engine.dispose()
    return waits


async def _emit_and_wait(engine: AsyncEngine, event: Event, timeout: float) -> Wait:
    async with engine.begin() as connection:
        id = await outbox.emit(connection, event)
    began = time.monotonic()
    waited = await outbox.wait(engine, id, timeout)
    return Wait(waited, began, time.monotonic())


class Counter:
    """Tells `seen` how many there are, at each."""

    def __init__(self, seen: Callable[[int], None]) -> None:
        self._seen = seen
        self._lock = threading.Lock()
        self._count = 0

    def up(self) -> None:
        """Count one more."""
        with self._lock:
            self._count += 1
            self._seen(self._count)


HOSTS = {"threads": in_threads, "loop": in_a_loop}


def measure(server: Database, sink: Receiver, load: Load, host: str) -> Run:
    """Make all waits while the worker runs; return how long they took."""
    with _prepared(server, sink) as (base, _):
        began = time.monotonic()
        waits = HOSTS[host](base, load, lambda _: None)
        seconds = time.monotonic() - began
    return {"run": host, "rate": len(waits) / seconds, **_account(waits, load, sink.answers())}


def kill(server: Database, sink: Receiver, load: Load, host: str) -> Run:
    """Kill the worker after a quarter of the waits; return what became of the others."""

    def seen(number: int) -> None:
        if number == load.waits // 4:
            process.kill()

    with _prepared(server, sink) as (base, process):
        waits = HOSTS[host](base, load, seen)
    return {"run": f"{host}, killed", **_account(waits, load, sink.answers())}


@contextmanager
def _prepared(server: Database, sink: Receiver) -> Iterator[tuple[Database, Popen[str]]]:
    """A database with one subscription, and a worker that has proved itself."""
    with fresh(server) as base:
        base.fill(sink.url, 1)
        with worker(base.url, processes=1, concurrency=100) as process:
            wait_until(lambda: sink.seen().requests > 0, time.monotonic() + 30)
            sink.forget()
            yield base, process


def _account(waits: list[Wait], load: Load, answered: dict[str, float]) -> Run:
    ended = [wait for wait in waits if wait.waited.delivered and wait.waited.answers]
    after = [wait.returned - answered[_id(wait)] for wait in ended]
    whole = [wait.returned - wait.began for wait in waits]
    return {
        "waits": len(waits),
        "ended": len(ended),
        "hung": sum(seconds > load.timeout + HANGING for seconds in whole),
        **milliseconds(after),
        **milliseconds(whole, "whole_"),
    }


def _id(wait: Wait) -> str:
    return str(wait.waited.event_id)


def is_right(run: Run) -> bool:
    """Return whether no wait hung, and each ended that had a worker."""
    return run["hung"] == 0 and (run["ended"] == run["waits"] or "killed" in run["run"])


@click.command(context_settings={"show_default": True})
@click.option("--waits", default=2_000, help="In each run.")
@click.option("--parallel", default=100, help="Of them at the same time.")
@click.option("--timeout", default=5.0, help="Seconds for one wait.")
@click.option("--rounds", default=1, help="Make all runs so many times.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(waits: int, parallel: int, timeout: float, rounds: int, database_url: str | None) -> None:
    """Measure how soon a wait returns, and that none hangs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    load, few = Load(waits, parallel, timeout), Load(min(waits, 4 * parallel), parallel, timeout)
    TABLE.head()
    runs: list[Run] = []
    with server(database_url) as base, receiver() as sink:
        try:
            for _ in range(rounds):
                for host in HOSTS:
                    runs += [measure(base, sink, load, host), kill(base, sink, few, host)]
                    for run in runs[-2:]:
                        TABLE.row(run["run"], run)
            result = {"load": asdict(load), "surroundings": surroundings(base), "runs": runs}
        except Stuck as error:
            sys.exit(f"Error: {error}")
    click.echo(json.dumps(result))
    if not all(map(is_right, runs)):
        sys.exit("Error: a wait hung, or returned without the answer")


if __name__ == "__main__":
    main()
