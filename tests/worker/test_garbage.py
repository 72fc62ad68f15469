"""What a worker leaves behind is freed at once: it seldom looks for cycles (`__main__.YOUNG`)."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from outbox.worker.transport import HttpTransport
from tests.factories import LOOPBACK, emit_many, event, subscribe, value

from .conftest import until, working

if TYPE_CHECKING:
    from tests.databases import Database
    from tests.receiver import Receiver

WARM_UP, MORE = 10, 100


def test_no_cycles(committed_db: Database, receiver: Receiver) -> None:
    """A hundred deliveries more leave no more objects in cycles than ten."""
    with committed_db.engine.begin() as connection:
        subscribe(connection, receiver.url)

    async def deliver(count: int, ended: int) -> int:
        with committed_db.engine.begin() as connection:
            emit_many(connection, [event() for _ in range(count)])
        gc.collect()
        gc.disable()
        await until(lambda: delivered() >= ended)
        return gc.collect()

    def delivered() -> int:
        with committed_db.engine.connect() as connection:
            return int(value(connection, "SELECT count(*) FROM outbox.attempt"))

    async def run() -> tuple[int, int]:
        transport = HttpTransport(connect_timeout=1, allow=LOOPBACK)
        async with working(committed_db, transport):
            await deliver(WARM_UP, WARM_UP)
            few = await deliver(WARM_UP, 2 * WARM_UP)
            return few, await deliver(MORE, 2 * WARM_UP + MORE)

    try:
        few, many = asyncio.run(run())
    finally:
        gc.enable()

    assert many - few < MORE // 2
