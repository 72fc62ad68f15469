"""Sessions of our own, sessions that a pooler shares with others, and those of a standby."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import AsyncConnection
from psycopg.errors import ReadOnlySqlTransaction
from psycopg_pool import AsyncConnectionPool

from outbox.worker.store import Store, is_shared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.databases import Database


@asynccontextmanager
async def store(database: Database, *, shared: bool, **options: str) -> AsyncIterator[Store]:
    """A store on a pool of one connection, with these options of libpq."""
    arguments = {"autocommit": True, **options}
    async with AsyncConnectionPool(
        database.url, min_size=1, max_size=1, open=False, kwargs=arguments
    ) as pool:
        yield Store(pool, shared=shared)


async def answer(connection: AsyncConnection[Any], query: str) -> Any:
    row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


def test_settings_end_with_the_transaction(committed_db: Database) -> None:
    """Of a session that is shared nothing is set but for the transaction."""

    async def settings(*, shared: bool) -> list[str]:
        async with store(committed_db, shared=shared) as made:
            async with made.transaction() as connection:
                several = await answer(connection, "SHOW enable_seqscan")
            async with made.single() as connection:
                one = await answer(connection, "SHOW enable_seqscan")
            return [several, one, await answer(connection, "SHOW enable_seqscan")]

    assert asyncio.run(settings(shared=True)) == ["off", "off", "on"]
    assert asyncio.run(settings(shared=False)) == ["on", "on", "on"]  # the pool configures them


def test_a_session_of_our_own(committed_db: Database) -> None:
    """Without a pooler a session is known to be ours."""

    async def ask() -> bool:
        async with await AsyncConnection.connect(committed_db.url) as connection:
            return await is_shared(connection)

    assert not asyncio.run(ask())


@pytest.mark.parametrize("shared", [False, True])
def test_a_standby_is_left(committed_db: Database, shared: bool) -> None:
    """A connection that turns out to be read-only is not used again: the next may be better."""

    async def sessions() -> set[int]:
        found = set()
        read_only = {"options": "-c default_transaction_read_only=on"}
        async with store(committed_db, shared=shared, **read_only) as made:
            for _ in range(2):
                async with made.single() as connection:
                    found.add(connection.info.backend_pid)
                with pytest.raises(ReadOnlySqlTransaction):
                    await made.register("host", 1, "0")
        return found

    assert len(asyncio.run(sessions())) == 2
