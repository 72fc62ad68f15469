"""What waits, counted to the last row, and estimated where there is too much."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING

from sqlalchemy import text

from outbox import backlog, subscriptions
from outbox.backlog import Count
from tests.factories import BY, subscribe

from .live import block, disable, queue

if TYPE_CHECKING:
    from uuid import UUID

    import pytest
    from sqlalchemy import Connection

EVENTS = """
INSERT INTO outbox.event_queue (due_at, event_id, error)
SELECT CAST(:due AS timestamptz), gen_random_uuid(), :error FROM generate_series(1, :n)
"""


def of_everything(db: Connection) -> UUID:
    """Some of each kind; returns the paused subscription."""
    active, ordered = subscribe(db).id, subscribe(db, ordered="stop").id
    paused, disabled = subscribe(db).id, subscribe(db).id
    subscriptions.pause(db, paused, by=BY)
    disable(db, disabled)
    queue(db, active, "-1 min", n=3)
    queue(db, active, "-2 min", n=2, lease="30 s")
    queue(db, active, "-90 s", lease="-30 s")
    queue(db, active, "5 min", n=4)
    queue(db, ordered, "infinity", n=5, subject="user/1")
    queue(db, ordered, "infinity", n=6, subject="user/2")
    block(db, ordered, "user/2")
    queue(db, paused, "-1 h", n=7)
    queue(db, paused, "-1 h", lease="30 s")
    queue(db, disabled, "1 h", n=8)
    return paused


def test_doctests() -> None:
    """The examples are right."""
    assert doctest.testmod(backlog).failed == 0


def test_nothing(db: Connection) -> None:
    """Nothing waits."""
    found, held = backlog.look(db)

    none = Count(0)
    assert (found.due, found.in_flight, found.waiting, found.held) == (none, none, none, {})
    assert (found.not_fanned_out, found.scheduled, found.set_aside) == (none, none, none)
    assert (found.oldest_event, found.oldest_due, held) == (None, None, {})


def test_deliveries(db: Connection) -> None:
    """Each open delivery is of one kind; one that is in flight is, whatever else it may be."""
    paused = of_everything(db)

    found, held = backlog.look(db)

    assert found.due == Count(4)
    assert found.in_flight == Count(3)
    assert found.waiting == Count(4)
    assert found.held == {
        "paused": Count(7), "disabled": Count(8), "in order": Count(5), "blocked": Count(6),
    }  # fmt: skip
    assert found.oldest_due == 90
    assert (len(held), held[paused]) == (2, Count(7))


def test_events(db: Connection) -> None:
    """Events wait for their fan-out, for their time, or for a person."""
    for due, n, error in (
        ("-3 s", 2, None), ("-1 s", 1, None), ("1 h", 3, None), ("infinity", 4, "it broke"),
    ):  # fmt: skip
        at = due if error else db.execute(text("SELECT now() + CAST(:d AS interval)"), {"d": due})
        at = at if isinstance(at, str) else at.scalar_one()
        db.execute(text(EVENTS), {"due": at, "n": n, "error": error})

    found, _ = backlog.look(db)

    assert (found.not_fanned_out, found.oldest_event) == (Count(3), 3)
    assert (found.scheduled, found.set_aside) == (Count(3), Count(4))


def test_a_long_queue(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long queue some pages are read; in flight and the oldest are found by index."""
    monkeypatch.setattr(backlog, "PAGES", 60)
    db.exec_driver_sql("TRUNCATE outbox.delivery_queue")  # no pages of earlier tests among them
    first, second, paused = (subscribe(db).id for _ in range(3))
    subscriptions.pause(db, paused, by=BY)
    queue(db, first, "-5 min", n=5, lease="30 s")
    for due, subscription in (("-3 min", first), ("-4 min", second), ("1 h", second)):
        queue(db, subscription, due, n=2_000)
    queue(db, paused, "-1 h", n=2_000)

    found, held = backlog.look(db)

    assert (found.in_flight, found.oldest_due) == (Count(5, exact=False), 240)
    for count, true in ((found.due, 4_000), (found.waiting, 2_000), (found.held["paused"], 2_000)):
        assert not count.exact
        assert true / 3 < count.number < true * 3
    assert held[paused] == found.held["paused"]


def test_a_long_queue_of_events(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are estimated in the same way; those set aside are counted."""
    monkeypatch.setattr(backlog, "EVENT_PAGES", 20)
    for due, error in (("2020-01-01", None), ("9000-01-01", None), ("infinity", "it broke")):
        db.execute(text(EVENTS), {"due": due, "n": 5_000, "error": error})

    found, _ = backlog.look(db)

    assert (found.not_fanned_out.exact, found.scheduled.exact) == (False, False)
    assert 2_000 < found.not_fanned_out.number < 12_000
    assert found.set_aside == Count(5_000)
