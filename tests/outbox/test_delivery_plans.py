"""A page of the usual questions costs a page, however long the log is.

Counted is what the statements read, not what EXPLAIN promises, with the planner as a
session of the command line finds it: nothing is switched off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import text

from outbox.cancels import cancel_some
from outbox.deliveries import list_deliveries
from outbox.delivery_filter import DeliveryFilter, possible_states
from outbox.repairs import Done, Plan, retry_some
from tests.databases import NAME, clone
from tests.factories import BY, rows, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_postgresql.executors import NoopExecutor
    from sqlalchemy import Connection

# Of 100 subscriptions the last has few deliveries. In two hundred deliveries one is dead
# and one is pending, in a thousand one is cancelled; the others were delivered.
FILL = """
INSERT INTO outbox.subscription (url, types)
SELECT 'http://127.0.0.1:9/', '{*}' FROM generate_series(1, 100);
INSERT INTO outbox.event (type, tenant, data)
SELECT 'invoice.paid', 'acme', '{"id": 1}' FROM generate_series(1, :count / 10);
CREATE TEMPORARY TABLE n AS
SELECT n, outbox.uuid7() AS id FROM generate_series(1, :count) n;
WITH e AS (SELECT id, row_number() OVER () - 1 AS n FROM outbox.event),
     s AS (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM outbox.subscription)
INSERT INTO outbox.delivery (id, event_id, subscription_id)
SELECT n.id, e.id, s.id FROM n JOIN e ON e.n = n.n / 10 % (:count / 10)
JOIN s ON s.n = CASE WHEN n.n % 5000 = 7 THEN 99 ELSE n.n % 99 END;
INSERT INTO outbox.delivery_queue
    (delivery_id, subscription_id, event_id, due_at, attempt, failures)
SELECT d.id, d.subscription_id, d.event_id, now() + interval '1 h', 1, 1
FROM n JOIN outbox.delivery d ON d.id = n.id WHERE n.n % 200 = 100;
INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status, recorded_at)
SELECT id, 1,
    CASE WHEN n % 200 = 100 THEN 'retry' WHEN n % 200 = 0 THEN 'dead'
         WHEN n % 1000 = 1 THEN 'cancelled' ELSE 'delivered' END,
    CASE WHEN n % 100 = 0 THEN 503 ELSE 200 END, now()
FROM n;
DROP TABLE n;
"""

LAST = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")
SLOW = pytest.mark.slow
SIZES = {
    "20,000": (20_000, True),
    "1,000,000": (1_000_000, True),
    "1,000,000, never analyzed": (1_000_000, False),
}


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=SLOW if "1," in n else ()) for n in SIZES]
)
def big(request: pytest.FixtureRequest, template: NoopExecutor) -> Iterator[Connection]:
    """So many deliveries."""
    count, analyzed = SIZES[request.param]
    with clone(template, f"{NAME}_log") as database, database.engine.connect() as connection:
        connection.execute(text("SET max_parallel_workers_per_gather = 0"))  # their own accounts
        for statement in filter(None, FILL.strip().split(";\n")):
            connection.execute(text(statement.removesuffix(";")), {"count": count})
        connection.commit()
        if analyzed:
            connection.execute(text("ANALYZE"))
            connection.commit()
        yield connection


def one(connection: Connection, number: int) -> Any:
    query = "SELECT id FROM outbox.subscription ORDER BY id OFFSET :number LIMIT 1"
    return value(connection, query, number=number)


def middle(connection: Connection) -> Any:
    query = "SELECT id FROM outbox.delivery ORDER BY id OFFSET 10000 LIMIT 1"
    return value(connection, query)


# What is asked for, and how many rows may be read for a page of 50.
QUESTIONS: dict[str, tuple[Any, int]] = {
    "newest": (lambda _: {}, 600),
    "the next page": (lambda c: {"before": middle(c)}, 600),
    "of one subscription": (lambda c: {"subscription_id": one(c, 5)}, 600),
    "of a quiet subscription": (lambda c: {"subscription_id": one(c, 99)}, 2_500),
    "dead": (lambda _: {"state": "dead"}, 800),
    "pending": (lambda _: {"state": "pending"}, 800),
    "refused": (
        lambda _: {"status": "5xx"},
        6_000,
    ),  # all dead ones, as long as nothing is analyzed
    "delivered": (lambda _: {"state": "delivered"}, 1_000),
    "of a tenant": (lambda _: {"tenant": "acme"}, 800),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_reads(big: Connection, question: str) -> None:
    """No big table is scanned, and no more is read of one than a page needs."""
    wanted, bound = QUESTIONS[question]
    asked = wanted(big)
    before = reads(big)
    found = list_deliveries(big, **asked)
    scanned, fetched = (after - b for after, b in zip(reads(big), before, strict=True))
    big.rollback()

    assert found
    assert scanned == 0
    assert fetched <= bound


REPAIRS: dict[str, tuple[Any, Any]] = {
    "retry pending": (retry_some, {"state": "pending"}),
    "retry dead": (retry_some, {"state": "dead"}),
    "retry refused": (retry_some, {"status": "5xx"}),
    "cancel": (cancel_some, {"state": "pending"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("big", ["1,000,000"], indirect=True)
@pytest.mark.parametrize("repair", REPAIRS)
def test_a_slice_of_repairs(big: Connection, repair: str) -> None:
    """A slice costs a slice."""
    some, wanted = REPAIRS[repair]
    filter = DeliveryFilter(**wanted)
    plan = Plan(filter, possible_states(filter), LAST, 100)
    before = reads(big)
    done = some(big, plan, Done(), by=BY, limit=50)
    scanned, fetched = (after - b for after, b in zip(reads(big), before, strict=True))
    big.rollback()

    assert done.due_now + done.made + done.cancelled == 50
    assert scanned == 0
    assert fetched <= 1_500


def reads(connection: Connection) -> tuple[int, int]:
    """Rows of the log read by sequential scans, and by index, in this transaction.

    Not those of the queue, which is small here, so that a scan of it may be the best way.
    """
    ((scanned, fetched),) = rows(
        connection,
        """
        SELECT coalesce(sum(seq_tup_read), 0)::int, coalesce(sum(idx_tup_fetch), 0)::int
        FROM pg_stat_xact_user_tables
        WHERE schemaname = 'outbox' AND relname ~ '^(event|delivery|attempt)_(2|default)'
        """,
    )
    return scanned, fetched
