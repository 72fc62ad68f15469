"""Failing and stopped subscriptions, and replays that run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from outbox import subscriptions, trouble
from outbox.backlog import Count
from tests.factories import BY, subscribe, value

from .live import attempt, block, disable, queue

if TYPE_CHECKING:
    from uuid import UUID

    import pytest
    from sqlalchemy import Connection

HEALTH = """
INSERT INTO outbox.subscription_health (subscription_id, failing_since, failures)
VALUES (:id, now() - CAST(:age AS interval), :failures)
"""
REPLAY = """
INSERT INTO outbox.replay (mode, counted, made, last_event, actor, command, state, ended_at)
VALUES ('all', 100, 40, outbox.uuid7(), 'ada', 'a test', :state,
    CASE WHEN :state <> 'running' THEN now() END)
RETURNING id
"""


def fail(db: Connection, id: UUID, age: str, failures: int = 1) -> None:
    """Nothing but failures since then."""
    db.execute(text(HEALTH), {"id": id, "age": age, "failures": failures})


def test_nothing(db: Connection) -> None:
    """Nothing is wrong."""
    subscribe(db)

    assert trouble.look(db, {}) == trouble.Trouble((), 0, (), 0, ())


def test_failing(db: Connection) -> None:
    """The one that fails for longest is first; the last error is told."""
    young, old, paused = (subscribe(db).id for _ in range(3))
    fail(db, young, "1 min")
    fail(db, old, "1 h", 7)
    fail(db, paused, "2 h")
    subscriptions.pause(db, paused, by=BY)
    attempt(db, old, 70, "retry", status=500)
    attempt(db, old, 60, "retry", status=503)
    attempt(db, old, 65, "retry", status=502)

    found = trouble.look(db, {})

    assert [each.id for each in found.failing] == [old, young]
    assert (found.failing[0].failures, found.failing[0].status) == (7, 503)
    assert (found.failing[1].status, found.failing[1].error) == (None, None)
    assert found.failing_total == 2


def test_the_last_error_of_one_that_fails_rarely(db: Connection) -> None:
    """An old failure is found where it waits for its retry, behind all that was not tried."""
    rare = subscribe(db).id
    fail(db, rare, "1 d")
    attempt(db, rare, 7_200, "retry", status=None, error_class="dns")
    db.execute(
        text("""
        INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at, attempt)
        SELECT id, subscription_id, event_id, now() + interval '1 h', 1 FROM outbox.delivery
        """)
    )
    queue(db, rare, n=100)
    for _ in range(trouble.LOOKED_AT):
        db.execute(
            text("INSERT INTO outbox.delivery (event_id, subscription_id) VALUES (:id, :id)"),
            {"id": rare},
        )

    assert trouble.look(db, {}).failing[0].error_class == "dns"


def test_held(db: Connection) -> None:
    """Blocked ones come first, then those that hold most; each with its reason."""
    ordered, paused, disabled = subscribe(db, ordered="stop").id, subscribe(db).id, subscribe(db).id
    block(db, ordered, "user/1")
    block(db, ordered, "user/2")
    subscriptions.pause(db, paused, by=BY, reason="they move house")
    disable(db, disabled, "gone")

    found = trouble.look(db, {disabled: Count(7), paused: Count(3)})

    assert [(each.id, each.state, each.reason) for each in found.held] == [
        (ordered, "blocked", None),
        (disabled, "disabled", "gone"),
        (paused, "paused", "they move house"),
    ]
    assert [(each.deliveries, each.subjects) for each in found.held] == [
        (None, 2), (Count(7), 0), (Count(3), 0),
    ]  # fmt: skip
    assert found.held_total == 3


def test_only_the_worst_are_shown(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, as many are read as are shown; all are counted."""
    monkeypatch.setattr(trouble, "SHOWN", 2)
    ids = [subscribe(db).id for _ in range(4)]
    for id in ids:
        subscriptions.pause(db, id, by=BY)

    found = trouble.look(db, {ids[0]: Count(5)})

    assert (found.held[0].id, len(found.held), found.held_total) == (ids[0], 2, 4)


def test_replays(db: Connection) -> None:
    """Those that run are shown, with how far they are."""
    running, _ = (value(db, REPLAY, state=state) for state in ("running", "done"))

    found = trouble.look(db, {}).replays

    assert [(each.id, each.made, each.counted) for each in found] == [(running, 40, 100)]
