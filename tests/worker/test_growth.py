"""Plans outlive the sizes they were made for: a worker's sessions keep them for days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from outbox.worker.session import SESSION
from outbox.worker.store import query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.databases import Database

MATCHES, OTHERS, TYPES = 10, 3_000, 50
ADD = """
WITH made AS (
    INSERT INTO outbox.subscription (url, types, tenant)
    SELECT 'http://127.0.0.1:9/', '{invoice.*}', %(tenant)s FROM generate_series(1, %(count)s)
    RETURNING id, tenant
)
INSERT INTO outbox.subscription_type SELECT 'invoice.*', tenant, id FROM made
"""
EMIT = """
INSERT INTO outbox.event (type, tenant, data, due_at)
SELECT 'invoice.kind-' || n, 'acme', '1', '2020-01-01' FROM generate_series(1, %(count)s) n
"""
FETCHED = """
SELECT coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
WHERE relid = 'outbox.subscription'::regclass
"""


@pytest.fixture
def session(committed_db: Database) -> Iterator[psycopg.Connection]:
    """A worker's session in a transaction that is rolled back."""
    with psycopg.connect(committed_db.url) as connection:
        connection.execute(SESSION.encode())
        yield connection
        connection.rollback()


def fan_out(session: psycopg.Connection, events: int) -> int:
    """Fan out so many events; return how many deliveries that made."""
    session.execute(EMIT, {"count": events})
    values = {"limit": events, "only": None, "owner": 7}
    row = session.execute(query("fan_out"), values, prepare=True).fetchone()
    assert row
    made: int = row[1]
    return made


def fetched(session: psycopg.Connection) -> int:
    row = session.execute(FETCHED).fetchone()
    assert row
    rows: int = row[0]
    return rows


def test_subscriptions(session: psycopg.Connection) -> None:
    """A fan-out planned beside few subscriptions reads no others when there are many."""
    session.execute(ADD, {"tenant": "acme", "count": MATCHES})
    session.execute("ANALYZE outbox.subscription, outbox.subscription_type")
    fan_out(session, TYPES)
    session.execute(ADD, {"tenant": "others", "count": OTHERS})
    before = fetched(session)

    assert fan_out(session, TYPES) == TYPES * MATCHES
    assert fetched(session) - before <= TYPES * MATCHES
