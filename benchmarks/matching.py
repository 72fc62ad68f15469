"""What it costs to find ten subscriptions among 10, 1,000 and 100,000.

Ten of them match. Half of the others want other types, the other half the same events of
other tenants. Batches of 500 events are fanned out by the statement that the worker runs, in
the settings of its sessions: of 500 types, and of one; without filters, with one on each of
the ten, with one on all. The databases take turns, batch by batch, so that what else the
machine does hits all of them alike.

    python -m benchmarks.matching --batches 10

Prints a row for each and, at the end, one line of JSON. Each event makes ten deliveries, and
to write those is most of its time: the time to match alone stands beside it. Exits 1 if an
event did not make its ten.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from .bulk import install, settle, subscribe
from .database import Database, fresh
from .drain import server, surroundings
from .report import Table
from .statements import opened

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import LiteralString

    from .statements import Counted

    Run = dict[str, Any]

EVENTS = 500  # in a batch: what the worker takes at once
TEN = 10
SIZES = (10, 1_000, 100_000)
FILTER = "$.amount > 100"
FILTERS: dict[str, tuple[str | None, str | None]] = {  # of the ten, and of the others
    "no filter": (None, None),
    "ten filters": (FILTER, None),
    "all filters": (FILTER, FILTER),
}
TYPES = {"500 types": EVENTS, "one type": 1}
TABLE = Table(
    " " * 24,
    {
        "subscriptions": ("subscriptions", ",.0f"),
        "event_us": ("µs an event", ",.1f"),
        "ratio": ("ratio", ".2f"),
        "buffers": ("buffers an event", ",.1f"),
        "match_us": ("µs to match a type", ",.1f"),
        "match_ratio": ("ratio", ".2f"),
    },
)

EMIT: LiteralString = """
INSERT INTO outbox.event (type, tenant, data)
SELECT 'invoice.kind-' || mod(n, %(types)s), 'acme', json_build_object(
    'id', 'in_' || n, 'customer', 'cus_4QFJOjw2pOmAGJ', 'currency', 'eur', 'amount', 129900,
    'note', repeat('a line of an invoice ', 10))
FROM generate_series(1, %(events)s) n
"""
MATCH: LiteralString = """
SELECT count(*) FROM generate_series(1, %(types)s) n
CROSS JOIN LATERAL outbox.matching('invoice.kind-' || n, 'acme') m
"""


@dataclass(slots=True)
class Site:
    """A database with so many subscriptions, and the seconds that each batch took there."""

    base: Database
    subscriptions: int
    store: Counted
    batches: list[float] = field(default_factory=list)
    matches: list[float] = field(default_factory=list)
    buffers: float = 0.0
    exact: bool = True

    async def batch(self, types: int) -> None:
        """Emit a batch, fan it out; match 500 types alone."""
        self.base.do(EMIT, {"events": EVENTS, "types": types})
        begin = time.perf_counter()
        done = await self.store.fan_out(EVENTS)
        self.batches.append(time.perf_counter() - begin)
        self.exact &= (done.events, done.deliveries) == (EVENTS, EVENTS * TEN)
        self.matches.append(await self._match())

    async def _match(self) -> float:
        async with self.store.transaction() as connection:
            begin = time.perf_counter()
            await connection.execute(MATCH, {"types": EVENTS}, prepare=True)
            return time.perf_counter() - begin

    async def prepare(self, types: int) -> None:
        """Count the buffers of a batch, and forget what was measured before."""
        self.store.counting = True
        await self.batch(types)
        self.store.counting = False
        self.buffers = self.store.buffers["fan_out"] / EVENTS
        await self.batch(types)
        self.batches.clear()
        self.matches.clear()


def fill(base: Database, count: int, filter: str | None, others: str | None) -> None:
    """Add ten subscriptions that match, and others up to `count` that do not."""
    install(base)
    subscribe(base, TEN // 2, "invoice.*", filter=filter)
    subscribe(base, TEN // 2, "invoice.*", tenant="acme", filter=filter)
    subscribe(base, (count - TEN) // 2, "invoice.*", tenant="tenant-#", filter=others)
    subscribe(base, (count - TEN + 1) // 2, "order-#.*", filter=others)
    settle(base)


def measure(server: Database, sizes: Sequence[int], filters: str, batches: int) -> list[Run]:
    """Make all runs with such filters, and print each."""
    with ExitStack() as stack:
        bases = [stack.enter_context(fresh(server)) for _ in sizes]
        for base, size in zip(bases, sizes, strict=True):
            fill(base, size, *FILTERS[filters])
        return asyncio.run(_measure(bases, sizes, filters, batches))


async def _measure(
    bases: Sequence[Database], sizes: Sequence[int], filters: str, batches: int
) -> list[Run]:
    runs = []
    async with AsyncExitStack() as stack:
        sites = [
            Site(base, size, await stack.enter_async_context(opened(base)))
            for base, size in zip(bases, sizes, strict=True)
        ]
        for title, types in TYPES.items():
            for site in sites:
                await site.prepare(types)
            for _ in range(batches):
                for site in sites:
                    await site.batch(types)
            for site in sites:
                runs.append(account(f"{filters}, {title}", site, sites[0]))
                TABLE.row(runs[-1]["run"], runs[-1])
    return runs


def account(title: str, site: Site, smallest: Site) -> Run:
    """Return what the batches at `site` took, beside those of the smallest right before."""
    return {
        "run": title,
        "subscriptions": site.subscriptions,
        "event_us": 1e6 * median(site.batches) / EVENTS,
        "ratio": ratio(site.batches, smallest.batches),
        "buffers": site.buffers,
        "match_us": 1e6 * median(site.matches) / EVENTS,
        "match_ratio": ratio(site.matches, smallest.matches),
        "exact": site.exact,
    }


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of what each took beside its neighbour."""
    return median(one / other for one, other in zip(times, others, strict=True))


@click.command(context_settings={"show_default": True})
@click.option("--subscriptions", default=SIZES, multiple=True, help="In all; give it again.")
@click.option("--batches", default=10, help="Of 500 events each; their median counts.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(subscriptions: tuple[int, ...], batches: int, database_url: str | None) -> None:
    """Measure the fan-out with few and with many subscriptions."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    TABLE.head()
    runs: list[Run] = []
    with server(database_url) as base:
        around = surroundings(base)
        for filters in FILTERS:
            runs += measure(base, sorted(subscriptions), filters, batches)
    click.echo(json.dumps({"surroundings": around, "runs": runs}))
    if not all(run["exact"] for run in runs):
        sys.exit("Error: an event did not make its ten deliveries")


if __name__ == "__main__":
    main()
