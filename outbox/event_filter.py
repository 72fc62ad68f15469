"""Which events: the value that lists take.

wanted = EventFilter(type="invoice.*", tenant="acme", since=yesterday)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Text, any_, cast, func, select

from .encoding import check_text
from .errors import InvalidInput
from .event_types import check_pattern
from .moments import check_range, uuid7_floor
from .tables import INFINITY, event, event_queue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import ColumnElement

FAN_OUTS = ("waiting", "set aside")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """What is None does not narrow.

    `type` is an event type or a pattern. `since` and `until` are by when the event was
    written, the latter not included. `text` stands in its data, letter by letter. `fan_out`
    is one of FAN_OUTS: it waits for its fan-out, or that failed and it was set aside.

    Raises InvalidInput.
    """

    type: str | None = None
    tenant: str | None = None
    subject: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    fan_out: str | None = None

    def __post_init__(self) -> None:
        if self.type is not None:
            check_pattern(self.type, "type")
        if self.text is not None:
            check_text("text", self.text, 1_024)
        if self.fan_out is not None and self.fan_out not in FAN_OUTS:
            raise InvalidInput("fan-out", f"must be one of {', '.join(FAN_OUTS)}")
        check_range(self.since, self.until)


EVERYTHING = EventFilter()


def conditions(wanted: EventFilter) -> Iterator[ColumnElement[bool]]:
    """Yield what `outbox.event` has to fulfil."""
    for column in (event.c.tenant, event.c.subject, event.c.source):
        value = getattr(wanted, column.name)
        if value is not None:
            yield column == value
    if wanted.type is not None:
        yield is_of_type(wanted.type)
    if wanted.since is not None:
        yield event.c.id >= uuid7_floor(wanted.since)
    if wanted.until is not None:
        yield event.c.id < uuid7_floor(wanted.until)
    if wanted.text is not None:
        yield data_holds(wanted.text)
    if wanted.fan_out is not None:
        aside = event_queue.c.due_at == INFINITY
        place = aside if wanted.fan_out == "set aside" else event_queue.c.due_at < INFINITY
        queued = select(event_queue.c.event_id).where(place).scalar_subquery()
        yield event.c.id == any_(func.array(queued))  # once, however much the planner expects


def is_of_type(pattern: str) -> ColumnElement[bool]:
    """Return whether an event has a type, or one that fits a pattern."""
    if not pattern.endswith("*"):
        return event.c.type == pattern
    return event.c.type.startswith(pattern[:-1], autoescape=True)


def data_holds(text: str) -> ColumnElement[bool]:
    """Return whether an event's data has `text` in it, as it is stored."""
    return func.strpos(cast(event.c.data, Text), cast(text, Text)) > 0
