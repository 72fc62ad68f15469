"""What a subscription would be sent now: the very request, made as a worker makes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import secrets, subscriptions
from .errors import WrongState
from .events import show_event
from .keyring import Keyring
from .request import Outgoing, build, prepare

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Connection

    from .events import StoredEvent
    from .request import Target


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """An event as a worker claims it."""

    event_id: str
    type: str
    tenant: str | None
    subject: str | None
    source: str | None
    data: str
    occurred_at: datetime
    traceparent: str | None


def preview(
    connection: Connection,
    subscription_id: UUID,
    event_id: UUID,
    *,
    now: float,
    keyring: Keyring | None = None,
) -> Outgoing:
    """Return the first attempt to bring an event to a subscription, at `now` (Unix seconds).

    Whether the event matches is not asked. The signatures are real. `keyring` opens the
    secrets, or else that of OUTBOX_SECRET_KEY. Raises NotFound, WrongState for a removed
    subscription, and InvalidInput where a worker would disable it.
    """
    event = as_claimed(show_event(connection, event_id))
    target = _target(connection, subscription_id, keyring or Keyring.read())
    return build(target, event, attempt=1, timestamp=int(now))


def _target(connection: Connection, id: UUID, keyring: Keyring) -> Target:
    found = subscriptions.show(connection, id)
    if found.state == "removed":
        raise WrongState("subscription", str(id), found.state, "previewed")
    live = secrets.live(connection, id)
    return prepare(
        str(id),
        found.url,
        [(keyring.open(each, subscription_id=id), each.expires_at) for each in live],
        headers=found.headers,
        method=found.method,
        format=found.format,
        schemes=found.schemes,
        user_agent=found.user_agent,
    )


def as_claimed(event: StoredEvent) -> ClaimedEvent:
    """Return `event` as a worker has it in hand."""
    context = json.loads(event.context or "{}")
    traceparent = context.get("traceparent") if isinstance(context, dict) else None
    return ClaimedEvent(
        str(event.id),
        event.type,
        event.tenant,
        event.subject,
        event.source,
        event.data,
        event.occurred_at,
        traceparent if isinstance(traceparent, str) else None,
    )
