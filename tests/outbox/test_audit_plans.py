"""The plan is part of the contract: a slice reads its own rows, however large the tables are.

Counted is what PostgreSQL says was read, as in the tests of the worker's statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.audit import fill
from benchmarks.database import Database
from outbox import audit
from outbox.audit.sheet import Tally, look
from outbox.audit.slices import parameters, reading
from tests.databases import NAME, clone
from tests.factories import value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_postgresql.executors import NoopExecutor
    from sqlalchemy import Connection, Engine

pytestmark = pytest.mark.clone

ROWS, SIZE = 20_000, 1_000


@pytest.fixture(scope="module", params=["never analyzed", "analyzed"])
def big(request: pytest.FixtureRequest, template: NoopExecutor) -> Iterator[Engine]:
    """Many events, deliveries, attempts and keys."""
    with clone(template, f"{NAME}_audited") as database:
        engine = fill(Database(database.url), ROWS)
        if request.param == "analyzed":
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM (ANALYZE)")
        yield engine
        engine.dispose()


@pytest.mark.parametrize("of", ["deliveries", "events", "keys"])
def test_a_slice_reads_its_own(big: Engine, of: str) -> None:
    """Joined are ranges: what is read of the facts is a few times the slice, not the table."""
    slices = audit.plan(big, size=SIZE).slices
    name = {"deliveries": "queue_missing", "events": "event_lost", "keys": "key_digest"}[of]
    mine = [s for s in slices if any(c.name == name for sheet in s.sheets for c in sheet.checks)]
    slice = mine[len(mine) // 2]
    with reading(big) as connection:
        connection.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather = 0")
        before, tally = reads(connection), Tally(1)
        values = parameters(connection, slice)
        for sheet in slice.sheets:
            look(connection, sheet, tally, values)
        read = reads(connection) - before

    assert not tally.found
    assert SIZE <= read <= 8 * SIZE


def reads(connection: Connection) -> int:
    """Rows of the facts read in this transaction, by scans and by indexes."""
    read: int = value(
        connection,
        "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::int"
        " FROM pg_stat_xact_user_tables WHERE schemaname = 'outbox'"
        " AND relname ~ '^(event|delivery|attempt)'",
    )
    return read


def test_an_audit_of_much_is_right(big: Engine) -> None:
    """All of it adds up, and the account says how much there is."""
    report = audit.run(big, audit.plan(big))

    assert report.found == {}
    assert report.account == {
        "events": ROWS, "deliveries": ROWS, "open": ROWS // 20, "held": 0,
        "delivered": ROWS * 18 // 20, "dead": ROWS // 20, "cancelled": 0,
        "attempts": ROWS * 13 // 10,
    }  # fmt: skip
