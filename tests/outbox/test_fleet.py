"""Who is alive, and how workers are woken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

import outbox
from outbox import fleet
from tests.databases import engine_url

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


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_ring(committed_db: Database, driver: str) -> None:
    """Whoever listens for events hears a host's bell, at once and once, sync and async."""

    async def ring() -> None:
        engine = create_async_engine(engine_url(committed_db.url, driver))
        await outbox.ring(engine)
        await engine.dispose()

    with psycopg.connect(committed_db.url, autocommit=True) as listener:
        listener.execute(f"LISTEN {fleet.BELL}")
        outbox.ring(committed_db.engine)
        asyncio.run(ring())

        assert len(list(listener.notifies(timeout=5, stop_after=2))) == 2


def test_ring_leaves_nothing_behind(committed_db: Database) -> None:
    """Only the bell waits for no disk: what the host commits next on that connection does."""
    url, options = engine_url(committed_db.url, "psycopg"), "-c synchronous_commit=on"
    engine = create_engine(url, connect_args={"options": options}, pool_size=1)
    outbox.ring(engine)
    with engine.connect() as connection:
        kept = connection.execute(text("SHOW synchronous_commit")).scalar()
    engine.dispose()

    assert kept == "on"


def test_ring_in_vain() -> None:
    """A database that is away is no error: the event is committed already."""
    outbox.ring(create_engine("postgresql+psycopg://127.0.0.1:1/none"))
    asyncio.run(_ring_nowhere("asyncpg"))
    asyncio.run(_ring_nowhere("psycopg"))


async def _ring_nowhere(driver: str) -> None:
    await outbox.ring(create_async_engine(f"postgresql+{driver}://127.0.0.1:1/none"))
