"""The worker's own statements without a worker: its store, on one connection with its settings."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from psycopg_pool import AsyncConnectionPool

from outbox import database
from outbox.version import __version__
from outbox.worker.session import configure
from outbox.worker.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from typing import LiteralString

    from psycopg import AsyncConnection

    from .database import Database

# PostgreSQL's own account of this transaction, also of what triggers and functions do.
FETCHED: LiteralString = """
SELECT sum(pg_stat_get_xact_blocks_fetched(oid))::bigint FROM pg_class
WHERE relnamespace IN ('outbox'::regnamespace, 'pg_toast'::regnamespace)
"""


class Counted(Store):
    """A store that, while it is `counting`, tells how many buffers each statement touched.

    Then each runs in a transaction of its own, for which PostgreSQL keeps the account.
    """

    counting = False

    def __init__(self, pool: AsyncConnectionPool) -> None:
        super().__init__(pool)
        self.buffers: dict[str, int] = {}

    def single(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """Yield a connection for one statement."""
        return self.transaction() if self.counting else super().single()

    async def _run(
        self, name: str, values: dict[str, Any], row_factory: Any, connection: Any
    ) -> list[Any]:
        if connection is None or not self.counting:
            return await super()._run(name, values, row_factory, connection)
        before = await _fetched(connection)
        rows = await super()._run(name, values, row_factory, connection)
        self.buffers[name] = await _fetched(connection) - before
        return rows


async def _fetched(connection: AsyncConnection[Any]) -> int:
    row = await (await connection.execute(FETCHED)).fetchone()
    return int(row[0]) if row else 0


@asynccontextmanager
async def opened(base: Database) -> AsyncIterator[Counted]:
    """Yield the store of a worker that does nothing by itself."""
    target = database.conninfo(base.url, application_name="outbox-benchmark")
    async with AsyncConnectionPool(
        target, min_size=1, max_size=1, open=False, configure=configure, kwargs={"autocommit": True}
    ) as pool:
        store = Counted(pool)
        await store.register("benchmark", os.getpid(), __version__)
        yield store
