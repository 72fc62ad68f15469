"""Idle workers take turns in looking for work: together they look as often as one would.

Each knows its place in the row of all that live, from its heartbeat, and the hour. Clocks
that differ spoil the order, not the pace. A worker that stops leaves a gap until the next
heartbeat of the others, one that was killed until they have not seen it for half a minute.
"""

from __future__ import annotations

import time

MOST = 8  # no lap is longer than that of so many
SHORTEST = 0.02  # seconds; a timer may be early


class Turns:
    """The turns of one worker, which is alone until it hears of others."""

    def __init__(self) -> None:
        self._place, self._workers = 0, 1

    def placed(self, place: int, workers: int) -> None:
        """There are so many workers, and this is the one at `place`, from 0."""
        self._place, self._workers = place, workers

    def wait(self, seconds: float) -> float:
        """Return the seconds until it is its turn, where one looks each `seconds`."""
        return until(seconds, self._place, self._workers, time.time())


def until(seconds: float, place: int, workers: int, now: float) -> float:
    """Return the seconds from `now`, in Unix seconds, to the turn of the one at `place`.

    >>> [until(0.25, place, 4, 100.0) for place in range(4)]
    [1.0, 0.25, 0.5, 0.75]
    """
    lap = seconds * min(workers, MOST)
    wait = (lap * place / workers - now) % lap
    return wait if wait >= SHORTEST else wait + lap
