"""What the subscriptions answered to events, as it stands now.

Asked for many events at once, and again and again while somebody waits. So it is one
statement of index probes: its cost grows with the events that are asked for, not with
what is stored, and not with what waits in the queues.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    Integer,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    not_,
    or_,
    select,
    union_all,
)

from .deliveries import BLOCKED, HELD, QUEUED
from .delivery_filter import ENDS
from .encoding import encode
from .tables import (
    JsonText,
    Moment,
    attempt,
    delivery,
    event,
    event_queue,
    subscription,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, FromClause, Select


@dataclass(frozen=True, slots=True)
class Answer:
    """What one subscription answered so far.

    `state`, `attempts`, `held` and `due_at`, when the next attempt may start, are those of
    its delivery. `status`, `body` (its first 8 KiB) and `error` are of the last attempt.
    """

    delivery_id: UUID
    subscription_id: UUID
    url: str
    state: str
    attempts: int
    status: int | None
    body: bytes | None
    error: str | None
    due_at: datetime | None
    held: str | None


@dataclass(frozen=True, slots=True)
class Waited:
    """How far an event is: an answer for each of its deliveries, oldest first.

    `ended` says that nothing more will come: it is fanned out, and all its deliveries have
    ended. An event that no subscription wants has ended without answers.
    """

    event_id: UUID
    ended: bool
    fanned_out: bool
    answers: tuple[Answer, ...]

    @property
    def delivered(self) -> bool:
        """Whether every subscription that wants the event has it."""
        return self.ended and all(answer.state == "delivered" for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found: how far the event is, None if there is none with that id.

    `answered` says that of each delivery a first result is known, or is not to be expected
    because it is held. `queued_at` is its place in the queue of the fan-out, if it is there.
    """

    waited: Waited | None
    answered: bool = False
    queued_at: datetime | None = None


def look(connection: Connection, asked: Sequence[tuple[UUID, Seen | None]]) -> list[Seen]:
    """Return what is known of each event; with each goes what was found the last time.

    seen = answers.look(connection, [(event_id, None)])
    """
    if not asked:
        return []
    rows = connection.execute(_LOOK, _values(asked, time.time())).all()
    return [_seen(asked[n][0], list(found)) for n, found in groupby(rows, lambda row: row.n)]


# An event's place in the queue begins with the time at which it was put there, which no
# index leads to. But it is soon after the time that the id holds: a short piece of the index.
# If it is not there, it is looked for from the end on, since whoever waits asks soon. Then
# the place is known.
#
# The bounds of the ids leave a day or two of the partitions to plan for.

_CLOCKS = timedelta(hours=1)  # by which clocks may differ, should a host make its own ids
_AGES = timedelta(days=1)  # likewise; a wide bound costs no more than a partition


def _values(asked: Sequence[tuple[UUID, Seen | None]], now: float) -> dict[str, Any]:
    ids = [id for id, _ in asked]
    times = [_made_at(id, now) for id in ids]
    known = [moment for moment in times if moment is not None]
    since = [moment and moment - _CLOCKS for moment in times]
    questions = [
        {"n": n, "id": id, "since": since[n], "queued_at": seen.queued_at if seen else None}
        for n, (id, seen) in enumerate(asked)
    ]
    return {
        "asked": encode(questions, max_bytes=2**30),
        "low": min(ids),
        "high": max(ids),
        "first": _floor(min(known) - _AGES) if len(known) == len(ids) else UUID(int=0),
    }


