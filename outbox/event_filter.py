"""Which events: the value that lists take.

wanted = EventFilter(type="invoice.*", tenant="acme", since=yesterday)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, Text, bindparam, cast, func, literal_column, select, true

from .encoding import check_text
from .errors import InvalidInput
from .event_types import check_pattern
from .moments import check_range, uuid7_floor
from .tables import INFINITY, event, event_queue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, FromClause, Select

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


def _conditions(wanted: EventFilter) -> Iterator[ColumnElement[bool]]:
    """Yield what `outbox.event` has to fulfil; `fan_out` is what its queue tells."""
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


def matching(wanted: EventFilter, *columns: Any, before: UUID | None, limit: int) -> Select[Any]:
    """Return a query for `columns` of the newest events that fit, at most `limit`.

    Those that wait for their fan-out stand in the queue: they are sorted there, and looked
    up until there are enough. A planner that took the queue for empty would do it all the
    other way round.
    """
    few = bindparam("few", limit, Integer, literal_execute=True)  # so that it is planned for
    query = select(*columns).where(*_conditions(wanted))
    if wanted.fan_out is None:
        query = query if before is None else query.where(event.c.id < before)
        return query.order_by(event.c.id.desc()).limit(few)
    queued = _queued(wanted.fan_out, before)
    each = query.where(event.c.id == queued.c.event_id).limit(literal_column("1")).lateral("each")
    found = select(each).select_from(queued.join(each, true()))
    return found.order_by(queued.c.event_id.desc()).limit(few)


def _queued(fan_out: str, before: UUID | None) -> FromClause:
    """The events that are so far, in the order of the list."""
    id, due_at = event_queue.c.event_id, event_queue.c.due_at
    query = select(id).distinct().order_by(id.desc()).offset(literal_column("0"))
    query = query.where(due_at == INFINITY if fan_out == "set aside" else due_at < INFINITY)
    return (query if before is None else query.where(id < before)).subquery("queued")


def is_of_type(pattern: str) -> ColumnElement[bool]:
    """Return whether an event has a type, or one that fits a pattern."""
    if not pattern.endswith("*"):
        return event.c.type == pattern
    return event.c.type.startswith(pattern[:-1], autoescape=True)


def data_holds(text: str) -> ColumnElement[bool]:
    """Return whether an event's data has `text` in it, as it is stored."""
    return func.strpos(cast(event.c.data, Text), cast(text, Text)) > 0
