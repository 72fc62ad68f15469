"""Whether it stays as it is: half an hour at half of what it can do.

A short drain tells what the worker can do. Then a host emits half as many events a second,
ten in each transaction, whatever becomes of them, and each minute is told how they fare and
how large everything is. What grows shows between the line after five minutes and the last.

    python -m benchmarks.steady --minutes 30

Prints a row for each minute, the last divided by that after five minutes, and one line of
JSON. Exits 1 if the receiver did not get each event exactly once.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from .database import ATTEMPTS, OPEN, WORKERS, Database, fresh
from .drain import Load, drain, server, surroundings
from .memory import rss_mib
from .open_loop import Emitted, Host, Pace
from .processes import Stuck, receiver, wait_until, worker
from .report import Table, milliseconds

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from subprocess import Popen
    from typing import LiteralString

    from .processes import Receiver

    Run = dict[str, Any]

BATCH = 10  # events in a transaction of the host
CONCURRENCY = 100
PATIENCE = 60.0  # seconds for the last events to arrive
COLUMNS = {
    "rate": ("a second", ",.0f"),
    "p50_ms": ("p50 ms", ",.0f"),
    "p99_ms": ("p99 ms", ",.0f"),
    "late_p99_ms": ("late p99 ms", ",.0f"),
    "rss_mib": ("worker MiB", ",.1f"),
    "event_queue_kib": ("event_queue KiB", ",.0f"),
    "event_queue_indexes_kib": ("indexes KiB", ",.0f"),
    "event_queue_dead": ("   dead", ",.0f"),
    "delivery_queue_kib": ("delivery_queue KiB", ",.0f"),
    "delivery_queue_indexes_kib": ("indexes KiB", ",.0f"),
    "delivery_queue_dead": ("   dead", ",.0f"),
    "waiting": ("waiting", ",.0f"),
}
LABEL = f"{'minute':>8}"
TABLE = Table(LABEL, COLUMNS)
RATIOS = Table(LABEL, {name: (title, ".2f") for name, (title, _) in COLUMNS.items()})

SIZES: LiteralString = """
SELECT pg_table_size('outbox.event_queue') / 1024.0 AS event_queue_kib,
    pg_indexes_size('outbox.event_queue') / 1024.0 AS event_queue_indexes_kib,
    pg_stat_get_dead_tuples('outbox.event_queue'::regclass) AS event_queue_dead,
    pg_table_size('outbox.delivery_queue') / 1024.0 AS delivery_queue_kib,
    pg_indexes_size('outbox.delivery_queue') / 1024.0 AS delivery_queue_indexes_kib,
    pg_stat_get_dead_tuples('outbox.delivery_queue'::regclass) AS delivery_queue_dead
