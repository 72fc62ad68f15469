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
    from collections.abc import Callable


class Shares:
    """`size` slots for all that `join`, before any of them begins."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._all: list[Share] = []

    def join(self) -> Share:
        """Return the share of one more database."""
        self._all.append(Share(self))
        return self._all[-1]

    def room(self, share: Share) -> int:
        """Return how many requests more of `share` may begin now: asked at each delivery."""
        part = self._size // len(self._all)
        free = slots = self._size - share.in_flight
        owed = 2 * self._size - share.owed
        for each in self._all:
            if each is not share:
                free -= each.in_flight
                slots -= each.in_flight or 1  # one at least is for each, however many hang
                owed -= max(each.owed, part)
        if len(self._all) > 1:
            slots = min(slots, fair(free, share.in_flight))
        return max(0, min(slots, owed))

    def tell(self, teller: Share) -> None:
        """Wake those who wait for more room, after `teller` made some; it knows by itself."""
        for share in self._all:
            if share is not teller and share.found is not None and self.room(share) > share.found:
                share.wake()


class Share:
    """What one database has of the slots of its process. `wake` lets it look for room again.

    `found` is the room that it found too little, as far as it did not use it.
    """

    def __init__(self, shares: Shares) -> None:
        self.in_flight = 0
        self.unrecorded = 0
        self.found: int | None = None
        self.wake: Callable[[], object] = lambda: None
        self._shares = shares

    @property
    def owed(self) -> int:
        """How many requests are sent, or being sent, and not recorded."""
        return self.in_flight + self.unrecorded

    def room(self, wanted: int) -> int:
        """Return how many requests more may begin; if fewer than `wanted`, `wake` tells of more."""
        room = self._shares.room(self)
        self.found = room if room < wanted else None
        return room

    def began(self, count: int = 1) -> None:
        """So many requests begin, or are about to."""
        self.in_flight += count
        if self.found is not None:
            self.found = max(0, self.found - count)

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
