"""What has arrived: the newest requests, in bounded memory, and which of them came before.

The requests themselves are kept for a while; that an id has come, and how it was answered,
is remembered for longer, and the counts for ever.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from .arrivals import Repeats, event_id

if TYPE_CHECKING:
    from .arrivals import Arrival, Request

MOST = 1_000  # requests
ROOM = 64 * 1_048_576  # bytes of their bodies
IDS = 100_000


class Place(NamedTuple):
    """The number of a request, what it repeats, and how often its webhook came before.

    Requests without an id count as one webhook.
    """

    number: int
    repeats: Repeats | None
    before: int


@dataclass(slots=True)
class _Seen:
    first: int
    body: bytes
    times: int = 1
    answered: int | None = None
    accepted: int | None = None


class Inbox:
    """Takes requests in two steps: `arrive` numbers one, `keep` stores it with its answer."""

    def __init__(self, *, most: int = MOST, room: int = ROOM, ids: int = IDS) -> None:
        self._most, self._room, self._ids = most, room, ids
        self._kept: OrderedDict[int, Arrival] = OrderedDict()
        self._size = 0
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._nameless = 0
        self.count = 0
        self.duplicates = 0
        self.answers: Counter[int] = Counter()
        self.signatures: Counter[str] = Counter()

    def arrive(self, request: Request) -> Place:
        """Number a request, and say what it repeats."""
        self.count += 1
        id, body = event_id(request), sha256(request.body).digest()
        if id is None:
            self._nameless += 1
            return Place(self.count, None, self._nameless - 1)
        seen = self._seen.get(id)
        if seen is None:
            self._seen[id] = _Seen(self.count, body)
            if len(self._seen) > self._ids:
                self._seen.popitem(last=False)
            return Place(self.count, None, 0)
        repeats = Repeats(seen.first, seen.times, seen.answered, seen.accepted, seen.body == body)
        seen.times += 1
        return Place(self.count, repeats, repeats.times)

    def keep(self, arrival: Arrival) -> None:
        """Store a request that was answered; the oldest go when there is no room."""
        self._remember(arrival)
        self._kept[arrival.number] = arrival
        self._size += _size(arrival)
        while len(self._kept) > self._most or (self._size > self._room and len(self._kept) > 1):
            _, oldest = self._kept.popitem(last=False)
            self._size -= _size(oldest)

    def arrivals(self) -> list[Arrival]:
        """Return those that are kept, oldest first."""
        return list(self._kept.values())

    def get(self, number: int | None) -> Arrival | None:
        """Return the one of this number, None if it is not kept; without a number the newest."""
        if number is None:
            return next(reversed(self._kept.values()), None)
        return self._kept.get(number)

    def summary(self) -> str:
        """Return what came, in a sentence.

        >>> Inbox().summary()
        'No request came.'
        """
        if not self.count:
            return "No request came."
        parts = [f"{self.count:,} request{'' if self.count == 1 else 's'}"]
        parts += [f"{count:,} {state}" for state, count in sorted(self.signatures.items())]
        if self.duplicates:
            parts.append(f"{self.duplicates:,} duplicate{'' if self.duplicates == 1 else 's'}")
        parts += [f"{count:,} answered {status}" for status, count in sorted(self.answers.items())]
        return f"{', '.join(parts)}."

    def _remember(self, arrival: Arrival) -> None:
        status, repeats = arrival.reply.status, arrival.repeats
        self.answers[status] += 1
        self.signatures[arrival.verdict.state] += 1
        self.duplicates += repeats is not None and repeats.accepted is not None
        if (seen := self._seen.get(event_id(arrival.request) or "")) is not None:
            seen.answered = status
            if seen.accepted is None and 200 <= status < 300:
                seen.accepted = arrival.number


def _size(arrival: Arrival) -> int:
    return len(arrival.request.body) + len(arrival.reply.body)
