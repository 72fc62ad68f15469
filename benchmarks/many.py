"""Ten thousand subscriptions with one open delivery each, beside one with ten thousand.

Deliveries are made in SQL, each of an event of its own; then the real `outbox-worker` drains
them into one receiver on this machine. What it saves where deliveries share a subscription,
it has to pay for each of the many: to find its lane, to claim from it, to load it and its
secret. Both are measured in turns, so that only their ratio has to mean something.

    python -m benchmarks.many --subscriptions 10000 --rounds 3

Prints a row for each run, the ratio of the medians, and one line of JSON. Exits 1 if a
delivery was not made exactly once.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from .bulk import install, open_deliveries, settle, subscribe
from .database import Database, fresh
from .drain import Load, drained, is_exact, server, surroundings
from .processes import Stuck, receiver
from .report import Table, medians

if TYPE_CHECKING:
    from .processes import Receiver

    Run = dict[str, Any]

TABLE = Table(
    " " * 8,
    {
        "subscriptions": ("subscriptions", ",.0f"),
        "rate": ("a second", ",.0f"),
        "sender_us": ("worker µs", ",.0f"),
        "postgresql_us": ("PostgreSQL µs", ",.0f"),
        "receiver_us": ("receiver µs", ",.0f"),
        "wal_bytes": ("WAL bytes", ",.0f"),
        "p50_ms": ("p50 ms", ",.0f"),
        "p99_ms": ("p99 ms", ",.0f"),
        "seconds": ("start to end s", ".1f"),
    },
)


def drain(server: Database, sink: Receiver, load: Load, subscriptions: int, processes: int) -> Run:
    """Let a worker drain so many deliveries of so many subscriptions; return what it took."""
    with fresh(server) as base:
        install(base)
        lanes = subscribe(base, subscriptions, "invoice.paid", url=sink.url)
        open_deliveries(base, load.events, lanes)
        settle(base)
        run = drained(base, sink, load, processes)
    return {**run, "run": "many" if subscriptions > 1 else "one", "subscriptions": subscriptions}


def measure(
    server: Database, load: Load, subscriptions: int, processes: int, rounds: int
) -> list[Run]:
    """Make all runs, in turns, and print each."""
    runs = []
    with receiver() as sink:
        for number in range(1, rounds + 1):
            for count in (1, subscriptions):
                runs.append(drain(server, sink, load, count, processes))
                TABLE.row(str(number), runs[-1])
    return runs


def ratio(one: list[Run], many: list[Run]) -> float:
    """Return the rate of many, as a part of that of one right before."""
    return float(median(m["rate"] / o["rate"] for o, m in zip(one, many, strict=True)))


@click.command(context_settings={"show_default": True})
@click.option("--subscriptions", default=10_000, help="With one delivery each, beside one.")
@click.option("--rounds", default=3, help="The median of so many counts.")
@click.option("--processes", default=1, help="Of the worker.")
@click.option("--concurrency", default=100, help="Requests in flight, in each process.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
@click.option("--deadline", default=120.0, help="Seconds for one run.")
def main(
    subscriptions: int,
    rounds: int,
    processes: int,
    concurrency: int,
    database_url: str | None,
    deadline: float,
) -> None:
    """Measure many subscriptions beside one."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    load = Load(subscriptions, concurrency, deadline)
    TABLE.head()
    with server(database_url) as base:
        result = {"load": asdict(load), "surroundings": surroundings(base)}
        try:
            runs = measure(base, load, subscriptions, processes, rounds)
        except Stuck as error:
            sys.exit(f"Error: {error}")
    one, many = ([run for run in runs if run["run"] == kind] for kind in ("one", "many"))
    for kind in (one, many):
        TABLE.row("median", medians(kind))
    found = ratio(one, many)
    click.echo(f"many, of one: {found:.2f}")
    click.echo(json.dumps({**result, "ratio": found, "runs": runs}))
    if not all(is_exact(run, load) for run in runs):
        sys.exit("Error: not every delivery was made exactly once")


if __name__ == "__main__":
    main()
