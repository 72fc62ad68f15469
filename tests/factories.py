"""Builders with defaults: a test states only what it is about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from outbox import Event, subscriptions
from outbox.addresses import parse_allow
from outbox.subscriptions import Author

from .logs import CANARY

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def rows(connection: Connection, query: str, **values: Any) -> list[tuple[Any, ...]]:
    """What a query in plain SQL finds."""
    return [tuple(row) for row in connection.execute(text(query), values)]


def value(connection: Connection, query: str, **values: Any) -> Any:
    """The only value that a query in plain SQL finds."""
    return connection.execute(text(query), values).scalar_one()
