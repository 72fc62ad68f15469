"""Builders with defaults: a test states only what it is about."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

import outbox
from outbox import Event, subscriptions
from outbox.addresses import parse_allow
from outbox.subscriptions import Author

from .logs import CANARY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Connection

    from outbox.subscriptions import Subscription

BY = Author("ada", "a test")
LOOPBACK = parse_allow("127.0.0.0/8")  # what tests may call
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def event(type: str = "invoice.paid", **fields: Any) -> Event:
    """An event that is due already, also within the transaction that emits it."""
    return Event(type=type, **{"due_at": LONG_AGO, "data": {"text": CANARY}, **fields})


def subscribe(
    connection: Connection,
    url: str = f"http://127.0.0.1:9/?token={CANARY}",
    types: Sequence[str] = ("*",),
    **options: Any,
) -> Subscription:
    return subscriptions.add(connection, url, types, by=BY, **{"allow": LOOPBACK, **options})[0]


def emit_many(connection: Connection, events: Sequence[Event]) -> list[UUID]:
    """Emit, also as the outbox itself does, whose source no host may use."""
    if any(each.source == "outbox" for each in events):
        return [value(connection, _OURS, **_columns(each)) for each in events]
    return outbox.emit_many(connection, events)


def _columns(event: Event) -> dict[str, Any]:
    names = ("type", "tenant", "subject", "source", "due_at")
    return {name: getattr(event, name) for name in names} | {"data": json.dumps(event.data)}


_OURS = """
INSERT INTO outbox.event (type, tenant, subject, source, due_at, data)
VALUES (:type, :tenant, :subject, :source, :due_at, :data) RETURNING id
"""


def rows(connection: Connection, query: str, **values: Any) -> list[tuple[Any, ...]]:
    """What a query in plain SQL finds."""
    return [tuple(row) for row in connection.execute(text(query), values)]


def value(connection: Connection, query: str, **values: Any) -> Any:
    """The only value that a query in plain SQL finds."""
    return connection.execute(text(query), values).scalar_one()