"""


@dataclass(slots=True)
class Account:
    """Which events are on their way: as much memory as they take, not as all that were."""

    waiting: dict[str, float] = field(default_factory=dict)  # id: when it was committed
    strange: dict[str, float] = field(default_factory=dict)  # arrived, and the host has not told
    emitted: int = 0

    def add(self, emitted: list[Emitted], arrived: Mapping[str, float]) -> list[float]:
        """Settle what arrived; return how long each took, in seconds."""
        self.emitted += len(emitted)
        self.waiting |= {each.id: each.committed for each in emitted}
        self.strange |= arrived
        both = [id for id in self.strange if id in self.waiting]
        return [self.strange.pop(id) - self.waiting.pop(id) for id in both]


class Watch:
    """Looks at everything once a minute."""

    def __init__(self, base: Database, sink: Receiver, process: Popen[str], host: Host) -> None:
        self._base, self._sink, self._process, self._host = base, sink, process, host
        self.account = Account()
        self._at = time.monotonic()

    def settle(self) -> tuple[list[Emitted], list[float]]:
        """Return what was emitted and how long what arrived took, since the last call."""
        if self._process.poll() is not None:
            raise Stuck("the worker ended by itself")
        arrived = self._sink.answers(forget=True)
        emitted = self._host.taken()
        return emitted, self.account.add(emitted, arrived)

    def line(self) -> Run:
        """Return the figures since the last line, and the sizes now."""
        emitted, took = self.settle()
        then, self._at = self._at, time.monotonic()
        sizes = self._base.ask(SIZES)
        return {
            "rate": len(took) / (self._at - then),
            **milliseconds(took),
            **milliseconds([each.began - each.due for each in emitted], "late_"),
            "rss_mib": rss_mib(self._process.pid),
            **{name: float(size) for name, size in sizes.items()},
            "waiting": len(self.account.waiting),
        }


@dataclass(frozen=True, slots=True)
class Span:
    """How long, in minutes: all of it, until it is compared, and between two lines."""

    minutes: float
    after: float
    every: float

    def lines(self) -> int:
        """Return how many lines there are."""
        return max(2, round(self.minutes / self.every))

    def compared(self) -> int:
        """Return which of them, from 0, the last is compared with."""
        return min(self.lines() - 2, max(0, round(self.after / self.every) - 1))


def hold(
    base: Database, sink: Receiver, rate: float, processes: int, span: Span
) -> Generator[Run, None, None]:
    """Hold the rate; yield a line for each span, and the account at the end."""
    base.install(sink.url)
    sink.forget()
    with worker(base.url, processes=processes, concurrency=CONCURRENCY) as process:
        wait_until(lambda: base.ask(WORKERS)["n"] >= processes, time.monotonic() + PATIENCE)
        with Host(base, Pace(rate, batch=BATCH)) as host:
            watch = Watch(base, sink, process, host)
            begin = time.monotonic()
            for number in range(1, span.lines() + 1):
                time.sleep(max(0.0, begin + number * span.every * 60 - time.monotonic()))
                yield {"minute": number * span.every, **watch.line()}
        wait_until(lambda: base.ask(OPEN)["n"] == 0, time.monotonic() + PATIENCE)
        watch.settle()
    yield _account(base, sink, watch.account)


def _account(base: Database, sink: Receiver, account: Account) -> Run:
    found = base.ask(ATTEMPTS)
    counts = {name: found[name] for name in ("deliveries", "attempts", "delivered")}
    counts |= {"emitted": account.emitted, "requests": sink.seen().requests}
    exact = len(set(counts.values())) == 1 and not account.waiting and not account.strange
    return {**counts, "exact": exact}


def growth(lines: list[Run], span: Span) -> Run:
    """Return the last line divided by the one that it is compared with."""
    early, last = lines[span.compared()], lines[-1]
    return {name: last[name] / early[name] for name in COLUMNS if early.get(name) and name in last}


@click.command(context_settings={"show_default": True})
@click.option("--minutes", default=30.0, help="In all.")
@click.option("--after", default=5.0, help="Compare the end with so many minutes.")
@click.option("--every", default=1.0, help="A line for so many minutes.")
@click.option("--rate", type=float, help="Events a second.  [default: half of a short drain]")
@click.option("--processes", default=2, help="Of the worker.")
@click.option("--drained", default=10_000, help="Events of the short drain.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(
    minutes: float,
    after: float,
    every: float,
    rate: float | None,
    processes: int,
    drained: int,
    database_url: str | None,
) -> None:
    """Measure whether anything grows while a steady rate is held."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    span = Span(minutes, after, every)
    with server(database_url) as base, receiver() as sink:
        around = surroundings(base)
        try:
            if rate is None:
                rate = drain(base, sink, Load(drained, CONCURRENCY, 120.0), processes)["rate"] / 2
            click.echo(f"{rate:,.0f} events a second")
            TABLE.head()
            with (
                fresh(base) as one,
                closing(hold(one, sink, rate, processes, span)) as found,
            ):
                lines = [_shown(line) for line in found]
        except Stuck as error:
            sys.exit(f"Error: {error}")
    account = lines.pop()
    grown = growth(lines, span)
    RATIOS.row("ratio", grown)
    load = {"rate": rate, "minutes": minutes, "after": after, "processes": processes}
    result = {"load": load, "surroundings": around, "account": account}
    click.echo(json.dumps({**result, "growth": grown, "lines": lines}))
    if not account["exact"]:
        sys.exit(f"Error: not every event was delivered exactly once: {account}")


def _shown(line: Run) -> Run:
    if "minute" in line:
        TABLE.row(f"{line['minute']:>8g}", line)
    return line


if __name__ == "__main__":
    main()
