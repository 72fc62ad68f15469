"""Times as people write them."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime

import pytest

from outbox import InvalidInput, moments
from outbox.moments import parse_moment

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", "2026-11-02T12:00:00+00:00"),
        ("30s", "2026-11-02T11:59:30+00:00"),
        ("7d", "2026-10-26T12:00:00+00:00"),
        ("2026-11-01", "2026-11-01T00:00:00+00:00"),
        ("2026-11-01 09:30", "2026-11-01T09:30:00+00:00"),
        ("2026-11-01T09:30:00.5-05:00", "2026-11-01T14:30:00.500000+00:00"),
    ],
)
def test_moments(text: str, moment: str) -> None:
    """A date, a time with or without a zone, or how long ago it was."""
    assert parse_moment("since", text, now=NOW).isoformat() == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "24", "-1h", "1w", "2026-13-01", "999999d", "9999-12-31T23:59-01:00"]
)
def test_no_moments(text: str) -> None:
    """Anything else is refused, with what may be written."""
    with pytest.raises(InvalidInput, match="since: must be a time such as") as caught:
        parse_moment("since", text, now=NOW)

    assert caught.value.field == "since"


def test_examples() -> None:
    """The examples of the module hold."""
    assert doctest.testmod(moments).failed == 0
