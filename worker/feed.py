"""How much a replay may add to the queue now, and to which lanes: decisions.

Nothing marks a delivery as one of a replay for those who claim: what is due first goes
first. So a replay stays behind live traffic by feeding the queue sparingly. A lane takes
more only while next to nothing waits in it, and what waits is fresh; a live event then
finds a few dozen deliveries before it at most, and a fleet that has enough to do is left
alone.

A subscription that takes no more does not stop the others. It is set apart, and goes on
behind a cursor of its own until it has caught up. A replay to one subscription waits.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .rows import Fullness

    Pair = tuple[str, str]  # an event and a subscription, in the order of which a replay goes

WAITING = 32  # deliveries of one lane that wait to be claimed
LIMITED = 4  # the same, of a lane whose limits let them go slowly
OPEN = 1_000  # open ones of one lane, those that wait for a retry or for their subject as well
FRESH = 0.1  # seconds that the first of those that wait may have waited
BURST = 0.5  # seconds of its rate that a replay may save up
BEAT = 0.05  # seconds of its rate that are worth a slice

FIRST = "00000000-0000-0000-0000-000000000000"
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Walk(NamedTuple):
    """What became of the next pairs.

    `made` are those to deliver, `full` the lanes that take no more, each with its first
    event that stays behind. All up to `end` are decided on; None if not even the first is.
    """

    made: list[Pair]
    full: dict[str, str]
    end: Pair | None
    stopped: bool


def room(lane: Fullness) -> int:
    """Return how many deliveries a lane may take. In a stopped one they are held."""
    if lane.is_active and lane.seconds > FRESH:
        return 0
    most = LIMITED if lane.limited else WAITING
    return max(0, min(most - lane.waiting, OPEN - lane.open))


def walk(pairs: Iterable[Pair], allowed: int, rooms: Mapping[str, int], *, waits: bool) -> Walk:
    """Decide on pairs in their order: `allowed` in all, `rooms` of each lane.

    With `waits` the first lane that is full ends it, else the others go on.

    >>> walk([("1", "a"), ("1", "b"), ("2", "a"), ("2", "b")], 9, {"a": 1, "b": 9}, waits=False)
    Walk(made=[('1', 'a'), ('1', 'b'), ('2', 'b')], full={'a': '2'}, end=('2', 'b'), stopped=False)
    """
    made: list[Pair] = []
    full: dict[str, str] = {}
    taken: Counter[str] = Counter()
    end = None
    for pair in pairs:
        event, lane = pair
        if lane not in full:
            if taken[lane] < rooms.get(lane, 0):
                if len(made) == allowed:
                    return Walk(made, full, end, stopped=True)
                made.append(pair)
                taken[lane] += 1
            elif waits:
                return Walk(made, full, end, stopped=True)
            else:
                full[lane] = event
        end = pair
    return Walk(made, full, end, stopped=False)


def passed(lane: str, after: str, walk: Walk, end: Pair | None) -> str:
    """Return the event behind which a lane set apart goes on.

    It stood behind `after`; the walk it took part in came to `end`.
    """
    if lane in walk.full:
        return max(after, before(walk.full[lane]))
    if end is None:
        return after
    event, last = end
    return max(after, event if lane <= last else before(event))


def before(event: str) -> str:
    """Return the greatest id that is less than `event`."""
    return str(UUID(int=max(0, UUID(event).int - 1)))


def filled(tokens: float, rate: float, seconds: float) -> float:
    """Return what is in a bucket that fills at `rate` a second, `seconds` later.

    >>> filled(0, 50, 0.1), filled(0, 50, 60), filled(0, 0.5, 60)
    (5.0, 25.0, 1.0)
    """
    return min(max(1.0, rate * BURST), tokens + rate * seconds)


def until_filled(tokens: float, rate: float) -> float:
    """Return the seconds until there is enough in a bucket for the next slice."""
    return max(0.0, (max(1.0, rate * BEAT) - tokens) / rate)
