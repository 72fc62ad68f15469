"""How a subscription fared: from the log, within bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import insert

from outbox import NotFound, health, subscriptions
from outbox.tables import attempt, delivery, delivery_queue
from tests.factories import BY, subscribe, value

if TYPE_CHECKING:
    from sqlalchemy import Connection

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def deliver(connection: Connection, to: UUID, *attempts: dict[str, Any], **queue: Any) -> UUID:
    """A delivery with attempts; it is open if it has a place in the `queue`."""
    event_id = value(connection, "SELECT outbox.uuid7()")
    ids = {"event_id": event_id, "subscription_id": to}
    id: UUID = connection.execute(
        insert(delivery).values(ids).returning(delivery.c.id)
    ).scalar_one()
    for number, row in enumerate(attempts, start=1):
        connection.execute(insert(attempt).values(delivery_id=id, attempt=number, **row))
    if queue:
        connection.execute(insert(delivery_queue).values(delivery_id=id, **ids, **queue))
    return id


def ok(ms: int, **row: Any) -> dict[str, Any]:
    return {"outcome": "delivered", "status": 200, "duration_ms": ms, **row}


def failed(ms: int, **row: Any) -> dict[str, Any]:
    return {"outcome": "retry", "status": 500, "duration_ms": ms, **row}


def test_figures(db: Connection) -> None:
    """Success rate, how long it took, and when it last went well or not."""
    id, now = subscribe(db).id, value(db, "SELECT now()")
    minute = timedelta(minutes=1)
    deliver(db, id, failed(900, recorded_at=now - 3 * minute), ok(30, recorded_at=now - minute))
    deliver(db, id, ok(10, recorded_at=now - 2 * minute))
    deliver(db, id, {"outcome": "lost"}, ok(20, recorded_at=now - 5 * minute))
    deliver(db, subscribe(db).id, failed(5))
    found = health.report(db, id, since=now - 4 * minute)

    assert (found.attempts, found.succeeded) == (3, 2)
    assert found.success_rate == pytest.approx(2 / 3)
    assert (found.p50_ms, found.p95_ms) == (30, 900)
    assert found.last_success == now - minute
    assert found.last_failure == now - 3 * minute
    assert found.sampled is False


def test_recent_attempts(db: Connection) -> None:
    """The newest are told of, newest first, at most ten."""
    id, now = subscribe(db).id, value(db, "SELECT now()")
    made = [deliver(db, id, ok(n, recorded_at=now - timedelta(seconds=n))) for n in range(12)]
    found = health.report(db, id, since=LONG_AGO).recent

    assert [each.delivery_id for each in found] == made[:10]
    assert (found[3].outcome, found[3].status, found[3].duration_ms) == ("delivered", 200, 3)


def test_nothing_yet(db: Connection) -> None:
    """A subscription without attempts has no rate, and an unknown one is none."""
    found = health.report(db, subscribe(db).id, since=LONG_AGO)

    assert (found.attempts, found.success_rate, found.p50_ms, found.recent) == (0, None, None, ())
    with pytest.raises(NotFound):
        health.report(db, UUID(int=0), since=LONG_AGO)


def test_open_deliveries(db: Connection) -> None:
    """Open ones are counted: held behind another of their subject, or in flight."""
    id, now = subscribe(db).id, value(db, "SELECT now()")
    leased = {"lease_until": now + timedelta(seconds=9), "lease_owner": 1, "attempt": 1}
    deliver(db, id, due_at=now)
    deliver(db, id, due_at=now, **leased)
    deliver(db, id, due_at="infinity", subject="a")

    assert health.report(db, id, since=LONG_AGO).open == health.Open(3, 1, 1, more=False)

    subscriptions.pause(db, id, by=BY)

    assert health.report(db, id, since=LONG_AGO).open.held == 3


def test_only_a_sample(db: Connection) -> None:
    """Of very many the newest are looked at, and those that wait for another attempt."""
    id, now = subscribe(db).id, value(db, "SELECT now()")
    deliver(db, id, failed(7), due_at=now + timedelta(hours=1))
    deliver(db, id, failed(7))
    for _ in range(3):
        deliver(db, id, ok(1))
    found = health.report(db, id, since=LONG_AGO, sample=3)

    assert (found.attempts, found.succeeded, found.sampled) == (4, 3, True)
    assert health.report(db, id, since=now + timedelta(hours=1), sample=3).sampled is False
