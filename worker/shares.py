"""The slots of a process, shared by the databases that it serves.

Two things are bounded for a process, whatever it serves: the requests in flight, by
`--concurrency`, and what was sent and is not recorded yet, by twice as much, because a
crash repeats just that. Each is shared in its own way:

    in flight      a database may have four times what is then still free, as a lane may
                   (`claim.quotas`): who comes late finds room, all that are busy come to
                   have the same, and who is idle leaves its share to the others
    not recorded   of one half each database has an equal part for itself alone, the other
                   half is for whoever needs it

The second is not fair but safe: a database that is away owes for as long as it is away
what it owed at that moment, and the others have their parts all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .claim import GREED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Shares:
    """`size` slots for all that `join`, before any of them begins."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._all: list[Share] = []

    def join(self) -> Share:
        """Return the share of one more database."""
        self._all.append(Share(self))
        return self._all[-1]

    def room(self, share: Share) -> int:
        """Return how many requests more of `share` may begin now."""
        if len(self._all) == 1:
            return max(0, min(self.size - share.in_flight, 2 * self.size - share.owed))
        others = [each for each in self._all if each is not share]
        free = self.size - sum(each.in_flight for each in self._all)
        slots = left(self.size, 1, share.in_flight, [each.in_flight for each in others])
        part = self.size // len(self._all)
        owed = left(2 * self.size, part, share.owed, [each.owed for each in others])
        return max(0, min(fair(free, share.in_flight), slots, owed))

    def tell(self, teller: Share) -> None:
        """Wake those who wait for room, after `teller` made some; it knows by itself."""
        for share in self._all:
            if share.waits and share is not teller and self.room(share):
                share.waits = False
                share.wake()


class Share:
    """What one database has of the slots of its process. `wake` lets it look for room again."""

    def __init__(self, shares: Shares) -> None:
        self.in_flight = 0
        self.unrecorded = 0
        self.waits = False
        self.wake: Callable[[], object] = lambda: None
        self._shares = shares

    @property
    def owed(self) -> int:
        """How many requests are sent, or being sent, and not recorded."""
        return self.in_flight + self.unrecorded

    def room(self, wanted: int) -> int:
        """Return how many requests more may begin; if fewer than `wanted`, `wake` tells of more."""
        room = self._shares.room(self)
        self.waits = room < wanted
        return room

    def began(self, count: int = 1) -> None:
        """So many requests begin, or are about to."""
        self.in_flight += count

    def ended(self) -> None:
        """A request came to its end, or did not begin after all."""
        self.in_flight -= 1
        self._shares.tell(self)

    def answered(self) -> None:
        """A request has a result, which is not recorded yet."""
        self.unrecorded += 1

    def recorded(self, count: int) -> None:
        """So many results are in the database."""
        self.unrecorded -= count
        self._shares.tell(self)


def fair(free: int, count: int) -> int:
    """Return how many more of what is `free` one may take that has `count`, leaving room.

    It is what `claim.quotas` gives to one lane.

    >>> fair(100, 0), fair(20, 80), fair(20, 0), fair(1, 0), fair(1, 5)
    (80, 0, 16, 1, 0)
    """
    more = -(-(GREED * (free - 1) - count) // (GREED + 1))
    return max(more, 1 if free > 0 and not count else 0)


def left(size: int, part: int, count: int, others: Iterable[int]) -> int:
    """Return how much of `size` is left for one that has `count`.

    Each of the `others` has `part` for itself, whether it uses it or not.

    >>> left(200, 50, 120, [10]), left(200, 50, 10, [150])
    (30, 40)
    """
    return size - count - sum(max(each, part) for each in others)
