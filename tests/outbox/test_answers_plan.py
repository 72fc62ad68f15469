"""Looking costs what is asked for, however much is stored and however much waits.

In a session as hosts have it, whose planner may choose as it likes; with statistics and
without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text

from outbox.answers import Seen, look
from tests.databases import NAME, clone, engine_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from pytest_postgresql.executors import NoopExecutor
    from sqlalchemy import Connection

FILL = """
INSERT INTO outbox.subscription (url, types)
SELECT 'http://127.0.0.1:9/', '{*}' FROM generate_series(1, 100);
INSERT INTO outbox.event (type, data)
SELECT 'invoice.paid', '{"id": 1}' FROM generate_series(1, 20000);
DELETE FROM outbox.event_queue;
INSERT INTO outbox.delivery (event_id, subscription_id)
SELECT e.id, s.id FROM (SELECT id, row_number() OVER () AS n FROM outbox.event) e
JOIN (SELECT id, row_number() OVER () AS n FROM outbox.subscription) s ON s.n = e.n % 100 + 1;
INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status)
SELECT id, 1, 'delivered', 200 FROM outbox.delivery LIMIT 10000;
INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at)
SELECT id, subscription_id, event_id, now() FROM outbox.delivery OFFSET 10000;
INSERT INTO outbox.event (type, data)
SELECT 'user.created', '{"id": 1}' FROM generate_series(1, 20000);
"""
ASKED = {  # where the events are, the rows that may be read for a hundred of them
    "delivered": ("SELECT event_id FROM outbox.delivery ORDER BY id LIMIT 100", 600),
    "open": ("SELECT event_id FROM outbox.delivery ORDER BY id DESC LIMIT 100", 600),
    "queued first": ("SELECT event_id FROM outbox.event_queue ORDER BY due_at LIMIT 100", 300),
    "queued last": ("SELECT event_id FROM outbox.event_queue ORDER BY due_at DESC LIMIT 100", 300),
    "not there": ("SELECT gen_random_uuid() FROM generate_series(1, 100)", 20),
}


@pytest.fixture(scope="module", params=["never analyzed", "analyzed"])
def big(request: pytest.FixtureRequest, template: NoopExecutor) -> Iterator[Connection]:
    """40,000 events: half of them wait for their fan-out, a quarter for their delivery."""
    with clone(template, f"{NAME}_answers") as database:
        engine = create_engine(engine_url(database.url, "psycopg"))
        with engine.connect() as connection:
            connection.exec_driver_sql(FILL, execution_options={"no_parameters": True})
            connection.commit()
            if request.param == "analyzed":
                connection.exec_driver_sql("ANALYZE")
                connection.commit()
            yield connection
        engine.dispose()


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("where", ASKED)
def test_reads(big: Connection, where: str, plan: str) -> None:
    """A look scans no big table, and reads no more rows than it tells of."""
    query, bound = ASKED[where]
    ids: list[UUID] = list(big.execute(text(query)).scalars())
    big.execute(text(f"SET plan_cache_mode = {plan}"))
    big.commit()

    first, found = reads(big, ids, [None] * 100)
    again, _ = reads(big, ids, found)

    assert (first[0], again[0]) == (0, 0)
    assert first[1] <= bound
    assert again[1] <= bound


def reads(
    connection: Connection, ids: list[UUID], last: list[Seen | None]
) -> tuple[tuple[int, int], list[Seen | None]]:
    """Rows of the big tables that a look reads by sequential scans, and by index."""
    with connection.begin():
        connection.execute(text("SET LOCAL max_parallel_workers_per_gather = 0"))
        before = account(connection)
        found: list[Seen | None] = list(look(connection, list(zip(ids, last, strict=True))))
        after = account(connection)
    return (after[0] - before[0], after[1] - before[1]), found


def account(connection: Connection) -> tuple[int, int]:
    row = connection.execute(
        text("""
        SELECT coalesce(sum(seq_tup_read), 0)::int, coalesce(sum(idx_tup_fetch), 0)::int
        FROM pg_stat_xact_user_tables
        WHERE schemaname = 'outbox' AND relname ~ '^(event|delivery|attempt)'
        """)
    ).one()
    return row[0], row[1]