def _made_at(id: UUID, now: float) -> datetime | None:
    """Return the time in a UUIDv7; None if there is none in `id`, or one that is yet to come."""
    seconds = (id.int >> 80) / 1000
    if id.version != 7 or seconds > now + _CLOCKS.total_seconds():
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _floor(moment: datetime) -> UUID:
    """Return the smallest UUIDv7 of `moment`: a delivery is made after its event."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


def _seen(id: UUID, rows: list[Any]) -> Seen:
    first = rows[0]
    if not first.known:
        return Seen(None)
    found = [row for row in rows if row.delivery_id is not None]
    waiting = first.queued_at is not None or first.set_aside
    fanned_out = any(row.replay_id is None for row in found) or not waiting
    answers = tuple(Answer(*row[-_WIDTH:]) for row in found)
    ended = fanned_out and all(answer.state != "pending" for answer in answers)
    answered = fanned_out and all(row.answered for row in found)
    return Seen(Waited(id, ended, fanned_out, answers), answered, first.queued_at)


_WIDTH = len(fields(Answer))


def _statement() -> Select[Any]:
    """Each LATERAL has a LIMIT or OFFSET, which leaves the planner no way but the indexes."""
    asked = _asked()
    known = _first(
        select(event.c.id, event.c.due_at),
        event.c.id == asked.c.id,
        event.c.id.between(_LOW, _HIGH),
    ).lateral("known")
    made = _deliveries(asked.c.id)
    queued = _place(asked, known, made)
    aside = _first(
        select(event_queue.c.event_id),
        event_queue.c.due_at == _INFINITY,
        event_queue.c.event_id == known.c.id,
    ).lateral("aside")
    tables = asked
    for each in (known, made, queued, aside):
        tables = tables.outerjoin(each, literal_column("true"))
    columns = (
        asked.c.n,
        known.c.id.is_not(None).label("known"),
        queued.c.due_at.label("queued_at"),
        aside.c.event_id.is_not(None).label("set_aside"),
        *made.c,
    )
    return select(*columns).select_from(tables).order_by(asked.c.n, made.c.delivery_id)


def _first(query: Select[Any], *where: ColumnElement[bool]) -> Select[Any]:
    return query.where(*where).limit(literal_column("1"))


def _asked() -> Any:
    """One parameter, the same on every driver, as the table of what is asked."""
    columns = (
        column("n", Integer),
        column("id", Uuid),
        column("since", Moment),
        column("queued_at", Moment),
    )
    text = cast(cast(bindparam("asked", type_=Text), Text), JsonText)
    table = func.json_to_recordset(text).table_valued(*columns)
    return table.render_derived("asked", with_types=True)


def _deliveries(event_id: ColumnElement[UUID]) -> FromClause:
    queue = QUEUED.c
    last = _last_attempt()
    is_open = queue.delivery_id.is_not(None)
    stopped = or_(subscription.c.state != "active", BLOCKED.c.delivery_id.is_not(None))
    return (
        select(
            delivery.c.replay_id,
            or_(not_(is_open), queue.failures > 0, stopped).label("answered"),
            delivery.c.id.label("delivery_id"),
            delivery.c.subscription_id,
            subscription.c.url,
            case((is_open, "pending"), else_=last.c.outcome).label("state"),
            func.greatest(queue.attempt, func.coalesce(last.c.attempt, 0)).label("attempts"),
            last.c.status,
            last.c.response_body,
            last.c.error,
            case((queue.due_at < _INFINITY, queue.due_at)).label("due_at"),
            HELD.label("held"),
        )
        .select_from(delivery)
        .outerjoin(subscription, subscription.c.id == delivery.c.subscription_id)
        .outerjoin(QUEUED, literal_column("true"))
        .outerjoin(BLOCKED, literal_column("true"))
        .outerjoin(last, literal_column("true"))
        .where(delivery.c.event_id == event_id, delivery.c.id >= _FIRST)
        .offset(literal_column("0"))
        .lateral("made")
    )


def _last_attempt() -> FromClause:
    """The attempt that ended the delivery, else the last that was recorded."""
    columns = attempt.c
    query = select(
        columns.outcome, columns.attempt, columns.status, columns.error, columns.response_body
    ).order_by(columns.outcome.in_(ENDS).desc(), columns.attempt.desc(), columns.recorded_at.desc())
    return _first(
        query,
        columns.delivery_id == delivery.c.id,
        columns.delivery_id >= _FIRST,
        columns.outcome != "late",
    ).lateral("last")


def _place(asked: Any, known: FromClause, made: FromClause) -> FromClause:
    """The place in the queue, of those that have no delivery by their fan-out yet.

    Where it was the last time; else where it is likely to be; else wherever it can be.
    """
    at = asked.c.queued_at
    likely = func.coalesce(at, known.c.due_at, asked.c.since + _HOUR)
    soonest = func.least(known.c.due_at, func.coalesce(asked.c.since, _MINUS_INFINITY))
    latest = func.greatest(known.c.due_at, func.now() + literal_column("interval '1 min'"))
    waits = or_(made.c.delivery_id.is_(None), made.c.replay_id.is_not(None))

    def between(first: Any, last: Any, order: Any) -> Any:
        place = event_queue.c.due_at.between(first, last)
        query = select(event_queue.c.due_at).order_by(order).correlate(asked, known, made)
        return _first(query, waits, place, event_queue.c.event_id == known.c.id)

    due_at = event_queue.c.due_at
    near = between(likely, func.coalesce(at, known.c.due_at, likely + _SOON), due_at)
    far = between(soonest, latest, due_at.desc()).where(at.is_(None))
    either = union_all(near, far).subquery("either")
    return _first(select(either.c.due_at)).lateral("queued")


_LOW, _HIGH, _FIRST = (bindparam(name, type_=Uuid) for name in ("low", "high", "first"))
_SOON: ColumnElement[Any] = literal_column("interval '5 s'")  # from an id to its place, mostly
_HOUR: ColumnElement[Any] = literal_column("interval '1 h'")  # as _CLOCKS
_INFINITY: ColumnElement[Any] = literal_column("'infinity'::timestamptz")
_MINUS_INFINITY: ColumnElement[Any] = literal_column("'-infinity'::timestamptz")
_LOOK = _statement()
