"""How long an audit takes.

A database is filled in SQL: events, a delivery of each, about 1.3 attempts of each delivery,
some of them open, a key for every tenth event. Then `outbox audit` is run on it twice: before
PostgreSQL has any statistics of these rows, as after a restore, and after VACUUM ANALYZE.

    python -m benchmarks.audit --deliveries 1000000

Prints a row for each run and one line of JSON. Exits 1 if the audit finds anything.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy import text

from outbox import audit, database, schema

from .database import Database, fresh
from .drain import server, surroundings

if TYPE_CHECKING:
    from typing import LiteralString

    from sqlalchemy import Engine

    Run = dict[str, Any]

SUBSCRIPTIONS: LiteralString = """
WITH made AS (
    INSERT INTO outbox.subscription (url, types, schemes)
    SELECT 'http://127.0.0.1:9/' || n, ARRAY['invoice.' || n], '{none}'
    FROM generate_series(1, 20) n
    RETURNING *
), typed AS (
    INSERT INTO outbox.subscription_type (pattern, tenant, subscription_id)
    SELECT types[1], '', id FROM made
)
INSERT INTO outbox.subscription_change (
    subscription_id, revision, change, actor, command, after, changed_at)
SELECT id, 1, 'added', 'benchmark', 'benchmarks.audit', to_jsonb(made), now() - interval '1 day'
FROM made
"""
EVENTS: LiteralString = """
INSERT INTO outbox.event (type, subject, data)
SELECT 'invoice.' || (mod(n, 20) + 1), 'customer/' || mod(n, 1000), json_build_object(
    'id', n, 'customer', 'cus_4QFJOjw2pOmAGJ', 'currency', 'eur', 'amount', 129900,
    'note', repeat('a line of an invoice ', 10))
FROM generate_series(1, CAST(:count AS integer)) n
"""
KEYS: LiteralString = """
INSERT INTO outbox.event_key (tenant, key, event_id, digest)
SELECT '', 'key-' || id, id, outbox.digest(
    json_build_object('type', type, 'subject', subject, 'data', data))
FROM outbox.event WHERE right(id::text, 1) < '2'
"""
DELIVERIES: LiteralString = """
WITH fanned_out AS (
    DELETE FROM outbox.event_queue RETURNING event_id
)
INSERT INTO outbox.delivery (event_id, subscription_id)
SELECT e.id, t.subscription_id
FROM outbox.event e JOIN outbox.subscription_type t ON t.pattern = e.type
WHERE e.id IN (SELECT event_id FROM fanned_out)
ORDER BY e.id
"""
# Of twenty, six had to be tried again, one of them died, and one more waits for its retry.
ATTEMPTS: LiteralString = """
WITH numbered AS MATERIALIZED (
    SELECT d.*, mod(row_number() OVER (ORDER BY id), 20) AS n FROM outbox.delivery d
), failed AS (
    INSERT INTO outbox.attempt (delivery_id, attempt, outcome, worker_id, revision, started_at,
        duration_ms, status, error, due_at, recorded_at)
    SELECT id, 1, 'retry', 1, 1, clock_timestamp(), 20, 503, 'HTTP 503',
        clock_timestamp() + interval '5 s', clock_timestamp()
    FROM numbered WHERE n < 7
), ended AS (
    INSERT INTO outbox.attempt (delivery_id, attempt, outcome, worker_id, revision, started_at,
        duration_ms, status, error, recorded_at)
    SELECT id, CASE WHEN n < 7 THEN 2 ELSE 1 END, CASE n WHEN 0 THEN 'dead' ELSE 'delivered' END, 1,
        1, clock_timestamp(), 20, CASE n WHEN 0 THEN 410 ELSE 200 END,
        CASE n WHEN 0 THEN 'HTTP 410' END, clock_timestamp()
    FROM numbered WHERE n <> 6
)
INSERT INTO outbox.delivery_queue (
    delivery_id, subscription_id, event_id, due_at, attempt, failures)
SELECT id, subscription_id, event_id, clock_timestamp(), 1, 1 FROM numbered WHERE n = 6
"""


def fill(base: Database, count: int) -> Engine:
    """Make `count` events with all that came of them; return an engine."""
    engine = database.engine(base.url)
    with engine.begin() as connection:
        schema.apply(connection)
    for statement in (SUBSCRIPTIONS, EVENTS, KEYS, DELIVERIES, ATTEMPTS):
        with engine.begin() as connection:
            connection.execute(text(statement), {"count": count} if statement == EVENTS else {})
    return engine


def measure(engine: Engine, title: str) -> Run:
    """Audit once."""
    begin = time.monotonic()
    plan = audit.plan(engine)
    planned = time.monotonic()
    report = audit.run(engine, plan)
    end = time.monotonic()
    return {
        "run": title,
        "seconds": end - begin,
        "plan_seconds": planned - begin,
        "slices": plan.total,
        "rate": report.account["deliveries"] / (end - begin),
        **report.account,
        "found": sum(report.found.values()),
        "adds_up": report.adds_up,
    }


def show(run: Run) -> None:
    """Print one row."""
    counts = f"{run['deliveries']:>12,}  {run['attempts']:>12,}  {run['slices']:>7,}"
    click.echo(f"{run['run']:<14}  {counts}  {run['seconds']:>8.1f}  {run['rate']:>11,.0f}")


@click.command(context_settings={"show_default": True})
@click.option("--deliveries", default=1_000_000, help="So many, one of each event.")
@click.option("--rounds", default=2, help="So many audits with statistics.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(deliveries: int, rounds: int, database_url: str | None) -> None:
    """Measure an audit without and with statistics."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    heads = f"{'deliveries':>12}  {'attempts':>12}  {'slices':>7}  {'seconds':>8}  {'a second':>11}"
    click.echo(f"{'':<14}  {heads}")
    runs = []
    with server(database_url) as base, fresh(base) as one:
        around = surroundings(base)
        engine = fill(one, deliveries)
        for number in range(rounds + 1):
            if number == 1:
                one.run("VACUUM (ANALYZE)")
            runs.append(measure(engine, "analyzed" if number else "never analyzed"))
            show(runs[-1])
        engine.dispose()
    click.echo(json.dumps({"surroundings": around, "runs": runs}))
    if any(not run["adds_up"] for run in runs):
        sys.exit("Error: the audit found a difference where there is none")


if __name__ == "__main__":
    main()
