"""When the next attempt is due."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox import schedule as module
from outbox.errors import InvalidInput
from outbox.schedule import (
    DEFAULT_SCHEDULE,
    check_schedule,
    delay_before,
    format_schedule,
    jittered,
    parse_schedule,
    retry_after,
    retry_delay,
)

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
THIRTY_DAYS = 2_592_000.0

delays = st.floats(0, THIRTY_DAYS)
schedules = st.lists(delays, min_size=1, max_size=100).map(check_schedule)
asked = st.none() | st.floats(0, 10) | st.floats(0, 10**9)
rngs = st.randoms(use_true_random=False)


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(module).failed == 0


def test_default() -> None:
    """The default is the schedule of Standard Webhooks: 10 attempts in 75 h 35 min 5 s."""
    expected = timedelta(hours=75, minutes=35, seconds=5).total_seconds()

    assert len(DEFAULT_SCHEDULE) == 10
    assert sum(DEFAULT_SCHEDULE) == expected
    assert check_schedule(DEFAULT_SCHEDULE) == DEFAULT_SCHEDULE


@given(schedules)
def test_as_many_attempts_as_delays(schedule: tuple[float, ...]) -> None:
    """A schedule allows one attempt for each delay, and no more."""
    found = [delay_before(failed, schedule) for failed in range(len(schedule) + 2)]

    assert found == [*schedule, None, None]


@given(delays, rngs)
def test_jitter_stays_in_its_band(delay: float, rng: Random) -> None:
    """Jitter is at most 20 % to either side and never negative."""
    found = jittered(delay, rng)

    assert delay * 0.8 <= found <= delay * 1.2


@given(st.integers(0, 5), schedules, asked, rngs)
def test_delay_is_bounded(
    failures: int, schedule: tuple[float, ...], asked: float | None, rng: Random
) -> None:
    """The delay is the schedule's with jitter, or what was asked within its bounds."""
    base = delay_before(failures, schedule)

    found = retry_delay(failures, schedule, asked=asked, rng=rng)

    if base is None or found is None:
        assert base is found
    elif asked is None:
        assert base * 0.8 <= found <= base * 1.2
    else:
        assert base <= found <= max(base * 2, 3600)


@given(delays, st.floats(0, 10**9), st.integers())
def test_asking_never_shortens(base: float, asked: float, seed: int) -> None:
    """With the same luck, asking for time brings at least as much as not asking."""
    without = retry_delay(0, (base,), asked=None, rng=Random(seed))  # noqa: S311
    found = retry_delay(0, (base,), asked=asked, rng=Random(seed))  # noqa: S311

    assert without is not None
    assert found is not None
    assert found >= without


@pytest.mark.parametrize(
    ("base", "asked", "expected"),
    [(5, 0, 5), (5, 60, 60), (5, 3600, 3600), (5, 86_400, 3600), (36_000, 86_400, 72_000)],
)
def test_asked_delay(base: float, asked: float, expected: float) -> None:
    """What is asked is obeyed up to an hour, or up to twice the schedule's own delay."""
    rng = Random(1)  # noqa: S311

    assert retry_delay(0, (base,), asked=asked, rng=rng) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120\t", 120.0),
        ("999999999", 999_999_999.0),
        ("Sat, 31 Jan 2026 12:01:00 GMT", 60.0),
        ("Saturday, 31-Jan-26 12:01:00 GMT", 60.0),
        ("Sat Jan 31 12:01:00 2026", 60.0),
        ("Sat, 31 Jan 2026 12:01:00 -0000", 60.0),
        ("Sat, 31 Jan 2026 13:01:00 +0100", 60.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("1234567890", None),
        ("٣", None),
        ("1" * 5_000, None),
        ("Sat, 31 Jan 99999999999 12:01:00 GMT", None),
        ("Sat, 99 Jan 2026 12:01:00 GMT", None),
        ("Sat, 31 Jan 2026 12:01:00 +9999", None),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    """Seconds and the three forms of a date are read, the past is now, junk is nothing."""
    assert retry_after(value, now=NOW) == expected


near_dates = st.builds(
    "{}, {} Jan {} {}:{}:{} {}".format,
    st.sampled_from(["Sat", "Saturday", "x", ""]),
    *[st.integers(-1, 99) | st.integers(0, 10**30) | st.text(max_size=3)] * 5,
    st.sampled_from(["GMT", "-0000", "+9999", "-99999999999", ""]) | st.text(max_size=6),
)


@given(st.text(st.characters()) | near_dates)
def test_retry_after_never_raises(value: str) -> None:
    """Whatever a receiver writes, the answer is a delay or nothing."""
    found = retry_after(value, now=NOW)

    assert found is None or found >= 0


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001
def test_retry_after_a_date(moment: datetime) -> None:
    """A date means the time from now until then."""
    moment = moment.replace(microsecond=0, tzinfo=UTC)

    found = retry_after(format_datetime(moment, usegmt=True), now=NOW)

    assert found == max(0.0, (moment - NOW).total_seconds())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0.0,)),
        ("0s,5s, 5m ,2h,1d", (0.0, 5.0, 300.0, 7_200.0, 86_400.0)),
        ("0.1, 0.25s, 1.5h", (0.1, 0.25, 5_400.0)),
        ("0.0004", (0.0,)),
        ("30d", (THIRTY_DAYS,)),
    ],
)
def test_parse(text: str, expected: tuple[float, ...]) -> None:
    """Numbers with a unit, or seconds without one, are delays."""
    assert parse_schedule(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "5s,", "5x", "5 s s", "-1", "1e3", "inf", "nan", ".5", "٣", "31d", "1,2" * 101],
)
def test_bad_schedule(text: str) -> None:
    """Anything else, over 100 entries or over 30 days is refused."""
    with pytest.raises(InvalidInput, match=r"^schedule: must be 1 to 100 delays"):
        parse_schedule(text)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), THIRTY_DAYS + 1, "5", None])
def test_bad_delay(delay: object) -> None:
    """The error says which of the delays is none."""
    with pytest.raises(InvalidInput, match="number 2 is not"):
        check_schedule([0, delay])  # type: ignore[list-item]


@given(schedules)
def test_round_trip(schedule: tuple[float, ...]) -> None:
    """The text of a schedule reads as that schedule."""
    assert parse_schedule(format_schedule(schedule)) == schedule


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [((0.0, 0.5, 90.0), "0s, 0.5s, 90s"), ((3600.0, 5400.0, 172_800.0), "1h, 90m, 2d")],
)
def test_format(schedule: tuple[float, ...], expected: str) -> None:
    """A delay is written in the largest unit that makes it a whole number."""
    assert format_schedule(schedule) == expected
