"""How subscriptions are stopped, let go again and removed.

`outbox.subscriptions` has all of it, beside what else can be done with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Text, Uuid, cast, delete, func, insert, select
from sqlalchemy.dialects.postgresql import ARRAY

from . import health
from .encoding import encode
from .endings import cancelled
from .subscription_changes import lock, record, write
from .tables import (
    blocked_subject,
    delivery_queue,
    event,
    secret,
    subscription_type,
    throttle,
)

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection

    from .subscription_changes import Author, Subscription

STANDING = {"active", "paused", "disabled"}


def pause(
    connection: Connection, id: UUID, *, by: Author, reason: str | None = None
) -> Subscription:
    """Stop sending to it. Its deliveries are held, new ones as well, until `resume`."""
    reason = reason or f"paused by {by.actor}"
    return _change_state(connection, id, "paused", {"active", "paused"}, reason, by)


def disable(connection: Connection, id: UUID, *, by: Author, reason: str) -> Subscription:
    """Stop it as a worker does, and tell the operator, until `resume`.

    Its deliveries are held, new ones as well. One that is disabled already stays as it is.
    """
    before = lock(connection, id, STANDING, "disabled")
    if before.state == "disabled":
        return before
    disabled = _change_state(connection, id, "disabled", STANDING, reason, by)
    data = {"subscription_id": str(id), "tenant": before.tenant, "reason": reason}
    connection.execute(
        insert(event).values(
            type="subscription.disabled",
            subject=f"subscription/{id}",
            source="outbox",
            data=encode(data),
        )
    )
    return disabled


def resume(connection: Connection, id: UUID, *, by: Author) -> Subscription:
    """Send again, whether a person paused it or a worker disabled it.

    Its deliveries come when they were due, its failures are forgotten.
    """
    return _change_state(connection, id, "active", STANDING, None, by)


def remove(connection: Connection, id: UUID, *, by: Author) -> Subscription:
    """End it for good: its open deliveries are cancelled, its secrets are deleted.

    What a worker is just at is not waited for: workers cancel it within a minute, unless its
    result ends it.
    """
    reason = f"removed by {by.actor}"
    removed = _change_state(connection, id, "removed", STANDING, reason, by)
    connection.execute(delete(subscription_type).where(subscription_type.c.subscription_id == id))
    cancel_open(connection, id, reason)
    health.forget(connection, id)
    for table in (secret, throttle, blocked_subject):
        connection.execute(delete(table).where(table.c.subscription_id == id))
    return removed


def unblock(
    connection: Connection, id: UUID, *, by: Author, subject: str | None = None
) -> list[str]:
    """Let subjects that stand still behind a dead delivery go on; return them.

    Without `subject` all of them. Raises NotFound.
    """
    lock(connection, id, STANDING | {"removed"}, "unblocked")
    freed = delete(blocked_subject).where(blocked_subject.c.subscription_id == id)
    if subject is not None:
        freed = freed.where(blocked_subject.c.subject == subject)
    subjects = list(connection.execute(freed.returning(blocked_subject.c.subject)).scalars())
    if subjects:
        connection.execute(select(_promote([id] * len(subjects), subjects)))
        write(connection, id, {})
        record(connection, id, "unblocked", by)
    return sorted(subjects)


def _promote(ids: list[UUID], subjects: list[str]) -> ColumnElement[int]:
    return func.outbox.promote(cast(ids, ARRAY(Uuid)), cast(subjects, ARRAY(Text)))


def cancel_open(connection: Connection, id: UUID, reason: str) -> int:
    """End the open deliveries of subscription `id` as cancelled; return how many.

    Those that a worker is just at are left to it.
    """
    gone = cancelled(delivery_queue.c.subscription_id == id, reason).subquery()
    count: int = connection.execute(select(func.count()).select_from(gone)).scalar_one()
    return count


_VERBS = {"active": "resumed", "paused": "paused", "disabled": "disabled", "removed": "removed"}


def _change_state(
    connection: Connection,
    id: UUID,
    state: str,
    from_states: set[str],
    reason: str | None,
    by: Author,
) -> Subscription:
    before = lock(connection, id, from_states, _VERBS[state])
    if before.state == state:
        return before
    write(connection, id, {"state": state, "state_reason": reason})
    if state == "active":
        health.forget(connection, id)
    return record(connection, id, _VERBS[state], by)
