"""Databases filled in SQL: subscriptions by the hundred thousand, deliveries by the million.

They are as `subscriptions.add` and the fan-out would leave them, only sooner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox import database, schema

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import LiteralString

    from .database import Database

SLICE = 50_000  # rows in one statement

SUBSCRIBE: LiteralString = """
WITH made AS (
    INSERT INTO outbox.subscription (url, types, tenant, filter)
    SELECT format('%%s/%%s', %(url)s::text, n), ARRAY[replace(%(pattern)s, '#', n::text)],
        replace(%(tenant)s, '#', n::text), %(filter)s::text
    FROM generate_series(1, %(count)s) n
    RETURNING *
), typed AS (
    INSERT INTO outbox.subscription_type (pattern, tenant, subscription_id)
    SELECT types[1], coalesce(tenant, ''), id FROM made
), secured AS (
    INSERT INTO outbox.secret (subscription_id, sealed)
    SELECT id, 'whsec_' || encode(sha256(id::text::bytea), 'base64') FROM made
), changed AS (
    INSERT INTO outbox.subscription_change (
        subscription_id, revision, change, actor, command, after)
    SELECT id, 1, 'added', 'benchmark', 'benchmarks.bulk', to_jsonb(made) FROM made
)
SELECT array_agg(id::text ORDER BY id) AS ids FROM made
"""
# The n-th delivery goes to the n-th of the lanes, round and round.
OPEN: LiteralString = """
WITH event AS (
    INSERT INTO outbox.event (type, data)
    SELECT 'invoice.paid', json_build_object(
        'id', 'in_' || n, 'customer', 'cus_4QFJOjw2pOmAGJ', 'currency', 'eur', 'amount', 129900,
        'note', repeat('a line of an invoice ', 10))
    FROM generate_series(1, %(count)s) n
    RETURNING id
), delivery AS (
    INSERT INTO outbox.delivery (event_id, subscription_id)
    SELECT id, (%(lanes)s::uuid[])[1 + mod(row_number() OVER (ORDER BY id), %(width)s)] FROM event
    RETURNING id, subscription_id, event_id
)
INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at)
SELECT id, subscription_id, event_id, now() FROM delivery
"""
FANNED_OUT: LiteralString = "TRUNCATE outbox.event_queue"


def install(base: Database) -> None:
    """Install the schema."""
    engine = database.engine(base.url)
    with engine.begin() as connection:
        schema.apply(connection)
    engine.dispose()


def subscribe(
    base: Database,
    count: int,
    pattern: str,
    *,
    url: str = "http://127.0.0.1:9",
    tenant: str | None = None,
    filter: str | None = None,
) -> list[str]:
    """Add `count` subscriptions to one pattern each; return their ids.

    A `#` in `pattern` and `tenant` is the number of the subscription; `url` ends with it.
    """
    values = {"url": url, "pattern": pattern, "tenant": tenant, "filter": filter, "count": count}
    ids: list[str] = base.ask(SUBSCRIBE, values)["ids"] or []
    return ids


def open_deliveries(base: Database, count: int, lanes: Sequence[str]) -> None:
    """Make `count` deliveries that are due, each of an event of its own, `lanes` in turns."""
    width = len(lanes)
    for start in range(0, count, SLICE - SLICE % width):
        some = min(SLICE - SLICE % width, count - start)
        base.do(OPEN, {"count": some, "lanes": list(lanes), "width": width})
        base.do(FANNED_OUT)


def settle(base: Database) -> None:
    """Let nothing of the filling be left to do: no vacuum, no checkpoint."""
    base.run("VACUUM (ANALYZE)")
    base.run("CHECKPOINT")
