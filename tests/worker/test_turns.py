"""Idle workers take turns in looking for events: seldom each, and together as often as ever."""

from __future__ import annotations

import asyncio
import doctest
import itertools
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given
from hypothesis import strategies as st

from outbox.worker import turns
from outbox.worker.fanout import LONGEST_POLL, SHORTEST_POLL, FanOut
from outbox.worker.rows import FannedOut
from outbox.worker.turns import MOST, Turns, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def test_examples() -> None:
    """What the docstrings show is so."""
    assert doctest.testmod(turns).failed == 0


def looks(place: int, workers: int, begin: float, end: float) -> Iterator[float]:
    """Yield when a worker looks, that begins at `begin` and finds nothing."""
    now = begin
    while (now := now + until(LONGEST_POLL, place, workers, now)) < end:
        yield now


@given(
    begins=st.lists(st.floats(1.7e9, 1.7e9 + 10), min_size=1, max_size=20),
)
def test_together_as_often_as_one(begins: list[float]) -> None:
    """Whenever each began, an event waits no longer than for one that looks alone."""
    workers = len(begins)
    start = max(begins) + LONGEST_POLL * MOST
    moments = sorted(
        moment
        for place, begin in enumerate(begins)
        for moment in looks(place, workers, begin, start + 5)
        if moment >= start
    )
    gaps = [later - sooner for sooner, later in itertools.pairwise(moments)]

    assert max(gaps) <= LONGEST_POLL + 0.001
    assert len(moments) <= 5 / LONGEST_POLL * max(1, workers / MOST) + workers


class Empty:
    """A database in which there is nothing to do."""

    def __init__(self, *events: int) -> None:
        self._events = list(events)

    async def fan_out(self, _limit: int) -> FannedOut:
        count = self._events.pop(0) if self._events else 0
        return FannedOut(events=count, deliveries=0, lanes=[], limited=[])


def test_while_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds events looks again soon, less and less soon, and then when it is its turn."""
    monkeypatch.setattr("time.time", lambda: 100.0)
    row = Turns()
    row.placed(3, 4)
    fan_out = FanOut(cast("Any", Empty(7)), lambda _: None, turns=row)

    async def run() -> list[float]:
        return [await fan_out.step() for _ in range(9)]

    waits = asyncio.run(run())

    assert waits[0] == SHORTEST_POLL
    assert waits[:7] == sorted(waits[:7])
    assert max(waits[:7]) < LONGEST_POLL
    assert waits[7:] == [0.75, 0.75]
