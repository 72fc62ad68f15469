"""The plan is part of the contract: statements touch what they need, however much is open.

Counted is what they read, not what EXPLAIN promises: PostgreSQL keeps the account itself,
also of what functions and triggers do.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from outbox.worker.rows import Result
from outbox.worker.session import SESSION
from outbox.worker.store import query
from tests.databases import NAME, clone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_postgresql.executors import NoopExecutor

LANES = 100
FILL = """
INSERT INTO outbox.subscription (url, types)
SELECT 'http://127.0.0.1:9/', '{*}' FROM generate_series(1, 100);
INSERT INTO outbox.subscription_type SELECT 'invoice.paid', '', id FROM outbox.subscription;
INSERT INTO outbox.event (type, data, due_at)
SELECT 'invoice.paid', '{"id": 1}', '2020-01-01' FROM generate_series(1, 20000);
WITH made AS (
    INSERT INTO outbox.delivery (event_id, subscription_id)
    SELECT e.id, s.id FROM (SELECT id FROM outbox.event LIMIT 1000) e, outbox.subscription s
    RETURNING *
)
INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at)
SELECT id, subscription_id, event_id, now() - interval '1 h' FROM made;
INSERT INTO outbox.attempt (delivery_id, attempt, outcome, worker_id)
SELECT delivery_id, 1, 'retry', 7 FROM outbox.delivery_queue;
INSERT INTO outbox.subscription_health (subscription_id, failures)
SELECT gen_random_uuid(), 1 FROM generate_series(1, 20000);
INSERT INTO outbox.subscription_health (subscription_id, failures)
SELECT id, 1 FROM outbox.subscription;
"""
# One subscription more: ordered, with 20,000 open deliveries of 200 subjects, 50 in flight.
FILL_LIMITED = """
WITH one AS (
    INSERT INTO outbox.subscription (url, types, ordered, rate, max_in_flight)
    VALUES ('http://127.0.0.1:9/', '{*}', 'stop', 1000, 200) RETURNING id
), throttled AS (
    INSERT INTO outbox.throttle (subscription_id, filled_at) SELECT id, '2020-01-01' FROM one
), made AS (
    INSERT INTO outbox.delivery (event_id, subscription_id)
    SELECT e.id, one.id FROM outbox.event e, one RETURNING *
)
INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, subject, due_at)
SELECT id, subscription_id, event_id, subject,
    CASE place WHEN 1 THEN now() - interval '1 h' ELSE 'infinity' END
