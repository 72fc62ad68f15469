"""Times as people write them: a date, a time, or how long ago.

    2026-11-01   2026-11-01T09:30   2026-11-01T09:30:00+02:00   90m   24h   7d   now

What has no zone is UTC, as everything that the database shows.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from reprlib import repr as shortened
from uuid import UUID

from .errors import InvalidInput

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_RULE = "must be a time such as 2026-11-01, 2026-11-01T09:30:00Z, or 24h for so long ago"


def parse_moment(field: str, text: str, *, now: datetime) -> datetime:
    """Return the moment that `text` means, in UTC; `now` is aware. Raises InvalidInput.

    >>> now = datetime(2026, 11, 2, 12, tzinfo=UTC)
    >>> parse_moment("since", "24h", now=now).isoformat()
    '2026-11-01T12:00:00+00:00'
    >>> parse_moment("since", "2026-11-01T09:30+02:00", now=now).isoformat()
    '2026-11-01T07:30:00+00:00'
    """
    ago = _AGO.fullmatch(text)
    try:
        if text == "now":
            return now
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
        zoned = found if found.tzinfo else found.replace(tzinfo=UTC)
        return zoned.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(field, f"{_RULE}; got {shortened(text)}") from error


def check_range(since: datetime | None, until: datetime | None) -> None:
    """Raise InvalidInput unless there can be something from `since` on and before `until`."""
    if since is not None and until is not None and since >= until:
        raise InvalidInput("since", "must be before until")


# Ids are UUIDv7 (RFC 9562, 5.7): they begin with 48 bits of milliseconds, so a range of ids
# is a range of time.

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LAST = 253_402_300_799_999  # milliseconds until the end of the year 9999


def uuid7_floor(moment: datetime) -> UUID:
    """Return the smallest id of a moment, as `outbox.uuid7_floor` does; `moment` is aware.

    >>> uuid7_floor(datetime(2026, 1, 31, tzinfo=UTC))
    UUID('019c1159-7000-0000-0000-000000000000')
    """
    return UUID(int=max(0, (moment - _EPOCH) // _MILLISECOND) << 80)


def moment_of(id: UUID) -> datetime:
    """Return when an id was made, in UTC.

    >>> moment_of(UUID("019c1159-7000-7000-8000-000000000000")).isoformat()
    '2026-01-31T00:00:00+00:00'
    """
    return _EPOCH + _MILLISECOND * min(id.int >> 80, _LAST)
