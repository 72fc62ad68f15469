"""What the stores return, as rows to print: the names and values of the database."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from outbox.headers import HIDDEN, shown_value, sounds_secret

from .documents import Json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from outbox import Answer, EventType
    from outbox.captures import Capture
    from outbox.deliveries import Attempt, Delivery
    from outbox.events import StoredEvent
    from outbox.health import Failing, Report
    from outbox.replays import Replay
    from outbox.request import Outgoing
    from outbox.sent import Sent
    from outbox.subscription_settings import Difference
    from outbox.subscriptions import Change, Subscription

    Row = dict[str, Any]

_PHASES = ("dns", "connect", "tls", "first_byte", "body")
_DELIVERY = {"attempts": "attempt"}  # in the words of delivery_queue


def subscription_row(found: Subscription) -> Row:
    """A subscription; the values of headers that look like credentials are hidden."""
    headers = {name: shown_value(name, value) for name, value in found.headers.items()}
    return row(found) | {"headers": headers}


def health_row(found: Report) -> Row:
    """How a subscription fared of late."""
    recent = [row(each) for each in found.recent]
    rate = None if found.success_rate is None else round(found.success_rate, 4)
    return row(found) | {"success_rate": rate, "open": row(found.open), "recent": recent}


def differences_row(found: Iterable[Difference]) -> Row:
    """What differs, by name: what it was before and after."""
    return {each.name: {"before": each.before, "after": each.after} for each in found}


def change_row(found: Change) -> Row:
    """A change to a subscription, with what differs by name."""
    return row(found) | {"differs": differences_row(found.differs)}


def failing_row(found: Failing | None) -> Row:
    """Since when a subscription has nothing but failures, and how many; None if it has not."""
    return {"failing": None if found is None else row(found)}


def request_row(made: Outgoing, own: Iterable[str]) -> Row:
    """A request; the values of the subscription's `own` headers that look secret are hidden."""
    hidden = hidden_headers(own)
    named = [(name.decode(), value.decode()) for name, value in made.headers]
    headers = {name: HIDDEN if name in hidden else value for name, value in named}
    return {
        "method": made.method, "url": made.url, "headers": headers, "body": made.body.decode(),
    }  # fmt: skip


def hidden_headers(own: Iterable[str]) -> set[str]:
    """Of the headers that a subscription has of its `own`, those whose values are not shown."""
    return {name.lower() for name in own if sounds_secret(name)}


def sent_row(found: Sent) -> Row:
    """The request of an attempt, and in what it may not be exact."""
    about = {"attempt": found.attempt, "revision": found.revision, "notes": list(found.notes)}
    return about | request_row(found.outgoing, found.own)


def event_row(found: StoredEvent) -> Row:
    """An event, with its data and context as the JSON they are."""
    context = None if found.context is None else Json(found.context)
    return row(found) | {"data": Json(found.data), "context": context}


def delivery_row(found: Delivery | Answer) -> Row:
    """A delivery; `attempt` is the number of the last one."""
    return {_DELIVERY.get(name, name): value for name, value in row(found).items()}


def replay_row(found: Replay) -> Row:
    """A replay, with what it was asked for beside how far it is."""
    values = row(found)
    return {"id": values.pop("id")} | row(values.pop("selection")) | values


def attempt_row(found: Attempt, workers: Mapping[int, str]) -> Row:
    """An attempt, with what was kept of the response; `workers` are the names of workers."""
    body, headers = found.response_body, found.response_headers
    return row(found) | {
        "worker": None if found.worker_id is None else workers.get(found.worker_id),
        "response_headers": None if headers is None else Json(headers),
        "response_body": None if body is None else body.decode(errors="replace"),
    }


def capture_row(found: Capture) -> Row:
    """A capture; what there is nothing to say about is None, so that tables leave it out."""
    shown = row(found)
    return shown | {name: shown[name] or None for name in ("missing", "unknown", "unseen")}


def answer_row(found: Answer) -> Row:
    """An answer, in the words of its delivery, with what was kept of the body as text."""
    body = None if found.body is None else found.body.decode(errors="replace")
    return delivery_row(found) | {"body": body}


def type_row(found: EventType) -> Row:
    """An event type, with its schema and its example as the JSON they are."""
    stored = {"schema": found.schema, "example": found.example}
    return row(found) | {name: text and Json(text) for name, text in stored.items()}


def phases(attempt: Row) -> str | None:
    """Return the milliseconds of each phase that an attempt went through, in a line."""
    times = ((name.replace("_", " "), attempt[f"{name}_ms"]) for name in _PHASES)
    return ", ".join(f"{name} {ms}" for name, ms in times if ms is not None) or None


def row(found: Any) -> Row:
    """Return the fields of a dataclass and their values."""
    return {column.name: getattr(found, column.name) for column in fields(found)}
