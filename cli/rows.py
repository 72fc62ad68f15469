"""What the stores return, as rows to print: the names and values of the database."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from .documents import Json

if TYPE_CHECKING:
    from outbox.deliveries import Attempt, Delivery
    from outbox.events import StoredEvent
    from outbox.health import Failing
    from outbox.replays import Replay
    from outbox.request import Outgoing
    from outbox.subscriptions import Subscription

    Row = dict[str, Any]

_CREDENTIAL = re.compile(
    "auth|cookie|credential|key|password|secret|signature|token", re.IGNORECASE
)
_PHASES = ("dns", "connect", "tls", "first_byte", "body")
_HIDDEN = "[secure]"
_DELIVERY = {"attempts": "attempt"}  # in the words of delivery_queue


def subscription_row(found: Subscription) -> Row:
    """A subscription; the values of headers that look like credentials are hidden."""
    headers = {
        name: _HIDDEN if _CREDENTIAL.search(name) else value
        for name, value in found.headers.items()
    }
    return row(found) | {"headers": headers}


def failing_row(found: Failing | None) -> Row:
    """Since when a subscription has nothing but failures, and how many; None if it has not."""
    return {"failing": None if found is None else row(found)}


def request_row(made: Outgoing, found: Subscription) -> Row:
    """A request; what the subscription itself put into it is hidden as in `subscription_row`."""
    hidden = {name.lower() for name in found.headers if _CREDENTIAL.search(name)}
    named = [(name.decode(), value.decode()) for name, value in made.headers]
    headers = {name: _HIDDEN if name in hidden else value for name, value in named}
    return {
        "method": made.method, "url": made.url, "headers": headers, "body": made.body.decode(),
    }  # fmt: skip


def event_row(found: StoredEvent) -> Row:
    """An event, with its data and context as the JSON they are."""
    context = None if found.context is None else Json(found.context)
    return row(found) | {"data": Json(found.data), "context": context}


def delivery_row(found: Delivery) -> Row:
    """A delivery; `attempt` is the number of the last one."""
    return {_DELIVERY.get(name, name): value for name, value in row(found).items()}


def replay_row(found: Replay) -> Row:
    """A replay, with what it was asked for beside how far it is."""
    values = row(found)
    return {"id": values.pop("id")} | row(values.pop("selection")) | values


def attempt_row(found: Attempt) -> Row:
    """An attempt, with what was kept of the response's body as text."""
    body = None if found.response_body is None else found.response_body.decode(errors="replace")
    return row(found) | {"response_body": body}


def phases(attempt: Row) -> str | None:
    """Return the milliseconds of each phase that an attempt went through, in a line."""
    times = ((name.replace("_", " "), attempt[f"{name}_ms"]) for name in _PHASES)
    return ", ".join(f"{name} {ms}" for name, ms in times if ms is not None) or None


def row(found: Any) -> Row:
    """Return the fields of a dataclass and their values."""
    return {column.name: getattr(found, column.name) for column in fields(found)}
