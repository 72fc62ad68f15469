"""Rows as they stand while workers are at it: queued, claimed, tried so many seconds ago."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import text

from tests.factories import value

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

EVENT = """
INSERT INTO outbox.event (id, type, data, due_at)
VALUES (overlay(outbox.uuid7_floor(now() - make_interval(secs => :age))::text
    PLACING substring(gen_random_uuid()::text FROM 20) FROM 20)::uuid,
    'a.b', '{}', now() - make_interval(secs => :due))
RETURNING id
"""
DELIVERY = """
INSERT INTO outbox.delivery (event_id, subscription_id, replay_id)
VALUES (:event, :subscription, :replay) RETURNING id
"""
ATTEMPT = """
INSERT INTO outbox.attempt (
    delivery_id, attempt, outcome, status, error_class, duration_ms, recorded_at)
VALUES (:delivery, 1, :outcome, :status, :error_class, :ms, now() - make_interval(secs => :age))
"""


QUEUED = """
INSERT INTO outbox.delivery_queue (
    delivery_id, subscription_id, event_id, subject, due_at, lease_until, lease_owner, attempt)
SELECT gen_random_uuid(), :subscription, gen_random_uuid(), :subject,
    CASE WHEN :due = 'infinity' THEN 'infinity' ELSE now() + CAST(:due AS interval) END,
    now() + CAST(:lease AS interval), CASE WHEN :lease IS NOT NULL THEN 1 END, 1
FROM generate_series(1, :n)
"""


def event(db: Connection, age: float, due: float | None = None) -> UUID:
    """An event stored `age` seconds ago, and due since `due` seconds."""
    id: UUID = value(db, EVENT, age=age, due=due)
    return id


def attempt(
    db: Connection,
    subscription: UUID,
    age: float,
    outcome: str = "delivered",
    *,
    of: UUID | None = None,
    status: int | None = 200,
    error_class: str | None = None,
    ms: int = 40,
    replay: UUID | None = None,
) -> None:
    """An attempt recorded `age` seconds ago, by default of an event that came a second before."""
    delivery = {"event": of or event(db, age + 1), "subscription": subscription, "replay": replay}
    row: dict[str, Any] = {"delivery": value(db, DELIVERY, **delivery), "outcome": outcome}
    row |= {"status": status, "error_class": error_class, "ms": ms, "age": age}
    db.execute(text(ATTEMPT), row)


def queue(db: Connection, subscription: UUID, due: str = "-1 s", n: int = 1, **row: Any) -> None:
    """Open deliveries of a subscription, due after the interval `due`."""
    row = {"subscription": subscription, "due": due, "n": n, "subject": None, "lease": None, **row}
    db.execute(text(QUEUED), row)


def block(db: Connection, subscription: UUID, subject: str) -> None:
    """A delivery of the subject is dead."""
    query = "INSERT INTO outbox.blocked_subject VALUES (:subscription, :subject, :delivery)"
    row = {"subscription": subscription, "subject": subject, "delivery": uuid4()}
    db.execute(text(query), row)


def disable(db: Connection, subscription: UUID, reason: str = "gone") -> None:
    """Stop it as the worker does."""
    query = (
        "UPDATE outbox.subscription SET state = 'disabled', state_reason = :reason WHERE id = :id"
    )
    db.execute(text(query), {"id": subscription, "reason": reason})
