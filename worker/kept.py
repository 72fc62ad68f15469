"""Connections that wait for another request, each for some seconds at most.

The last that was used is the first to be used again: so those that are too many rest
until their time is over, and a burst leaves no connections behind.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .route import Place
    from .wire import Wire

KEEP_ALIVE = 4.0  # seconds; less than the 5 s after which many servers close an idle connection
SWEEP = 1.0  # seconds between two looks for those whose time is over


class Kept:
    """Keeps connections by the place that they lead to."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._by_place: dict[Place, deque[tuple[float, Wire]]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, place: Place) -> Wire | None:
        """Return a connection to `place` that is still good, None if there is none."""
        waiting = self._by_place.get(place)
        while waiting:
            until, wire = waiting.pop()
            if wire.reusable and self._loop.time() < until:
                return wire
            wire.close()
        return None

    def keep(self, place: Place, wire: Wire) -> None:
        """Keep `wire` if another request may follow on it; if not, close it."""
        if self._closed or not wire.reusable:
            wire.close()
            return
        until = self._loop.time() + KEEP_ALIVE
        self._by_place.setdefault(place, deque()).append((until, wire))
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(SWEEP, self._sweep)

    async def aclose(self) -> None:
        """Close all of them, and those that come back later."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for waiting in self._by_place.values():
            for _, wire in waiting:
                wire.abort()
        self._by_place.clear()
        await asyncio.sleep(0)  # the event loop closes their sockets in its next turn

    def _sweep(self) -> None:
        now = self._loop.time()
        for waiting in self._by_place.values():
            while waiting and waiting[0][0] <= now:
                waiting.popleft()[1].close()
        self._by_place = {place: waiting for place, waiting in self._by_place.items() if waiting}
        self._sweeping = self._loop.call_later(SWEEP, self._sweep) if self._by_place else None
