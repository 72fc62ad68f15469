"""What a claim and a record cost with 1,000, 100,000 and 1,000,000 open deliveries.

The statements that the worker runs, in the settings of its sessions: a hundred deliveries of
twenty lanes are claimed, recorded as delivered, and made up for by as many new ones of the
same events. Three times: with all lanes at work (`even`), with nine tenths of what is open in
one more that is paused (`stopped`), and with all at work while a transaction that began long
ago holds vacuum back (`held`), after so many claims that what they left behind has piled up.

    python -m benchmarks.backlog --cycles 200

The databases take turns, so that what else the machine does hits all of them alike. Prints a
row for each and, at the end, one line of JSON. Exits 1 if a claim did not bring a hundred, or
if a delivery was not recorded exactly once.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import click
import psycopg

from outbox import database
from outbox.worker.rows import Result

from .bulk import install, open_deliveries, settle, subscribe
from .database import ATTEMPTS, Database, fresh
from .drain import server, surroundings
from .report import Table
from .statements import opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import LiteralString

    from outbox.worker.claim import Claim

    from .statements import Counted

    Run = dict[str, Any]

BATCH = 100
LANES = 20
STOPPED = 9  # of ten deliveries
LEASE = 35.0  # seconds
WARM_UP = 10  # cycles, in which statements are prepared
SIZES = (1_000, 100_000, 1_000_000)
TABLE = Table(
    " " * 8,
    {
        "open": ("open", ",.0f"),
        "claim_p50_ms": ("claim p50 ms", ",.2f"),
        "claim_p99_ms": ("p99 ms", ",.2f"),
        "claim_ratio": ("ratio", ".2f"),
        "claim_buffers": ("buffers a row", ",.1f"),
        "record_p50_ms": ("record p50 ms", ",.2f"),
        "record_p99_ms": ("p99 ms", ",.2f"),
        "record_ratio": ("ratio", ".2f"),
        "record_buffers": ("buffers a row", ",.1f"),
        "dead_rows": ("dead rows", ",.0f"),
    },
)

PAUSE: LiteralString = """
UPDATE outbox.subscription SET state = 'paused', state_reason = 'by the benchmark'
WHERE id = %s::uuid
"""
MAKE_UP: LiteralString = """
WITH made AS (
    INSERT INTO outbox.delivery (event_id, subscription_id)
    SELECT * FROM unnest(%(events)s::uuid[], %(lanes)s::uuid[])
    RETURNING id, subscription_id, event_id
)
INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at)
SELECT id, subscription_id, event_id, now() FROM made
"""
DEAD: LiteralString = """
SELECT n_dead_tup AS rows FROM pg_stat_user_tables WHERE relname = 'delivery_queue'
"""


@dataclass(slots=True)
class Site:
    """A database with so many open deliveries, and the seconds that each cycle took there."""

    base: Database
    open: int
    lanes: list[str]
    store: Counted
    cycles: int = 0
    claims: list[float] = field(default_factory=list)
    records: list[float] = field(default_factory=list)
    exact: bool = True

    async def cycle(self) -> None:
        """Claim, record, and make up for what has ended."""
        begin = time.perf_counter()
        claims = await self.store.claim(self._wanted(), LEASE)
        claimed = time.perf_counter()
        results = list(map(delivered, claims))
        recording = time.perf_counter()
        undelivered = await self.store.record(results, again=False, gone={})
        self.records.append(time.perf_counter() - recording)
        self.claims.append(claimed - begin)
        self.exact &= len(claims) == BATCH and not undelivered
        self.cycles += 1
        await self._make_up(claims)

    def _wanted(self) -> dict[str, int]:
        return dict.fromkeys(self.lanes, BATCH // LANES)

    async def _make_up(self, claims: list[Claim]) -> None:
        values = {
            "events": [claim.event_id for claim in claims],
            "lanes": [claim.subscription_id for claim in claims],
        }
        async with self.store.transaction() as connection:
            await connection.execute(MAKE_UP, values, prepare=True)

    async def buffers(self) -> dict[str, float]:
        """Return how many buffers a claim and a record touch for each of their rows."""
        self.store.counting = True
        await self.cycle()
        self.store.counting = False
        return {f"{name}_buffers": self.store.buffers[name] / BATCH for name in ("claim", "record")}

    def forget(self) -> None:
        """Let what was measured so far not count."""
        self.claims.clear()
        self.records.clear()

    def is_exact(self) -> bool:
        """Return whether all was recorded once, and as much is open as at first."""
        found = self.base.ask(ATTEMPTS)
        recorded = found["attempts"] == found["delivered"] == self.cycles * BATCH
        return bool(self.exact and recorded and found["open"] == self.open)


def delivered(claim: Claim) -> Result:
    """Return what a claim comes to: a 200 within 10 ms."""
    return Result(
        delivery_id=claim.delivery_id, attempt=claim.attempt, outcome="delivered", counts=False,
        delay=None, revision=claim.revision, started_at=time.time(),
        duration_ms=10, status=200, error_class=None, error=None, response_body=None,
        first_byte_ms=10,
    )  # fmt: skip


def fill(base: Database, count: int, *, stopped: bool) -> list[str]:
    """Open so many deliveries; return the lanes at work."""
    install(base)
    lanes = subscribe(base, LANES, "lane-#")
    turns = lanes
    if stopped:
        [paused] = subscribe(base, 1, "stopped")
        base.do(PAUSE, [paused])
        turns = [id for lane in lanes for id in (lane, *[paused] * STOPPED)]
    open_deliveries(base, count, turns)
    settle(base)
    return lanes


def measure(server: Database, load: Load, *, stopped: bool) -> list[Run]:
    """Make all runs on databases filled in one way."""
    with ExitStack() as stack:
        bases = [stack.enter_context(fresh(server)) for _ in load.sizes]
        lanes = [
            fill(base, size, stopped=stopped) for base, size in zip(bases, load.sizes, strict=True)
        ]
        return asyncio.run(_measure(bases, lanes, load, stopped=stopped))


@dataclass(frozen=True, slots=True)
class Load:
    """How much is open, how many cycles are counted, how many leave their dead rows before."""

    sizes: tuple[int, ...]
    cycles: int
    churn: int


async def _measure(
    bases: Sequence[Database], lanes: Sequence[list[str]], load: Load, *, stopped: bool
) -> list[Run]:
    async with AsyncExitStack() as stack:
        sites = [
            Site(base, size, each, await stack.enter_async_context(opened(base)))
            for base, size, each in zip(bases, load.sizes, lanes, strict=True)
        ]
        if stopped:
            return await run("stopped", sites, load.cycles)
        runs = await run("even", sites, load.cycles)
        for site in sites:
            await stack.enter_async_context(snapshot(site.base))
        await turns(sites, load.churn)
        return runs + await run("held", sites, load.cycles)


@asynccontextmanager
async def snapshot(base: Database) -> AsyncIterator[None]:
    """Keep a transaction open that still sees all as it is now."""
    target = database.conninfo(base.url, application_name="outbox-benchmark")
    async with await psycopg.AsyncConnection.connect(target) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await connection.execute("SELECT count(*) FROM outbox.subscription")
        yield
        await connection.rollback()


async def run(title: str, sites: Sequence[Site], cycles: int) -> list[Run]:
    """Let the sites make so many cycles in turns; print and return what they took."""
    await turns(sites, WARM_UP)
    for site in sites:
        site.forget()
    await turns(sites, cycles)
    accounts = [account(site, sites[0]) for site in sites]
    touched = [await site.buffers() for site in sites]  # after all, as it takes a cycle more
    runs = [{"run": title, **a, **b} for a, b in zip(accounts, touched, strict=True)]
    for each in runs:
        TABLE.row(title, each)
    return runs


async def turns(sites: Sequence[Site], cycles: int) -> None:
    """Let each site make a cycle, so many times."""
    for _ in range(cycles):
        for site in sites:
            await site.cycle()


def account(site: Site, smallest: Site) -> Run:
    """Return what the cycles at `site` took, beside those of the smallest right before."""
    return {
        "open": site.open,
        **milliseconds("claim", site.claims, smallest.claims),
        **milliseconds("record", site.records, smallest.records),
        "dead_rows": site.base.ask(DEAD)["rows"],
        "exact": site.is_exact(),
    }


def milliseconds(name: str, times: list[float], others: list[float]) -> dict[str, float]:
    """Return the percentiles of `times` in seconds, and the median ratio to their neighbours."""
    cuts = quantiles(times, n=100, method="inclusive")
    return {
        f"{name}_p50_ms": cuts[49] * 1000,
        f"{name}_p99_ms": cuts[98] * 1000,
        f"{name}_ratio": median(one / other for one, other in zip(times, others, strict=True)),
    }


@click.command(context_settings={"show_default": True})
@click.option("--open", "sizes", default=SIZES, multiple=True, help="Deliveries; give it again.")
@click.option("--cycles", default=200, help="Of a claim and a record, counted.")
@click.option("--churn", default=300, help="So many before, where vacuum is held back.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(sizes: tuple[int, ...], cycles: int, churn: int, database_url: str | None) -> None:
    """Measure claims and records with few and with many open deliveries."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    TABLE.head()
    load = Load(tuple(sorted(sizes)), cycles, churn)
    runs: list[Run] = []
    with server(database_url) as base:
        around = surroundings(base)
        for stopped in (False, True):
            runs += measure(base, load, stopped=stopped)
    click.echo(json.dumps({"surroundings": around, "runs": runs}))
    if not all(run["exact"] for run in runs):
        sys.exit("Error: not every claim brought what it should, or was recorded once")


if __name__ == "__main__":
    main()
