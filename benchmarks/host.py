"""What an event costs the host's transaction.

A transaction updates a row of the host's own and commits. It is measured as it is
(`nothing`), with an INSERT of an event's bytes into a plain table with a primary key
(`plain`), and with an event of the same bytes: as an INSERT into the outbox (`insert`), by
`outbox.emit` (`emit`), and by `outbox.emit` with a key (`keyed`). All of them go through
SQLAlchemy, with one client and with many, each with a row of its own; no worker runs.
Beside the many `pg_stat_activity` is looked at again and again: what do they wait for?

    python -m benchmarks.host --clients 1 --clients 32

Prints a row for each and, at the end, one line of JSON with the samples. The statement is
what is added to the UPDATE; its ratio is to the plain INSERT of the same round. Exits 1
unless each transaction has its row.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import psycopg

from outbox import database

from .database import Database, fresh
from .drain import server, surroundings
from .host_client import WAYS, transact
from .processes import Stuck, cpu_seconds
from .report import Table, medians, microseconds, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import LiteralString

    Run = dict[str, Any]

PROCESSES = 4  # of clients: one would be the bottleneck before PostgreSQL is
HEAD_START, FOR_EACH = 0.5, 0.05  # seconds in which all clients connect and warm up
SAMPLE_EVERY = 0.02  # seconds
COLUMNS = {
    "rate": ("tx a second", ",.0f"),
    "p50_ms": ("tx p50 ms", ",.2f"),
    "p99_ms": ("tx p99 ms", ",.2f"),
    "statement_p50_ms": ("statement ms", ",.2f"),
    "statement_ratio": ("of plain", ",.2f"),
    "ratio": ("tx of plain", ",.2f"),
    "postgresql_us": ("PostgreSQL µs", ",.0f"),
    "wal_bytes": ("WAL bytes", ",.0f"),
    "samples": ("samples", ",.0f"),
    "waits": ("waits", ",.0f"),
    "ours": ("ours", ",.0f"),
}
TABLE = Table(f"{'clients':>7}  {'with':<7}", COLUMNS)

TABLES: tuple[LiteralString, ...] = (
    "CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 10)",
    "INSERT INTO account SELECT n, 0 FROM generate_series(0, 999) n",
    """
    CREATE TABLE plain (
        id uuid PRIMARY KEY DEFAULT outbox.uuid7(), type text NOT NULL, data json NOT NULL,
        occurred_at timestamptz NOT NULL DEFAULT clock_timestamp())
    """,
)
ROWS: LiteralString = """
SELECT (SELECT sum(balance) FROM account)::bigint AS transactions,
    (SELECT count(*) FROM plain) AS plain, (SELECT count(*) FROM outbox.event) AS events,
    (SELECT count(*) FROM outbox.event_queue) AS queued,
    (SELECT count(*) FROM outbox.event_key) AS keys
"""
# A wait for a lock is looked up at once, while it lasts: what of may tell is its relation.
WAITING: LiteralString = """
SELECT a.wait_event_type || ' ' || a.wait_event AS wait, l.locktype, l.relation::regclass::text
FROM pg_stat_activity a
LEFT JOIN LATERAL (
    SELECT k.locktype, k.relation FROM pg_locks k
    WHERE a.wait_event_type = 'Lock' AND k.pid = a.pid AND NOT k.granted LIMIT 1
) l ON true
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
    AND a.backend_type = 'client backend' AND a.wait_event_type IN ('Lock', 'LWLock', 'BufferPin')
"""


class Sampler:
    """Looks at what clients wait for. `ours` are waits for a lock that is not the host's own."""

    def __init__(self, base: Database) -> None:
        target = database.conninfo(base.url, application_name="outbox-benchmark")
        self._connection = psycopg.connect(target, autocommit=True)
        self.samples = 0
        self.waits: Counter[str] = Counter()
        self.ours: Counter[str] = Counter()

    def look(self) -> None:
        """Take one sample."""
        self.samples += 1
        for wait, kind, relation in self._connection.execute(WAITING):
            self.waits[wait] += 1
            if wait.startswith("Lock") and relation not in {"account", "plain"}:
                self.ours[f"{wait} {kind} {relation}"] += 1

    def close(self) -> Run:
        """Return what was seen."""
        self._connection.close()
        return {
            "samples": self.samples,
            "waits": self.waits.total(),
            "ours": self.ours.total(),
            "waits_for": dict(self.waits),
            "ours_for": dict(self.ours),
        }


