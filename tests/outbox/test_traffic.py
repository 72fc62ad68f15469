"""What came and went in the last minutes: rates, outcomes, errors, percentiles."""

from __future__ import annotations

import doctest
from dataclasses import astuple
from typing import TYPE_CHECKING

import pytest

from outbox import traffic
from outbox.traffic import Errors, Percentiles, Rate
from tests.factories import subscribe

from .live import attempt, event

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection


@pytest.fixture
def subscription(db: Connection) -> UUID:
    """Someone to deliver to."""
    return subscribe(db).id


def to_tenths(found: Percentiles | None) -> list[float]:
    """Seconds, as exactly as a millisecond in an id allows in a test."""
    return [round(value, 1) for value in astuple(found)] if found else []


def test_doctests() -> None:
    """The examples are right."""
    assert doctest.testmod(traffic).failed == 0


def test_nothing(db: Connection) -> None:
    """Nothing came and went."""
    found = traffic.look(db)

    assert (found.outcomes, found.errors, found.latency, found.duration) == ({}, (), None, None)
    assert found.events == found.deliveries == Rate(0.0, 0.0, (0.0,) * 30)


def test_rates(db: Connection, subscription: UUID) -> None:
    """Events count when they were stored, deliveries when their 2xx was recorded."""
    for age in (1, 2, 15, 59, 299, 301):
        attempt(db, subscription, age, of=event(db, age))
    attempt(db, subscription, 3, "retry", of=event(db, 400), status=503)

    found = traffic.look(db)

    history = (0.1, *[0.0] * 23, 0.1, 0.0, 0.0, 0.0, 0.1, 0.2)
    assert found.events == found.deliveries == Rate(0.2, 4 / 60, history)


def test_outcomes_and_errors(db: Connection, subscription: UUID) -> None:
    """Failures are named by their class, else by their status; the most frequent are first."""
    attempt(db, subscription, 10)
    attempt(db, subscription, 10, "late")
    for _ in range(3):
        attempt(db, subscription, 20, "retry", status=503)
    for outcome in ("retry", "dead"):
        attempt(db, subscription, 30, outcome, status=None, error_class="timeout")
    attempt(db, subscription, 40, "lost", status=None)

    found = traffic.look(db)

    assert found.outcomes == {"retry": 4, "delivered": 1, "late": 1, "dead": 1, "lost": 1}
    assert found.errors == (Errors("HTTP 503", 3), Errors("timeout", 2), Errors("lost", 1))
    assert found.seconds == 300


def test_percentiles(db: Connection, subscription: UUID) -> None:
    """Latency runs from the event to the record of its 2xx, duration is the request's own."""
    for n in range(1, 101):
        attempt(db, subscription, 10, of=event(db, 10 + n), ms=10 * n)

    found = traffic.look(db)

    assert found.duration == Percentiles(0.5, 0.95, 0.99)
    assert to_tenths(found.latency) == [50.0, 95.0, 99.0]


def test_latency_of_an_event_that_was_not_due(db: Connection, subscription: UUID) -> None:
    """An event that was to be delivered later counts from then on."""
    attempt(db, subscription, 10, of=event(db, 4_000, due=12))

    found = traffic.look(db)

    assert to_tenths(found.latency) == [2.0, 2.0, 2.0]


def test_replays_say_nothing_of_latency(db: Connection, subscription: UUID) -> None:
    """A past event that is delivered again took as long as a person wanted."""
    attempt(db, subscription, 10, of=event(db, 4_000), replay=subscription)

    found = traffic.look(db)

    assert found.latency is None
    assert found.duration == Percentiles(0.04, 0.04, 0.04)


def test_more_events_than_are_read(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest tell the rates, over as long as they reach back."""
    monkeypatch.setattr(traffic, "BOUND", 20)
    for n in range(100):
        event(db, n)

    found = traffic.look(db).events

    assert (found.last_10s, found.history) == (1.0, (1.0,))
    assert found.last_minute == pytest.approx(1.0, abs=0.06)


def test_more_attempts_than_are_read(
    db: Connection, subscription: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The widest window is taken that is not too much; the history is shorter then."""
    monkeypatch.setattr(traffic, "BOUND", 70)
    for n in reversed(range(100)):
        attempt(db, subscription, n + 0.5, of=event(db, n + 10))

    found = traffic.look(db)

    assert (found.seconds, found.outcomes) == (60, {"delivered": 60})
    assert found.deliveries == Rate(1.0, 1.0, (1.0,) * 6)


def test_more_attempts_than_are_read_in_ten_seconds(
    db: Connection, subscription: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them stand for all."""
    monkeypatch.setattr(traffic, "BOUND", 50)
    for n in reversed(range(100)):
        attempt(db, subscription, n / 10 + 0.05, of=event(db, 20))

    found = traffic.look(db)

    assert found.deliveries.last_10s == pytest.approx(10.0, abs=0.2)
    assert found.outcomes == {"delivered": 50}


def test_a_sample_is_spread_evenly(
    db: Connection, subscription: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many deliveries some tell how long they took, one in so many."""
    monkeypatch.setattr(traffic, "SAMPLE", 10)
    past = event(db, 300)
    for n in range(1, 101):
        attempt(db, subscription, 10, of=past, ms=n)

    found = traffic.look(db).duration

    assert found == Percentiles(0.05, 0.1, 0.1)
