"""What a receiver to develop against answers: decided by what it was told to do.

Each webhook goes through the statuses in turn: `503,503,200` refuses its first two
requests and accepts every later one, however many webhooks come at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from outbox import InvalidInput
from outbox.verdicts import VERIFIED

if TYPE_CHECKING:
    from random import Random

    from .arrivals import Request

FAILS = 503  # the answer to a request that is to fail by chance
REFUSED = 401  # to one that is not signed rightly, if that is asked for
ELSEWHERE = 404

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)%")


@dataclass(frozen=True, slots=True)
class Answers:
    """What was told: `fail` is a probability, `path` the only one that is accepted."""

    statuses: tuple[int, ...] = (200,)
    fail: float = 0.0
    strict: bool = False
    path: str | None = None


def choose(told: Answers, request: Request, state: str, before: int, rng: Random) -> int:
    """Return the status that answers a request.

    `state` is that of its signature, `before` how often its webhook came already.

    >>> from datetime import UTC, datetime
    >>> from random import Random
    >>> from .arrivals import Request
    >>> request = Request(datetime.now(UTC), "POST", "/")
    >>> told = Answers((503, 503, 200))
    >>> [choose(told, request, "verified", before, Random(1)) for before in range(4)]
    [503, 503, 200, 200]
    """
    if request.flaw is not None:
        return request.flaw.status
    if told.path is not None and request.path.partition("?")[0] != told.path:
        return ELSEWHERE
    if told.strict and state != VERIFIED:
        return REFUSED
    if told.fail and rng.random() < told.fail:
        return FAILS
    return told.statuses[min(before, len(told.statuses) - 1)]


def parse_statuses(text: str) -> tuple[int, ...]:
    """Return the statuses that `text` lists. Raises InvalidInput.

    >>> parse_statuses("503, 503,200")
    (503, 503, 200)
    """
    found = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[2-5][0-9][0-9]", part) for part in found) or len(found) > 100:
        raise InvalidInput("status", "must be 1 to 100 of 200 to 599, by commas: 503,503,200")
    return tuple(map(int, found))


def parse_chance(text: str) -> float:
    """Return the probability that `text` means: `30%`. Raises InvalidInput.

    >>> parse_chance("30%")
    0.3
    """
    found = _PERCENT.fullmatch(text)
    if found is None or float(found[1]) > 100:
        raise InvalidInput("fail", "must be a percentage such as 30%")
    return float(found[1]) / 100
