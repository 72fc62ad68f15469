"""How it goes, all in all: what looking costs, and that it changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from outbox import backlog, status, traffic
from tests.databases import NAME, clone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_postgresql.executors import NoopExecutor
    from sqlalchemy import Connection

    from tests.databases import Database

OPEN = 20_000
# Attempts of fifty minutes, 400 a minute; and as many open deliveries in 50 lanes.
FILL = """
SET LOCAL session_replication_role = replica;
INSERT INTO outbox.subscription (url, types) SELECT 'http://127.0.0.1:9/', '{*}'
FROM generate_series(1, 50);
INSERT INTO outbox.event (id, type, data)
SELECT overlay(outbox.uuid7_floor(now() - make_interval(secs => 3000 - n * 0.15))::text
    PLACING substring(gen_random_uuid()::text FROM 20) FROM 20)::uuid, 'a.b', '{}'
FROM generate_series(1, 20000) n;
INSERT INTO outbox.delivery (id, event_id, subscription_id)
SELECT e.id, e.id, s.id FROM (
    SELECT id, row_number() OVER (ORDER BY id) AS n FROM outbox.event
) e JOIN (
    SELECT id, row_number() OVER () - 1 AS n FROM outbox.subscription
) s ON s.n = e.n % 50;
INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status, duration_ms, recorded_at)
SELECT id, 1, 'delivered', 200, 40,
    now() - make_interval(secs => 3000 - row_number() OVER (ORDER BY id) * 0.15)
FROM outbox.delivery ORDER BY id;
INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at)
SELECT id, subscription_id, event_id, now() - interval '1 h' FROM outbox.delivery;
INSERT INTO outbox.event_queue SELECT now(), id FROM outbox.event;
INSERT INTO outbox.subscription_health SELECT id, now(), 1, NULL FROM outbox.subscription;
"""


@pytest.fixture(scope="module")
def big(template: NoopExecutor) -> Iterator[Connection]:
    """A log and queues that are long beside what may be read of them."""
    with clone(template, f"{NAME}_status") as database, database.engine.connect() as connection:
        connection.exec_driver_sql("SET max_parallel_workers_per_gather = 0")  # own accounts
        connection.exec_driver_sql(FILL, execution_options={"no_parameters": True})
        connection.execute(
            text("""
            SELECT brin_summarize_new_values(i.indexrelid) FROM pg_stat_user_indexes i
            WHERE i.indexrelname LIKE 'attempt%recorded%'""")
        )
        connection.commit()
        yield connection


def reads(connection: Connection) -> Counter[str]:
    """Rows of each big table that this session has read, as far as it has not reported them."""
    found = connection.execute(
        text("""
        SELECT regexp_replace(relname, '_(default|[0-9]+)$', ''),
            sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int
        FROM pg_stat_xact_user_tables WHERE schemaname = 'outbox' GROUP BY 1""")
    )
    return Counter({row[0]: row[1] for row in found})


def test_what_looking_reads(big: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """No big table is read as a whole: some pages of the queues, the last minutes of the log."""
    monkeypatch.setattr(backlog, "PAGES", 60)
    monkeypatch.setattr(backlog, "EVENT_PAGES", 50)
    monkeypatch.setattr(backlog, "HEADS", 500)

    before = reads(big)
    found = status.look(big)
    read = reads(big) - before
    big.rollback()

    assert not found.backlog.due.exact
    assert 1_000 < found.traffic.outcomes["delivered"] <= 2_001
    assert read["delivery_queue"] < OPEN / 4
    for table in ("event_queue", "attempt", "event", "delivery"):
        assert read[table] < OPEN / 2


def test_the_account_is_kept(big: Connection) -> None:
    """Reading all of a table would be seen."""
    before = reads(big)
    big.execute(text("SELECT count(*) FROM outbox.attempt WHERE duration_ms > 0"))
    read = reads(big) - before
    big.rollback()

    assert read["attempt"] >= OPEN


def test_busy_traffic(big: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where five minutes are too much, no more than the bound is read of each window."""
    monkeypatch.setattr(traffic, "BOUND", 1_000)

    found = status.look(big).traffic
    big.rollback()

    assert found.seconds == 60
    assert found.deliveries.last_minute == pytest.approx(400 / 60, rel=0.5)
    assert found.events.last_minute == pytest.approx(400 / 60, rel=0.5)


def test_it_only_reads(db: Connection) -> None:
    """The transaction cannot write any more, and no statement takes longer than the patience."""
    status.look(db)

    assert db.execute(text("SHOW statement_timeout")).scalar_one() == status.PATIENCE
    with pytest.raises(DBAPIError, match="read-only transaction"):
        db.execute(text("DELETE FROM outbox.worker"))


def test_all_of_it(committed_db: Database) -> None:
    """The parts come together; the moment is the database's."""
    with committed_db.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO outbox.worker (host, pid, version) VALUES ('a', 1, '1')")
        )
        now = connection.execute(text("SELECT now()")).scalar_one()
        found = status.look(connection)

    assert found.at == now
    assert [worker.host for worker in found.workers] == ["a"]
