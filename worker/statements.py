"""How statements are run: one in a file of `queries/`, named as the method that runs it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg.errors import ReadOnlySqlTransaction
from psycopg.rows import class_row, namedtuple_row

from .session import TRANSACTION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

Row = TypeVar("Row")


class Statements:
    """What runs the statements of a store, for the process life `owner`.

    `shared` says that sessions are not ours alone: each transaction makes its settings.
    """

    def __init__(self, pool: AsyncConnectionPool, *, shared: bool = False) -> None:
        self._pool = pool
        self._shared = shared
        self.owner = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Yield a connection in a transaction, for several statements."""
        async with self._connection() as connection, connection.transaction():
            if self._shared:
                await connection.execute(TRANSACTION)
            yield connection

    def single(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """Yield a connection for one statement, which is its own transaction if it can be."""
        return self.transaction() if self._shared else self._connection()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Yield a connection of the pool; one to a standby is closed, so that the next is new."""
        async with self._pool.connection() as connection:
            try:
                yield connection
            except ReadOnlySqlTransaction:
                await connection.close()
                raise

    async def _all(
        self, name: str, values: dict[str, Any], *, connection: AsyncConnection[Any] | None = None
    ) -> list[Any]:
        return await self._run(name, values, namedtuple_row, connection)

    async def _rows(
        self, row: type[Row], name: str, values: dict[str, Any], *, connection: Any = None
    ) -> list[Row]:
        return await self._run(name, values, class_row(row), connection)

    async def _run(
        self, name: str, values: dict[str, Any], row_factory: Any, connection: Any
    ) -> list[Any]:
        if connection is None:
            async with self.single() as own:
                return await self._run(name, values, row_factory, own)
        async with connection.cursor(row_factory=row_factory) as cursor:
            await cursor.execute(query(name), {**values, "owner": self.owner})
            return list(await cursor.fetchall())


@cache
def query(name: str) -> str:
    """Return the statement in `queries/<name>.sql`."""
    return files(__package__).joinpath(f"queries/{name}.sql").read_text()
