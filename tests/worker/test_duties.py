"""The duties of a process: what happens to them when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import pytest

from outbox.worker import telemetry
from outbox.worker.maintenance import Maintenance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What is logged as a worker logs it."""
    names = (None, "outbox", "apscheduler", "asyncio", "httpx", "psycopg")
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    handlers = logging.getLogger().handlers[:]
    telemetry.configure("text", "info")
    yield lambda: capfd.readouterr().err
    logging.getLogger().handlers[:] = handlers
    for logger, level in levels.items():
        logger.setLevel(level)


class Away:
    """A database that never answers."""

    async def make_partitions(self) -> int:
        return await asyncio.Future()


@pytest.mark.parametrize("turns", range(6))
def test_a_stop_at_any_moment(turns: int, told: Callable[[], str]) -> None:
    """A process that stops while a duty begins says nothing of it."""

    async def start_and_stop() -> None:
        maintenance = Maintenance(cast("Any", Away()), Counter(), lambda _: None)
        maintenance.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        maintenance.stop()
        for _ in range(10):
            await asyncio.sleep(0)

    asyncio.run(start_and_stop())

    assert told() == ""
