"""What a reply means for its delivery.

`judge` looks at one reply and says what is to be done; the caller does it. It knows no
clock and no database. Whoever answered with a status is judged by the status alone:

    2xx                         delivered, even if the body broke off
    410                         dead, and the subscription is disabled
    anything else, or nothing   retry by the schedule; dead when that is used up

429, 502, 503 and 504 say that the receiver has too much to do: when they come with
Retry-After, the whole subscription is left alone for as long. A fault of ours is never
held against the receiver. Nor is a kept connection that was closed before it answered
(`stale`): the request is made again at once, on another connection, but as an attempt of
its own, because the receiver may have read the first (its `webhook-id` tells).

Some deliveries are dead before any request: those that lost too many workers, and those
older than the maximal age of their subscription. `stillborn` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from outbox.schedule import MAX_ASKED, format_schedule, jittered, retry_after, retry_delay

from .answers import bare_url
from .phases import NO_PHASES, Phases

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from random import Random

Outcome = Literal["delivered", "retry", "dead"]

OVERLOADED = frozenset({429, 502, 503, 504})
OWN_FAULT_DELAY = 5.0
MAX_OWN_FAULTS = 10  # attempts lost with their worker, after which a delivery is dead
MAX_SHOWN = 200  # characters of foreign text in a reason


class Reply(NamedTuple):
    """What came back for one request, or why nothing did.

    `status` is None when no answer was read. `headers` have lower-case names; of a 2xx
    only those that name the request at the receiver are there. `body` is cut at the cap.
    `error_class` is None or one of `delivery_filter.ERROR_CLASSES`; `error` is a sentence
    about it that holds no secret and no query string.
    """

    status: int | None
    headers: tuple[tuple[str, str], ...]
    body: bytes
    error_class: str | None
    error: str | None
    phases: Phases = NO_PHASES


class Judgement(NamedTuple):
    """What is to be done about a delivery, and about its subscription.

    `delay` is the seconds until the next attempt, for a retry. `disable` is the reason to
    disable the subscription. `throttle` is the seconds to leave all of it alone. `reason`
    is why it was not delivered, for the log and the attempt. `counts` is False when the
    fault is ours: the delivery's failures then stay as they are.
    """

    outcome: Outcome
    delay: float | None = None
    disable: str | None = None
    throttle: float | None = None
    reason: str | None = None
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Age:
    """How old a delivery is, and how old it may become, in seconds."""

    now: float
    most: float

    def allows(self, delay: float) -> bool:
        """Whether an attempt in `delay` seconds still makes sense."""
        return self.now + delay <= self.most

    def __str__(self) -> str:
        return f"its maximal age of {format_schedule([self.most])}"


def age(delivery_id: str, most: float | None, *, now: datetime) -> Age | None:
    """Return the age of a delivery at `now`, None if it may become as old as it likes.

    It is born with its id, a UUIDv7: 48 bits of milliseconds (RFC 9562, 5.7).

    >>> from datetime import UTC, datetime
    >>> now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    >>> print(age("019c13de-dc60-7000-8000-000000000000", 3_600.0, now=now))
    its maximal age of 1h
    """
    if most is None:
        return None
    born = int(delivery_id[:8] + delivery_id[9:13], 16) / 1000
    return Age(now.timestamp() - born, most)


def stillborn(own_faults: int, age: Age | None) -> tuple[Reply, Judgement] | None:
    """Return what a delivery comes to that is dead without a request, None if it is not.

    `own_faults` is its attempts that were no failures. Neither reason is the receiver's.

    >>> stillborn(0, Age(now=7.0, most=5.0))[1].reason
    'older than its maximal age of 5s'
    """
    if own_faults > MAX_OWN_FAULTS:
        lost = f"{own_faults} attempts were lost with their worker, or failed inside it"
        return _unsent("internal"), Judgement("dead", reason=lost, counts=False)
    if age is not None and not age.allows(0.0):
        return _unsent(None), Judgement("dead", reason=f"older than {age}", counts=False)
    return None


def _unsent(error_class: str | None) -> Reply:
    return Reply(None, (), b"", error_class, None)


def judge(
    reply: Reply,
    *,
    failures: int,
    schedule: Sequence[float],
    now: datetime,
    rng: Random,
    age: Age | None = None,
) -> Judgement:
    """Return what `reply` comes to, for a delivery that had failed `failures` times before.

    `schedule` is the seconds before each attempt, `now` an aware datetime. A retry that
    would come when the delivery is too old is no retry: it is dead at once.

    >>> from datetime import UTC, datetime
    >>> from random import Random
    >>> reply = Reply(503, (("retry-after", "120"),), b"", None, None)
    >>> now = datetime(2026, 1, 1, tzinfo=UTC)
    >>> judge(reply, failures=0, schedule=(0.0, 5.0), now=now, rng=Random(1))
    Judgement(outcome='retry', delay=120.0, disable=None, throttle=120.0, \
reason='HTTP 503', counts=True)
    """
    judgement = _judge(reply, failures, schedule, now, rng)
    if age is None or judgement.delay is None or age.allows(judgement.delay):
        return judgement
    reason = f"{judgement.reason}; the next attempt would be older than {age}"
    return judgement._replace(outcome="dead", delay=None, reason=reason)


def _judge(
    reply: Reply, failures: int, schedule: Sequence[float], now: datetime, rng: Random
) -> Judgement:
    reason = _reason(reply)
    if reply.status is None and reply.error_class == "stale":
        return Judgement("retry", delay=0.0, reason=reason, counts=False)
    if reply.status is None and reply.error_class in (None, "internal"):
        delay = jittered(OWN_FAULT_DELAY, rng)
        return Judgement("retry", delay=delay, reason=reason, counts=False)
    if reply.status is not None and 200 <= reply.status <= 299:
        return Judgement("delivered", reason=reason)
    if reply.status == 410:
        return Judgement("dead", disable="gone", reason=reason)
    return _retry(reply, reason, failures, schedule, now, rng)


def _retry(
    reply: Reply,
    reason: str | None,
    failures: int,
    schedule: Sequence[float],
    now: datetime,
    rng: Random,
) -> Judgement:
    asked = retry_after(_header(reply, "retry-after"), now=now)
    delay = retry_delay(failures + 1, schedule, asked=asked, rng=rng)
    throttle = _throttle(reply.status, asked)
    if delay is None:
        return Judgement("dead", throttle=throttle, reason=f"{reason}; the schedule is used up")
    return Judgement("retry", delay=delay, throttle=throttle, reason=reason)


def _throttle(status: int | None, asked: float | None) -> float | None:
    return min(asked, MAX_ASKED) if asked is not None and status in OVERLOADED else None


def _reason(reply: Reply) -> str | None:
    if reply.status is None:
        return _failure(reply)
    if 200 <= reply.status <= 299:
        return f"HTTP {reply.status}, then {_failure(reply)}" if reply.error_class else None
    if 300 <= reply.status <= 399:
        return f"HTTP {reply.status}{_target(reply)} (redirects are not followed)"
    return f"HTTP {reply.status}"


def _failure(reply: Reply) -> str:
    what = reply.error_class or "internal"
    return f"{what}: {_shown(reply.error)}" if reply.error else what


def _target(reply: Reply) -> str:
    shown = _shown(bare_url(_header(reply, "location") or ""))
    return f" to {shown}" if shown else ""


def _shown(text: str) -> str:
    """Only what harms neither a terminal nor PostgreSQL: no control, no lone surrogate."""
    return "".join(filter(str.isprintable, text))[:MAX_SHOWN]


def _header(reply: Reply, name: str) -> str | None:
    return next((value for key, value in reply.headers if key == name), None)
