"""The slots of a process: which claims run, and which wait beside them for a free slot.

Claims are taken ahead, so that a slot that falls free is filled at once instead of after
the next commit. Both decisions, what to claim and who gets a free slot, are the same one:
`quotas`. How many slots there are is a matter of all databases of the process: `shares`.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from .claim import quotas
from .shares import Share, Shares

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .claim import Claim

AHEAD = 2  # claims held at most, running and waiting, for each slot


class Waiting(NamedTuple):
    """A claim that waits for a slot until `until`, in seconds of the monotonic clock."""

    claim: Claim
    until: float


class Slots:
    """What a process holds of a database, which has `share` of the slots, or all `size` of them.

    `held` counts the claims of each lane, waiting or running.
    """

    def __init__(self, size: int, share: Share | None = None) -> None:
        self.held: Counter[str] = Counter()
        self.share = share or Shares(size).join()
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[Waiting]] = {}
        self._size = size
        self._room = AHEAD * size

    @property
    def room(self) -> int:
        """How many more claims fit."""
        return self._room

    @property
    def free(self) -> int:
        """How many slots are free at this moment."""
        return self.share.room(self._size)

    @property
    def running(self) -> int:
        """How many slots are in use."""
        return self.share.in_flight

    @property
    def waiting(self) -> int:
        """How many claims wait for a slot."""
        return AHEAD * self._size - self._room - self.running

    def reserve(self, lane: str, count: int) -> None:
        """Take `count` slots for `lane`: its claims must start the moment they are made."""
        self.share.began(count)
        self._room -= count
        self._running[lane] += count
        self.held[lane] += count

    def add(self, claims: Iterable[Claim], until: float) -> None:
        """Let `claims` wait for a slot until `until`."""
        for claim in claims:
            lane = claim.subscription_id
            self._waiting.setdefault(lane, deque()).append(Waiting(claim, until))
            self.held[lane] += 1
            self._room -= 1

    def start(self, now: float) -> list[Claim]:
        """Return the claims that get a slot now; what is `late` by now gets none."""
        free = self.share.room(self.waiting) if self._waiting else 0
        if not free:
            return []
        started = []
        lanes = [lane for lane, queue in self._waiting.items() if queue[0].until >= now]
        for lane, quota in quotas(lanes, free, self._running).items():
            for _ in range(min(quota, len(self._waiting[lane]))):
                started.append(self._next(lane))
                self._running[lane] += 1
        self.share.began(len(started))
        return started

    def finished(self, lane: str) -> None:
        """A request of `lane` came to its end: its slot is free."""
        _count_down(self._running, lane)
        self._let_go(lane)
        self.share.ended()

    def late(self, now: float) -> list[Claim]:
        """Return, and forget, the claims that have waited too long."""
        late = []
        for lane, queue in list(self._waiting.items()):
            while queue and queue[0].until < now:
                late.append(self._next(lane))
                self._let_go(lane)
        return late

    def drop(self, lanes: Iterable[str] | None = None) -> list[Claim]:
        """Return, and forget, all claims of `lanes` that wait, or of every lane."""
        dropped = []
        for lane in list(self._waiting if lanes is None else lanes):
            while lane in self._waiting:
                dropped.append(self._next(lane))
                self._let_go(lane)
        return dropped

    def _next(self, lane: str) -> Claim:
        queue = self._waiting[lane]
        claim = queue.popleft().claim
        if not queue:
            del self._waiting[lane]
        return claim

    def _let_go(self, lane: str) -> None:
        self._room += 1
        _count_down(self.held, lane)


def _count_down(counter: Counter[str], lane: str) -> None:
    counter[lane] -= 1
    if not counter[lane]:
        del counter[lane]