def measure(base: Database, pool: ProcessPoolExecutor, way: str, many: int, seconds: float) -> Run:
    """Let so many clients make transactions for so long; return what each took."""
    begin = time.monotonic() + HEAD_START + many * FOR_EACH
    parts = [range(many)[n::PROCESSES] for n in range(min(PROCESSES, many))]
    url = base.host_url.render_as_string(hide_password=False)
    work = [pool.submit(transact, url, way, part, begin, begin + seconds) for part in parts]
    wal, postmaster = base.wal(), base.postmaster()
    time.sleep(max(0.0, begin - time.monotonic()))
    cpu = cpu_seconds(postmaster)
    seen = _sampled(base, begin + seconds) if many > 1 else {}
    timed = [one for future in work for one in future.result()]
    if not timed:
        raise Stuck("no client could begin in time")
    spent, wrote = cpu_seconds(postmaster), base.wal() - wal
    return {
        "with": way,
        "clients": many,
        "transactions": len(timed),
        "rate": len(timed) / seconds,
        **milliseconds([one.whole for one in timed]),
        **milliseconds([one.statement for one in timed], "statement_"),
        "postgresql_us": microseconds(cpu, spent, len(timed)),
        "wal_bytes": wrote / len(timed),
        **seen,
    }


def _sampled(base: Database, until: float) -> Run:
    sampler = Sampler(base)
    while time.monotonic() < until:
        sampler.look()
        time.sleep(SAMPLE_EVERY)
    return sampler.close()


def one_round(
    server: Database, pool: ProcessPoolExecutor, clients: tuple[int, ...], seconds: float
) -> list[Run]:
    """Make each run once, on one database; return them with their ratios."""
    with fresh(server) as base:
        base.install("http://127.0.0.1:9/hooks")
        for statement in TABLES:
            base.do(statement)
        base.run("CHECKPOINT")
        before = base.ask(ROWS)
        runs = [measure(base, pool, way, n, seconds) for n in clients for way in WAYS]
        after = base.ask(ROWS)
    _check({name: after[name] - before[name] for name in after}, runs)
    plain = {run["clients"]: run for run in runs if run["with"] == "plain"}
    return [{**run, **_ratios(run, plain[run["clients"]])} for run in runs]


def _ratios(run: Run, plain: Run) -> Run:
    ratios = {"ratio": plain["rate"] / run["rate"]}
    if "statement_p50_ms" in run and run["with"] != "nothing":
        ratios["statement_ratio"] = run["statement_p50_ms"] / plain["statement_p50_ms"]
    return ratios


def _check(found: Run, runs: list[Run]) -> None:
    """Exit unless each transaction left what it is to leave."""

    def made(*ways: str) -> int:
        return sum(run["transactions"] for run in runs if run["with"] in ways)

    events = made("insert", "emit", "keyed")
    expected = {"transactions": made(*WAYS), "plain": made("plain"), "events": events,
                "queued": events, "keys": made("keyed")}  # fmt: skip
    if found != expected:
        sys.exit(f"Error: {found}, not {expected}")


@contextmanager
def client_processes() -> Iterator[ProcessPoolExecutor]:
    """Run processes of clients, all of them started; each ends when this one does."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        list(pool.map(time.sleep, [1.0] * PROCESSES))  # none is free for a second one
        yield pool


def told(runs: list[Run]) -> list[Run]:
    """Return the medians of each kind of run, in the order of the first round."""
    kinds = dict.fromkeys((run["clients"], run["with"]) for run in runs)
    found = []
    for clients, way in kinds:
        same = [run for run in runs if (run["clients"], run["with"]) == (clients, way)]
        found.append({**medians(same), "with": way, **(_seen(same) if clients > 1 else {})})
    return found


def _seen(runs: list[Run]) -> Run:
    """Return the samples of all `runs` together."""
    counts = {name: sum(run[name] for run in runs) for name in ("samples", "waits", "ours")}
    for name in ("waits_for", "ours_for"):
        counts[name] = dict(sum((Counter(run[name]) for run in runs), Counter()))
    return counts


@click.command(context_settings={"show_default": True})
@click.option("--clients", default=(1, 32), multiple=True, help="At the same time; again for more.")
@click.option("--seconds", default=2.0, help="For each run.")
@click.option("--rounds", default=3, help="The median of so many counts.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(clients: tuple[int, ...], seconds: float, rounds: int, database_url: str | None) -> None:
    """Measure a host's transaction without and with an event."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    runs: list[Run] = []
    with server(database_url) as base, client_processes() as pool:
        around = surroundings(base)
        try:
            for number in range(1, rounds + 1):
                click.echo(f"round {number} of {rounds}", err=True)
                runs += one_round(base, pool, clients, seconds)
        except Stuck as error:
            sys.exit(f"Error: {error}")
    TABLE.head()
    middle = told(runs)
    for run in middle:
        TABLE.row(f"{run['clients']:>7.0f}  {run['with']}", run)
    for run in middle:
        for what, times in run.get("ours_for", {}).items():
            click.echo(f"{run['clients']:.0f} clients, {run['with']}: {times} waits for {what}")
    load = {"seconds": seconds, "rounds": rounds, "clients": clients}
    result = {"load": load, "surroundings": around, "median": middle, "runs": runs}
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
