"""Who is alive, and how workers are woken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import text

from outbox import fleet

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tests.databases import Database

WORKERS = """
INSERT INTO outbox.worker (host, pid, version, seen_at, stopped_at) VALUES
    ('a', 1, '1', now() - interval '5 s', NULL),
    ('b', 2, '1', now() - interval '31 s', NULL),
    ('c', 3, '1', now(), now())
"""


def test_alive(db: Connection) -> None:
    """A worker is alive while it has not stopped and its heartbeat is fresh."""
    db.execute(text(WORKERS))

    assert [(worker.host, worker.pid) for worker in fleet.alive(db)] == [("a", 1)]


def test_wake(committed_db: Database) -> None:
    """Who listens as a worker does hears of it once it is committed."""
    with psycopg.connect(committed_db.url, autocommit=True) as listener:
        listener.execute(f"LISTEN {fleet.CHANNEL}")
        with committed_db.engine.begin() as connection:
            fleet.wake(connection)

        assert [notice.payload for notice in listener.notifies(timeout=5, stop_after=1)] == [""]
