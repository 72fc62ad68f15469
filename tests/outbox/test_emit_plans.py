"""What a keyed emit reads does not grow with the keys that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from outbox import Event, emit
from tests.factories import value

if TYPE_CHECKING:
    from sqlalchemy import Connection

KEYS = """
INSERT INTO outbox.event_key (tenant, key, event_id, digest)
SELECT '', 'old-' || n, outbox.uuid7(), '' FROM generate_series(1, :count) n
"""
READ = """
SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relid = 'outbox.event_key'::regclass
"""


@pytest.mark.parametrize("count", [0, 2_000])
def test_keys_are_looked_up_in_their_index(db: Connection, count: int) -> None:
    """No emit reads all keys, be they few or many, at their last ANALYZE or now."""
    db.execute(text(KEYS), {"count": count})
    db.execute(text("ANALYZE outbox.event_key"))
    before = value(db, READ)
    for number in range(20):
        emit(db, Event(type="invoice.paid", key=f"new-{number}"))

    assert value(db, READ) == before
