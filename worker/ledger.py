"""The numbers of all processes of a worker, in memory that they share.

    process 0 │ alive at │ ready │ deliveries … │ latency … │ slots …
    process 1 │          │       │
    the whole │ looked at│       │                              backlog …

Each process writes its own row and no other, so that counting is an addition without a
lock; whoever is asked adds the rows up. The memory is made before the processes are: a
row outlives its process, and the one that is started in its place counts on.
"""

from __future__ import annotations

import mmap
import time
from bisect import bisect_left
from math import inf, nan

from .series import CATALOGUE, HAD, PLACES, SEEN, START, WIDTH, Label, Series

SILENCE = 5.0  # seconds after which what a process has is no longer counted: it is gone
_ALIVE_AT, _READY = 0, 1


class Row:
    """The numbers of one process; written by that one alone."""

    def __init__(self, cells: memoryview[float]) -> None:
        self._cells = cells

    def add(self, series: Series, label: Label = (), amount: float = 1.0) -> None:
        """Count `amount` more of the series with this label."""
        self._cells[START[series.name] + PLACES[series.name][label]] += amount

    def put(self, series: Series, value: float, label: Label = ()) -> None:
        """Let a gauge be `value`; nan is nothing."""
        self._cells[START[series.name] + PLACES[series.name][label]] = value

    def observe(self, series: Series, value: float) -> None:
        """Count `value` in a histogram."""
        start = START[series.name]
        self._cells[start + bisect_left(series.bounds, value)] += 1.0
        self._cells[start + len(series.bounds) + 1] += value

    def read(self, series: Series) -> list[float]:
        """Return the numbers of a series."""
        start = START[series.name]
        return list(self._cells[start : start + series.width])

    @property
    def alive_at(self) -> float:
        """When it said last that it lives, in seconds of the machine's monotonic clock."""
        return float(self._cells[_ALIVE_AT])

    @property
    def is_ready(self) -> bool:
        """Whether it is registered and works."""
        return bool(self._cells[_READY])

    def live(self, now: float) -> None:
        """Say that it lives."""
        self._cells[_ALIVE_AT] = now

    def ready(self, ready: bool) -> None:
        """Say whether it is registered and works."""
        self._cells[_READY] = float(ready)

    def forget(self, *series: Series) -> None:
        """Let the numbers of `series` be nothing."""
        for each in series:
            start = START[each.name]
            for place in range(start, start + each.width):
                self._cells[place] = nan


class Ledger:
    """One row a process, and one for what is seen of the database.

    ledger = Ledger(processes=2)
    ledger.rows[0].add(EVENTS)
    """

    def __init__(self, processes: int) -> None:
        memory = mmap.mmap(-1, 8 * WIDTH * (processes + 1))
        cells = memoryview(memory).cast("d")
        *self.rows, self.whole = (
            Row(cells[place * WIDTH : (place + 1) * WIDTH]) for place in range(processes + 1)
        )
        self.whole.forget(*SEEN)
        self.whole.live(-inf)
        for row in self.rows:
            row.live(time.monotonic())

    def total(self, series: Series, now: float) -> list[float]:
        """Return the numbers of a series over all processes, at `now` of the monotonic clock."""
        if series in SEEN:
            return self.whole.read(series)
        rows = [row for row in self.rows if series not in HAD or row.alive_at >= now - SILENCE]
        columns = zip(*(row.read(series) for row in rows), strict=True)
        return [sum(column) for column in columns] or [0.0] * series.width

    def totals(self, now: float) -> dict[str, list[float]]:
        """Return the numbers of all series, by name."""
        return {series.name: self.total(series, now) for series in CATALOGUE}
