"""When the next attempt is due.

A schedule is a tuple of delays in seconds: the first before the first attempt, each
other one after another failure. When it is used up, the delivery is dead. By default
it is the one that Standard Webhooks recommends, ten attempts within about three days:

    0s, 5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 1d

Each delay is spread by 20 % to both sides, so that what failed together does not come
back together. A receiver may ask for more time by `Retry-After`, within bounds; it can
never make an attempt come sooner.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from reprlib import repr as shortened
from typing import TYPE_CHECKING

from .errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

DEFAULT_SCHEDULE: tuple[float, ...] = (
    0.0, 5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, DAY,
)  # fmt: skip
JITTER = 0.2
MAX_ENTRIES = 100
MAX_DELAY = 30 * DAY
MAX_ASKED = HOUR  # how far a receiver can always postpone, however short the schedule is

_UNITS = {"d": DAY, "h": HOUR, "m": MINUTE, "s": 1.0}
_ENTRY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd]?)")
_RULE = f"must be 1 to {MAX_ENTRIES} delays such as 0s, 0.5s, 5m, 2h or 1d, none over 30d"


def delay_before(attempts_failed: int, schedule: Sequence[float]) -> float | None:
    """Return the seconds before the next attempt of a delivery that failed so often.

    None means that the schedule is used up.

    >>> delay_before(0, (0.0, 5.0)), delay_before(1, (0.0, 5.0)), delay_before(2, (0.0, 5.0))
    (0.0, 5.0, None)
    """
    return schedule[attempts_failed] if attempts_failed < len(schedule) else None


def jittered(delay: float, rng: Random) -> float:
    """Return `delay` spread evenly by 20 % to both sides.

    >>> from random import Random
    >>> 80 <= jittered(100.0, Random(1)) <= 120
    True
    """
    return delay * rng.uniform(1 - JITTER, 1 + JITTER)


def retry_delay(
    failures: int, schedule: Sequence[float], *, asked: float | None, rng: Random
) -> float | None:
    """Return the seconds until the next attempt after `failures`, None when there is none.

    `asked` is what `retry_after` read. It is obeyed from the schedule's own delay up to
    twice that, or an hour if that is more.

    >>> from random import Random
    >>> retry_delay(1, (0.0, 5.0), asked=60.0, rng=Random(1))
    60.0
    >>> retry_delay(2, (0.0, 5.0), asked=60.0, rng=Random(1)) is None
    True
    """
    base = delay_before(failures, schedule)
    if base is None:
        return None
    delay = jittered(base, rng)
    if asked is None:
        return delay
    return max(delay, base, min(asked, max(2 * base, MAX_ASKED)))


def retry_after(value: str | None, *, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` asks for (RFC 9110, 10.2.3), None if none.

    Takes seconds or a date in any of the three forms of HTTP; a date in the past is 0,
    one without a zone is UTC, and what is neither seconds nor a date is None.
    `now` is aware.

    >>> now = datetime(1994, 11, 6, 8, 49, 0, tzinfo=UTC)
    >>> retry_after("120", now=now), retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now=now)
    (120.0, 37.0)
    >>> retry_after("soon", now=now) is None
    True
    """
    text = (value or "").strip(" \t")
    if re.fullmatch("[0-9]{1,9}", text):  # int() alone would take other digits, and too many
        return float(text)
    date = _http_date(text)
    return None if date is None else max(0.0, (date - now).total_seconds())


def check_schedule(schedule: Sequence[float]) -> tuple[float, ...]:
    """Return `schedule`, in seconds to the millisecond.

    Raises `InvalidInput` unless it has 1 to 100 delays from 0 to 30 days.

    >>> check_schedule([0, 5, 300])
    (0.0, 5.0, 300.0)
    """
    if not 1 <= len(schedule) <= MAX_ENTRIES:
        raise InvalidInput("schedule", f"{_RULE}; got {len(schedule):,} delays")
    for place, delay in enumerate(schedule, start=1):
        if not isinstance(delay, int | float) or not 0 <= delay <= MAX_DELAY:
            raise InvalidInput("schedule", f"{_RULE}; number {place} is not")
    return tuple(abs(round(float(delay), 3)) for delay in schedule)  # abs: no -0.0


def parse_schedule(text: str) -> tuple[float, ...]:
    """Return the delays in seconds, to the millisecond, that `text` lists.

    An entry is a number and `s`, `m`, `h` or `d`; without a unit it is seconds.
    Raises `InvalidInput` for anything else and as `check_schedule` does.

    >>> parse_schedule("0s, 5s, 5m, 2h, 1d, 0.5")
    (0.0, 5.0, 300.0, 7200.0, 86400.0, 0.5)
    """
    return check_schedule([_seconds(entry.strip()) for entry in text.split(",")])


def parse_duration(name: str, text: str) -> float:
    """Return the seconds that `text` means, written as an entry of a schedule.

    Raises `InvalidInput` with the field `name` for anything else.

    >>> parse_duration("overlap", "24h")
    86400.0
    """
    match = _ENTRY.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(name, "must be a number of seconds, or a number and s, m, h or d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def format_schedule(schedule: Sequence[float]) -> str:
    """Return the text that `parse_schedule` reads as `schedule`.

    >>> format_schedule(DEFAULT_SCHEDULE)
    '0s, 5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 1d'
    """
    return ", ".join(_entry(delay) for delay in schedule)


def _seconds(entry: str) -> float:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise InvalidInput("schedule", f"{_RULE}; got {shortened(entry)}")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _entry(delay: float) -> str:
    for unit, seconds in _UNITS.items():
        if delay and delay % seconds == 0:
            return f"{delay / seconds:.0f}{unit}"
    return f"{delay:.3f}".rstrip("0").rstrip(".") + "s"


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year of many digits
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