FROM (
    SELECT *, row_number() OVER (PARTITION BY subject ORDER BY event_id) AS place
    FROM (SELECT *, 'user/' || row_number() OVER (ORDER BY event_id) % 200 AS subject FROM made) m
) n;
INSERT INTO outbox.limited_claim (delivery_id, subscription_id, subject, attempt, lease_until)
SELECT delivery_id, subscription_id, subject, 1, now() + interval '1 h'
FROM outbox.delivery_queue WHERE subject IS NOT NULL AND due_at < 'infinity' LIMIT 50;
"""


@pytest.fixture(scope="module", params=["never analyzed", "analyzed"])
def big(request: pytest.FixtureRequest, template: NoopExecutor) -> Iterator[psycopg.Connection]:
    """100,000 open deliveries, 20,000 events that wait for their fan-out, as many that fail."""
    with clone(template, f"{NAME}_big") as database, psycopg.connect(database.url) as connection:
        connection.execute(SESSION.encode())
        connection.execute("SET max_parallel_workers_per_gather = 0")  # they keep accounts apart
        connection.execute((FILL + FILL_LIMITED).encode())
        connection.commit()
        if request.param == "analyzed":
            connection.execute("ANALYZE")
            connection.commit()
        yield connection


def lanes(connection: psycopg.Connection, count: int) -> list[UUID]:
    query = "SELECT id FROM outbox.subscription WHERE NOT limited ORDER BY id LIMIT %s"
    return [row[0] for row in connection.execute(query, [count])]


def limited(connection: psycopg.Connection) -> dict[str, Any]:
    """Claims of the one with limits."""
    found = connection.execute("SELECT id FROM outbox.subscription WHERE limited").fetchall()
    return {"lanes": [row[0] for row in found], "quotas": [100], "lease": 30.0}


def settled(connection: psycopg.Connection) -> dict[str, Any]:
    """The 50 in flight: each was the head of its subject, and is gone."""
    found = connection.execute("SELECT delivery_id FROM outbox.limited_claim").fetchall()
    ids = [row[0] for row in found]
    connection.execute("DELETE FROM outbox.delivery_queue WHERE delivery_id = ANY (%s)", [ids])
    return {"delivery_id": ids, "attempt": [1] * len(ids)}


def claims(connection: psycopg.Connection, lanes_: int, quota: int) -> dict[str, Any]:
    return {"lanes": lanes(connection, lanes_), "quotas": [quota] * lanes_, "lease": 30.0}


def results(connection: psycopg.Connection, *, again: bool) -> dict[str, Any]:
    """500 results: half of them ends."""
    found = connection.execute("SELECT delivery_id FROM outbox.delivery_queue LIMIT 500")
    made = [
        Result(
            delivery_id=str(id), attempt=1 if again else 2, counts=True, delay=1.0, revision=1,
            outcome="delivered" if n % 2 else "retry", started_at=datetime(2026, 1, 31, tzinfo=UTC),
            duration_ms=1, status=200, error_class=None, error=None, response_body=None,
        )
        for n, (id,) in enumerate(found)
    ]  # fmt: skip
    return as_given(made, again=again)


def deaths(connection: psycopg.Connection) -> dict[str, Any]:
    """500 results that end deliveries of many failing subscriptions, each to be told of."""
    values = results(connection, again=False)
    connection.execute(
        "UPDATE outbox.delivery_queue SET lease_owner = 7, lease_until = now(), attempt = 2"
        " WHERE delivery_id = ANY (%s::uuid[])",
        [values["delivery_id"]],
    )
    return {**values, "outcome": ["dead"] * 500}


def as_given(made: list[Result], *, again: bool) -> dict[str, Any]:
    columns = zip(*made, strict=True)
    return {**dict(zip(Result._fields, map(list, columns), strict=True)), "again": again}


def waiting(connection: psycopg.Connection) -> UUID:
    row = connection.execute("SELECT event_id FROM outbox.event_queue LIMIT 1").fetchone()
    assert row
    found: UUID = row[0]
    return found


def pairs(connection: psycopg.Connection, mode: str) -> dict[str, Any]:
    """100 events from the middle; nothing waits for its fan-out."""
    connection.execute("DELETE FROM outbox.event_queue")
    row = connection.execute(
        "SELECT id FROM outbox.event ORDER BY id OFFSET 500 LIMIT 1"
    ).fetchone()
    assert row
    nothing = dict.fromkeys(("only_to", "type", "tenant", "subject"))
    return nothing | {
        "mode": mode, "asked_at": datetime(2099, 1, 1, tzinfo=UTC), "after_event": row[0],
        "after_subscription": UUID(int=0), "last_event": UUID(int=2**128 - 1), "apart": False,
        "lanes": [], "after_events": [], "scan": 100, "limit": 500,
    }  # fmt: skip


def given(connection: psycopg.Connection) -> dict[str, Any]:
    found = connection.execute("SELECT delivery_id FROM outbox.delivery_queue LIMIT 100").fetchall()
    return {"delivery_id": [row[0] for row in found], "attempt": [1] * len(found), "cut": True}


# The statement, its values, and how many rows of the big tables it may read.
STATEMENTS: dict[str, tuple[str, Any, int]] = {
    "claim a little of many lanes": ("claim", lambda c: claims(c, LANES, 1), 1_500),
    "claim much of one lane": ("claim", lambda c: claims(c, 1, 150), 1_500),
    "claim from one with limits": ("claim_limited", limited, 1_500),
    "settle": ("settle", settled, 500),
    "promote forgotten": ("promote_forgotten", lambda _: {}, 2_000),
    "sweep": ("sweep", lambda _: {"after": UUID(int=0), "limit": 1000}, 1_000),
    "sweep from the middle": ("sweep", lambda _: {"after": uuid4(), "limit": 10}, 1_000),
    "record": ("record", lambda c: results(c, again=False), 5_000),
    "record deaths": ("record", deaths, 5_000),
    "disable failing": ("disable_failing", lambda _: {}, 41_000),
    "record again": ("record", lambda c: results(c, again=True), 5_000),
    "release": ("release", given, 1_000),
    "recipients": ("recipients", lambda c: {"ids": lanes(c, LANES)}, 0),
    "fan out": ("fan_out", lambda _: {"limit": 50, "only": None}, 1_000),
    "set aside": ("set_aside", lambda c: {"error": "broken", "event_id": waiting(c)}, 10),
    "replay all": ("replay_pairs", lambda c: pairs(c, "all"), 35_000),
    "replay missing": ("replay_pairs", lambda c: pairs(c, "missing"), 35_000),
    "replay dead": ("replay_pairs", lambda c: pairs(c, "dead"), 35_000),
    "rooms": ("rooms", lambda c: {"lanes": lanes(c, 10), "open": 100, "waiting": 32}, 1_500),
    "cancel removed": ("cancel_removed", lambda _: {}, 100),
}


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_reads(big: psycopg.Connection, statement: str, plan: str) -> None:
    """A statement scans no big table and reads no more of it than it works on."""
    name, values, bound = STATEMENTS[statement]
    with big.transaction(force_rollback=True):
        prepared = {**values(big), "owner": 7}
        before = reads(big)
        big.execute(f"SET LOCAL plan_cache_mode = {plan}".encode())
        big.execute(query(name), prepared, prepare=True)
        scanned, fetched = (after - b for after, b in zip(reads(big), before, strict=True))

    assert scanned == 0
    assert fetched <= bound


def reads(connection: psycopg.Connection) -> tuple[int, int]:
    """Rows of the big tables read by sequential scans, and by index, in this transaction."""
    row = connection.execute("""
        SELECT coalesce(sum(seq_tup_read), 0)::int, coalesce(sum(idx_tup_fetch), 0)::int
        FROM pg_stat_xact_user_tables
        WHERE schemaname = 'outbox' AND relname ~ '^(event|delivery|attempt|subscription_health)'
    """).fetchone()
    assert row
    return row[0], row[1]


def test_the_account_is_kept(big: psycopg.Connection) -> None:
    """A scan of a big table would be seen."""
    with big.transaction(force_rollback=True):
        before = reads(big)
        big.execute("SET LOCAL enable_seqscan = on")
        big.execute("SELECT count(*) FROM outbox.delivery_queue WHERE due_at < now()")

        assert reads(big)[0] - before[0] >= 100_000
