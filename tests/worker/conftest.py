"""Fixtures for the worker's parts, on a real database and in one process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from psycopg_pool import AsyncConnectionPool

from outbox.worker.life import _pool
from outbox.worker.process import Process
from outbox.worker.rows import Result
from outbox.worker.settings import Settings
from outbox.worker.store import Store
from tests.factories import emit_many, event, rows, value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from uuid import UUID

    import httpx

    from outbox.worker.claim import Claim
    from outbox.worker.rows import Recorded
    from outbox.worker.traces import Traces
    from tests.databases import Database

T = TypeVar("T")
LEASE = 30.0


@dataclass
class Fleet:
    """Two stores, each a process life of its own, called from a test that is not async."""

    database: Database
    runner: asyncio.Runner
    a: Store
    b: Store

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def together(self, *works: Coroutine[Any, Any, T]) -> list[T]:
        async def gather() -> list[T]:
            return list(await asyncio.gather(*works))

        return self.run(gather())

    # The host's side.

    def emit(self, count: int = 1, **fields: Any) -> list[UUID]:
        with self.database.engine.begin() as connection:
            return emit_many(connection, [event(**fields) for _ in range(count)])

    def execute(self, statement: str) -> None:
        with self.database.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.database.engine.connect() as connection:
            return rows(connection, query, **values)

    def value(self, query: str, **values: Any) -> Any:
        with self.database.engine.connect() as connection:
            return value(connection, query, **values)

    # The worker's side.

    def fan_out(self, limit: int = 500) -> list[str]:
        """Fan out what is due and return the lanes."""
        return self.run(self.a.fan_out(limit)).lanes

    def claim(self, store: Store, lane: object, quota: int = 100) -> list[Claim]:
        return self.run(store.claim({str(lane): quota}, LEASE))

    def expire_leases(self) -> None:
        """As if the leases had run out a moment ago."""
        self.execute(
            "UPDATE outbox.delivery_queue SET lease_until = now() - interval '1 ms'"
            " WHERE lease_owner IS NOT NULL"
        )

    def record(self, store: Store, *results: Result, again: bool = False) -> list[Recorded]:
        return self.run(store.record(results, again=again, gone={}))

    def queue(self) -> list[tuple[Any, ...]]:
        """attempt, failures, and whether it is leased, of each open delivery."""
        return self.rows("""
            SELECT attempt, failures, lease_owner IS NOT NULL FROM outbox.delivery_queue
            ORDER BY 1, 2
        """)

    def attempts(self) -> list[tuple[int, str, int | None]]:
        """attempt, outcome and worker of each attempt, in the order of their recording."""
        found = self.rows(
            "SELECT attempt, outcome, worker_id FROM outbox.attempt ORDER BY recorded_at, attempt"
        )
        return [(attempt, outcome, worker) for attempt, outcome, worker in found]


@pytest.fixture
def fleet(committed_db: Database) -> Iterator[Fleet]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def store(name: str) -> Store:
            pool = AsyncConnectionPool(
                committed_db.url, min_size=1, max_size=4, open=False, kwargs={"autocommit": True}
            )
            made = Store(await stack.enter_async_context(pool))
            await made.register(name, 1, "0")
            return made

        a, b = runner.run(store("a")), runner.run(store("b"))
        yield Fleet(committed_db, runner, a, b)
        runner.run(stack.aclose())


def result(claim: Claim, outcome: str = "delivered", **changes: Any) -> Result:
    """What an attempt came to; a retry is due at once."""
    made = Result(
        delivery_id=claim.delivery_id,
        attempt=claim.attempt,
        outcome=outcome,
        counts=True,
        delay=0.0 if outcome == "retry" else None,
        revision=claim.revision,
        started_at=datetime(2026, 1, 31, tzinfo=UTC).timestamp(),
        duration_ms=7,
        status={"delivered": 200, "retry": 503, "dead": 410}[outcome],
        error_class=None,
        error=None,
        response_body=None,
    )
    return made._replace(**changes)


@asynccontextmanager
async def working(
    database: Database,
    transport: httpx.AsyncBaseTransport,
    *,
    traces: Traces | None = None,
    **settings: Any,
) -> AsyncIterator[Process]:
    """A whole worker in this process, but for its transport; it is stopped at the end."""
    process = Process(Settings(**{"database_url": database.url, "concurrency": 10, **settings}))
    (life,) = process.lives
    async with _pool(database.url) as pool, transport:
        store = Store(pool)
        await store.register("test", 1, "0")
        work = asyncio.create_task(life.work(store, transport, traces))
        try:
            yield process
        finally:
            if not process._stopping.is_set():
                process.stop()
            await work


async def until(check: Callable[[], T], timeout: float = 10.0) -> T:
    """Return the first true value of `check`, while the worker works."""
    async with asyncio.timeout(timeout):
        while not (found := check()):
            await asyncio.sleep(0.01)
    return found
