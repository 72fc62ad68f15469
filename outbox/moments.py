"""Times as people write them: a date, a time, or how long ago.

    2026-11-01   2026-11-01T09:30   2026-11-01T09:30:00+02:00   90m   24h   7d   now

What has no zone is UTC, as everything that the database shows.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from reprlib import repr as shortened
from typing import TYPE_CHECKING

from .errors import InvalidInput

if TYPE_CHECKING:
    from uuid import UUID

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


def moment_of(id: UUID) -> datetime:
    """Return when an id (UUIDv7) was made, to the millisecond.

    >>> from uuid import UUID
    >>> moment_of(UUID("0190163d-8694-739b-aea5-966c26f8ad91")).isoformat()
    '2024-06-14T10:14:09.300000+00:00'
    """
    return datetime.fromtimestamp((id.int >> 80) / 1_000, UTC)
