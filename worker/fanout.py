"""Fan-out: events become deliveries, in batches, one worker of the fleet at a time.

A batch that fails is halved until the event at fault stands alone; that one is set aside
with its error, and the rest go on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import psycopg

from . import crash
from .faults import is_data
from .loop import Bell
from .settings import FAN_OUT_SIZE
from .turns import Turns
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .rows import FannedOut
    from .store import Store

logger = logging.getLogger("outbox.worker")

SHORTEST_POLL, LONGEST_POLL = 0.02, 0.25  # seconds
BELL_PAUSE = 0.005  # seconds between two looks for which a host rang


class FanOut:
    """The loop's step, and its memory: the size of the next batch, the pace of polling."""

    def __init__(
        self, store: Store, made: Callable[[FannedOut], None],
        watch: Watch | None = None, turns: Turns | None = None,
    ) -> None:  # fmt: skip
        self.bell = Bell()
        self._store = store
        self._watch = watch or Watch()
        self._made = made
        self._size = FAN_OUT_SIZE
        self._poll = SHORTEST_POLL
        self._began = 0.0
        self._turns = turns or Turns()

    async def step(self) -> float:
        """Fan out one batch; return the seconds to wait."""
        try:
            crash.at("fan-out")
            self._began = time.monotonic()
            done = await self._next()
            self._watch.fanned_out(done, time.monotonic() - self._began)
        except psycopg.Error as error:
            if self._size == 1 or not is_data(error):
                raise
            self._size //= 2
            return 0.0
        if done.deliveries:
            crash.at("fanned-out")
            self._made(done)
            await self._store.wake()
        return self._pace(done.events)

    def rung(self) -> None:
        """A host rang: look soon, and not at once, for hosts may ring for each event."""
        pause = max(0.0, self._began + BELL_PAUSE - time.monotonic())
        asyncio.get_running_loop().call_later(pause, self.bell.ring)

    async def _next(self) -> FannedOut:
        if self._size > 1:
            return await self._store.fan_out(self._size)
        done = await self._store.fan_out_one()
        if done.error is not None:
            logger.error("an event cannot be fanned out and is set aside: %s", done.error)
        return done

    def _pace(self, events: int) -> float:
        full, self._size = events == self._size, min(FAN_OUT_SIZE, self._size * 2)
        if full:
            return 0.0
        self._poll = SHORTEST_POLL if events else min(LONGEST_POLL, self._poll * 1.5)
        return self._turns.wait(LONGEST_POLL) if self._poll == LONGEST_POLL else self._poll
