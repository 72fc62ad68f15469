"""A loop that waits on events and never spins, and that outlives its database.

A step does one pass and returns the seconds to wait; a `Bell` cuts the wait short. When
PostgreSQL is away the loop waits with backoff and goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

import psycopg

from .faults import in_a_line, is_transient

logger = logging.getLogger("outbox.worker")

LONGEST_BACKOFF = 5.0  # seconds


class Bell:
    """Wakes one loop: for new work, and to stop."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.stopping = False

    def ring(self) -> None:
        """Let the wait under way, or else the next one, end at once."""
        self._rung.set()

    def stop(self) -> None:
        """Ring for the last time."""
        self.stopping = True
        self._rung.set()

    async def wait(self, seconds: float | None) -> None:
        """Wait for the bell, at most `seconds`."""
        if seconds is None or seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._rung.wait()
            except TimeoutError:
                return
        else:
            await asyncio.sleep(0)
        self._rung.clear()


class Stepping(Protocol):
    """What a loop runs: `step` does one pass and returns the seconds to wait."""

    bell: Bell

    async def step(self) -> float:
        """Do one pass."""


async def run(name: str, what: Stepping) -> None:
    """Repeat the steps of `what` until its bell stops; `name` says in the log what is waiting."""
    outage = Outage(name)
    while not what.bell.stopping:
        try:
            pause = await what.step()
        except psycopg.Error as error:
            pause = outage.begins(error)
        else:
            outage.ends()
        await what.bell.wait(pause)


class Outage:
    """Tells of an outage of the database once, at its beginning and at its end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0

    def begins(self, error: psycopg.Error) -> float:
        """Return how long to wait before the next try, in seconds."""
        self._failures += 1
        if self._failures == 1 and not is_transient(error):
            logger.warning("%s waits for the database: %s", self._name, in_a_line(error))
        longest = min(LONGEST_BACKOFF, 0.05 * 2 ** min(self._failures, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, keeps no secret

    def ends(self) -> None:
        """The database answered."""
        if self._failures > 1:
            logger.info("%s goes on: the database is back", self._name)
        self._failures = 0
