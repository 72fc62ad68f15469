"""How many requests a lane may have in flight: few at first, more with each answer.

A receiver that answers is given more and more; one that is down or has too much to do is
given half each time, and after a few failures in a row nothing but a probe now and then.
So a receiver that hangs holds a handful of slots, not all of them, and thousands of held
deliveries come back to a receiver gently. Deliveries that wait behind an open breaker use
up no attempts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .outcome import OVERLOADED

if TYPE_CHECKING:
    from .outcome import Reply

FIRST_WINDOW = 8  # requests in flight to a receiver that nothing is known of
FAILURES = 5  # in a row, after which the breaker opens
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds until a probe
MAX_KNOWN = 10_000  # lanes


def hurts(reply: Reply) -> bool:
    """Return whether `reply` says that the receiver is down or has too much to do.

    Any other answer, a 500 or a 404 as well, comes from one that is there and can be asked
    about the next event.
    """
    if reply.status is None:
        return reply.error_class not in {None, "internal", "stale"}
    return reply.status in OVERLOADED


@dataclass(slots=True)
class _Lane:
    window: int = FIRST_WINDOW
    failures: int = 0  # in a row
    pause: float = 0.0
    opened_at: float = float("-inf")


class Breaker:
    """What a process knows of its receivers; times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}

    def window(self, lane: str) -> int:
        """Return how many claims of `lane` may be held."""
        known = self._lanes.get(lane)
        return FIRST_WINDOW if known is None else known.window

    @property
    def open(self) -> int:
        """How many lanes get nothing but a probe."""
        return sum(known.pause > 0 for known in self._lanes.values())

    def answered(self, lane: str) -> None:
        """The receiver answered: it may have one request more at a time."""
        known = self._known(lane)
        known.window += 1
        known.failures = 0
        known.pause = 0.0

    def failed(self, lane: str, *, began: float, now: float) -> float:
        """A request that began at `began` failed; return the seconds to leave the lane alone.

        Requests that were in flight together fail together: only the first of them opens
        the breaker, and each probe that fails doubles the pause.
        """
        known = self._known(lane)
        known.failures += 1
        known.window = max(1, known.window // 2)
        if known.failures < FAILURES or began < known.opened_at:
            return 0.0
        known.window = 1
        known.opened_at = now
        known.pause = min(LONGEST_PAUSE, known.pause * 2 or FIRST_PAUSE)
        return known.pause

    def _known(self, lane: str) -> _Lane:
        if len(self._lanes) > MAX_KNOWN:
            self._lanes.clear()
        return self._lanes.setdefault(lane, _Lane())
