"""Which lanes to claim from, and how much of each: decisions about what is due.

A lane is a subscription with open deliveries. A process remembers when each lane it
knows falls due and claims from those alone, so that a lane that waits for a retry, or
has nothing left, costs nothing. What it does not know it learns from its own fan-out
and records at once, and from a sweep over all lanes now and then.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

GREED = 4  # how many times what is free one lane may hold


class Claim(NamedTuple):  # one is made for each delivery: a frozen dataclass takes thrice as long
    """A delivery that is ours to attempt until its lease runs out."""

    delivery_id: str
    subscription_id: str
    event_id: str
    attempt: int
    failures: int
    revision: int
    took_over: bool
    type: str
    tenant: str | None
    subject: str | None
    source: str | None
    data: str
    occurred_at: datetime
    traceparent: str | None
    limited: bool = False  # its claim counts against a limit of its subscription
    scheduled: float | None = None  # when its event was to be due, in Unix seconds, if at all

    @property
    def operational(self) -> bool:
        """Whether its event is one of ours, about subscriptions and deliveries."""
        return self.source == "outbox"


@dataclass(slots=True)
class _Lane:
    due: float
    marked: float


class Lanes:
    """When each known lane falls due, in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._heap: list[tuple[float, str]] = []
        self._holds: dict[str, float] = {}

    def mark(self, lane: str, due: float, *, now: float) -> None:
        """Remember that `lane` has something due at `due`, or earlier as known before."""
        due = max(due, self._held_until(lane, now))
        known = self._lanes.get(lane)
        if known is None or due < known.due:
            self._lanes[lane] = _Lane(due, now)
            heapq.heappush(self._heap, (due, lane))
        else:
            known.marked = now

    def exhausted(self, lane: str, *, since: float) -> None:
        """Forget `lane`: a claim begun at `since` found its end. Later marks stand."""
        known = self._lanes.get(lane)
        if known is not None and known.marked < since:
            del self._lanes[lane]

    def due(self, now: float, limit: int) -> list[str]:
        """Return at most `limit` lanes that are due, those due longest first."""
        found: dict[str, float] = {}
        while self._heap and self._heap[0][0] <= now and len(found) < limit:
            due, lane = heapq.heappop(self._heap)
            known = self._lanes.get(lane)
            if known is not None and known.due == due:
                found[lane] = due
        for lane, due in found.items():
            heapq.heappush(self._heap, (due, lane))
        return list(found)

    def served(self, lane: str, *, now: float) -> None:
        """Put `lane` behind the others that are due: it had its turn."""
        known = self._lanes.get(lane)
        if known is not None:
            known.due = max(now, self._held_until(lane, now))
            heapq.heappush(self._heap, (known.due, lane))

    def defer(self, lane: str, until: float) -> None:
        """Let `lane` be due at `until`, or at an earlier mark that is still to come."""
        known = self._lanes.get(lane)
        if known is not None:
            known.due = max(until, known.due)
            heapq.heappush(self._heap, (known.due, lane))

    def hold(self, lane: str, until: float, *, now: float) -> None:
        """Let nothing of `lane` be due before `until`: its receiver asked for a pause."""
        self._holds[lane] = max(until, self._held_until(lane, now))
        self.served(lane, now=now)

    def _held_until(self, lane: str, now: float) -> float:
        until = self._holds.get(lane, now)
        if until <= now:
            self._holds.pop(lane, None)
        return until

    def next_due(self) -> float | None:
        """Return when the next lane falls due, or None if none is known."""
        while self._heap:
            due, lane = self._heap[0]
            known = self._lanes.get(lane)
            if known is not None and known.due == due:
                return due
            heapq.heappop(self._heap)
        return None


def quotas(
    lanes: list[str],
    room: int,
    held: Mapping[str, int],
    window: Callable[[str], int] | None = None,
) -> dict[str, int]:
    """Return how many deliveries to claim of each of `lanes`, `room` in all.

    The lane that holds least comes first. None may hold more than one, or `GREED` times
    what is then still free, so that room is always left for others: one lane alone gets four
    fifths, two get four ninths each, and a new one finds its place at once, even when
    all that run hang (dynamic thresholds, Choudhury and Hahne 1998). `window` tells how
    many a lane may hold at most.

    >>> quotas(["a", "b"], 10, {"a": 6})
    {'a': 1, 'b': 7}
    >>> quotas(["a"], 100, {})
    {'a': 80}
    """
    given = dict.fromkeys(lanes, 0)
    least = [(held.get(lane, 0), lane) for lane in lanes]
    heapq.heapify(least)
    while room > 0 and least:
        count, lane = least[0]
        if count and count >= GREED * (room - 1):
            break
        if window is not None and count >= window(lane):
            heapq.heappop(least)
            continue
        given[lane] += 1
        room -= 1
        heapq.heapreplace(least, (count + 1, lane))
    return {lane: count for lane, count in given.items() if count}
