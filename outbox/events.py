"""What happened: `emit` writes it in the host's transaction, the rest reads it.

An event exists if and only if the transaction that emitted it commits. The host pays
one INSERT: nothing here waits for a worker, takes a lock of ours or rings a bell.

    with Session(engine) as session, session.begin():
        session.add(invoice)
        outbox.emit(session, Event(type="invoice.paid", data={"id": 1}))

Everything is checked before any SQL runs, so a mistake never aborts the transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Boolean, Text, Uuid, bindparam, cast, column, func, insert, select, update

from .encoding import check_text, encode
from .errors import InvalidInput, KeyConflict, NotFound
from .event_filter import EVERYTHING, EventFilter, matching
from .event_types import check_type
from .tables import INFINITY, JsonText, event, event_queue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, Select
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session
    from typing_extensions import TypeIs

    from .catalogue import Catalogue

MAX_BYTES = 262_144
MAX_CONTEXT_BYTES = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, to be told to every subscription that matches.

    `type` is what happened (`invoice.paid`); `data` is any JSON value, in which datetime
    (aware), date, Decimal, UUID and Enum are encoded as `outbox.encoding` says. `tenant`
    is whose event it is, `subject` the thing it is about, `source` where it comes from.
    `key` makes the emit idempotent within its tenant. `context` goes with the event:
    `traceparent` is sent on. `due_at` delays the delivery.
    """

    type: str
    data: Any = field(default_factory=dict)
    tenant: str | None = None
    subject: str | None = None
    source: str | None = None
    key: str | None = None
    context: Mapping[str, Any] | None = None
    occurred_at: datetime | None = None
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of `outbox.event`. `data` and `context` are the JSON texts as they are stored."""

    id: UUID
    type: str
    tenant: str | None
    subject: str | None
    source: str | None
    data: str
    context: str | None
    occurred_at: datetime
    due_at: datetime | None


@overload
def emit(
    target: Session | Connection,
    event: Event,
    *,
    max_bytes: int = ...,
    catalogue: Catalogue | None = ...,
) -> UUID: ...
@overload
def emit(
    target: AsyncSession | AsyncConnection,
    event: Event,
    *,
    max_bytes: int = ...,
    catalogue: Catalogue | None = ...,
) -> Awaitable[UUID]: ...
def emit(
    target: Session | Connection | AsyncSession | AsyncConnection,
    event: Event,
    *,
    max_bytes: int = MAX_BYTES,
    catalogue: Catalogue | None = None,
) -> UUID | Awaitable[UUID]:
    """Write `event` in the transaction of `target` and return its id.

    `target` is a SQLAlchemy Session or Connection; with their async forms the call is
    awaited. `max_bytes` bounds the encoded data. With a `catalogue` the data must satisfy
    the schema of its type. A `key` that was used before gives back the id of the first event.

    Raises InvalidInput before any SQL runs, and KeyConflict when the key stands for
    another content; neither harms the transaction.

        id = outbox.emit(session, Event(type="user.created", data={"id": 7}, key="user-7"))
    """
    members = _checked(event, max_bytes, catalogue)
    if _is_async(target):
        return target.run_sync(lambda sync: _write_one(sync, event, members))
    return _write_one(target, event, members)


@overload
def emit_many(
    target: Session | Connection,
    events: Sequence[Event],
    *,
    max_bytes: int = ...,
    catalogue: Catalogue | None = ...,
) -> list[UUID]: ...
@overload
def emit_many(
    target: AsyncSession | AsyncConnection,
    events: Sequence[Event],
    *,
    max_bytes: int = ...,
    catalogue: Catalogue | None = ...,
) -> Awaitable[list[UUID]]: ...
def emit_many(
    target: Session | Connection | AsyncSession | AsyncConnection,
    events: Sequence[Event],
    *,
    max_bytes: int = MAX_BYTES,
    catalogue: Catalogue | None = None,
) -> list[UUID] | Awaitable[list[UUID]]:
    """Write all `events` with one statement and return their ids in the same order.

    As `emit`, for a batch: `max_bytes` and `catalogue` are for the data of each. All or none
    are written.

        ids = outbox.emit_many(session, [Event(type="user.created", data=u) for u in users])
    """
    events = list(events)
    text = _encode_batch(events, max_bytes, catalogue)
    if _is_async(target):
        return target.run_sync(lambda sync: _write(sync, events, text))
    return _write(target, events, text)


def _is_async(target: object) -> TypeIs[AsyncSession | AsyncConnection]:
    """Return whether it is one of the async forms, without importing them and the ORM."""
    return hasattr(target, "run_sync")


def _checked(event: Event, max_bytes: int, catalogue: Catalogue | None) -> dict[str, Any]:
    """Return what is set of `event`, with data and context as JSON texts."""
    data = encode(event.data, max_bytes=max_bytes)
    members: dict[str, Any] = {"type": check_type(event.type), "data": data}
    if catalogue is not None:
        catalogue.check(event.type, data)
    if event.source == "outbox":
        raise InvalidInput("source", "outbox is for events of the outbox itself")
    for name, limit in (("tenant", 255), ("subject", 1024), ("source", 1024), ("key", 255)):
        value = getattr(event, name)
        if value is not None:
            members[name] = check_text(name, value, limit)
    for name in ("occurred_at", "due_at"):
        value = getattr(event, name)
        if value is not None:
            members[name] = _check_moment(name, value)
    if event.context is not None:
        members["context"] = _encode_context(event.context)
    return members


def _encode_context(context: object) -> str:
    if not isinstance(context, Mapping):
        raise InvalidInput("context", "must be a mapping")
    return encode(context, field="context", max_bytes=MAX_CONTEXT_BYTES)


def _check_moment(name: str, value: datetime) -> datetime:
    if getattr(value, "utcoffset", lambda: None)() is None:
        raise InvalidInput(name, "must be a datetime with a time zone")
    return value


# A batch, or an event with a key: it travels as one parameter, the same on every driver. The
# server cuts `data` out of it as the exact text that was put in.


def _encode_batch(events: Sequence[Event], max_bytes: int, catalogue: Catalogue | None) -> str:
    return f"[{','.join(_encoded(_checked(e, max_bytes, catalogue)) for e in events)}]"


def _encoded(members: Mapping[str, Any]) -> str:
    texts = {name: members[name] for name in ("data", "context") if name in members}
    others = {name: value for name, value in members.items() if name not in texts}
    spliced = "".join(f',"{name}":{text}' for name, text in texts.items())
    return f"{encode(others, field='event')[:-1]}{spliced}}}"


def _write(target: Session | Connection, events: Sequence[Event], text: str) -> list[UUID]:
    written = target.execute(_EMIT, {"events": text}).all() if events else []
    for event_, row in zip(events, written, strict=True):
        if row.differs:
            raise KeyConflict(str(event_.key), event_.tenant, str(row.id))
    return [row.id for row in written]


_EMIT = select(
    func.outbox.emit(cast(cast(bindparam("events", type_=Text), Text), JsonText)).table_valued(
        column("id", Uuid), column("differs", Boolean)
    )
)


# An event alone, without a key: a plain INSERT, which costs the server two thirds of that.
# Its id is made beside it, because RETURNING would ask a host for the right to read events.


def _write_one(target: Session | Connection, event: Event, members: dict[str, Any]) -> UUID:
    if event.key is not None:
        return _write(target, [event], f"[{_encoded(members)}]")[0]
    id: UUID = target.execute(_INSERT, {**_NOTHING, **members}).scalar_one()
    return id


def _insert() -> Select[Any]:
    made = select(func.outbox.uuid7(type_=Uuid).label("id")).cte("made")
    given: dict[str, ColumnElement[Any]] = {
        each.name: cast(bindparam(each.name, type_=each.type), each.type) for each in _GIVEN
    }
    given["occurred_at"] = func.coalesce(given["occurred_at"], func.clock_timestamp())
    row = select(made.c.id, *given.values())
    written = insert(event).from_select(["id", *given], row).cte("written")
    return select(made.c.id).add_cte(written)


_GIVEN = [each for each in event.columns if each.name != "id"]
_NOTHING = dict.fromkeys(each.name for each in _GIVEN)
_INSERT = _insert()


# Reading. Newest first, by pages: `before` is the last id of the page before.


def list_events(
    connection: Connection,
    wanted: EventFilter = EVERYTHING,
    *,
    before: UUID | None = None,
    limit: int = 50,
    **narrowed: Any,
) -> list[StoredEvent]:
    """Return the newest events that are `wanted`, at most `limit`.

    `narrowed` are members of the filter, for short: `list_events(connection, type="invoice.*")`.
    """
    wanted = replace(wanted, **narrowed)
    query = matching(wanted, *_COLUMNS, before=before, limit=limit)
    return [StoredEvent(*row) for row in connection.execute(query)]


def show_event(connection: Connection, id: UUID) -> StoredEvent:
    """Return the event `id`. Raises NotFound."""
    row = connection.execute(select(*_COLUMNS).where(event.c.id == id)).first()
    if row is None:
        raise NotFound("event", str(id))
    return StoredEvent(*row)


def fan_out_error(connection: Connection, id: UUID) -> str | None:
    """Return why the fan-out of event `id` failed and was set aside, or None."""
    query = select(event_queue.c.error).where(
        event_queue.c.due_at == INFINITY, event_queue.c.event_id == id
    )
    return connection.execute(query).scalar()


def fan_out_state(connection: Connection, id: UUID) -> str:
    """Return how far the fan-out of event `id` is: `waiting`, `set aside` or `done`."""
    set_aside = event_queue.c.error.is_not(None)
    query = select(set_aside).where(event_queue.c.event_id == id)
    return {None: "done", False: "waiting", True: "set aside"}[connection.execute(query).scalar()]


def fan_out_again(
    connection: Connection,
    ids: Sequence[UUID] | None = None,
    *,
    after: UUID | None = None,
    limit: int = 500,
) -> list[UUID]:
    """Let events go on that were set aside because their fan-out failed; return their ids.

    The next `limit` of them behind the id `after`, oldest first, or those of `ids`; whatever of
    these is not set aside is left out. The workers fan them out at once.
    """
    aside = select(event_queue.c.event_id).where(event_queue.c.due_at == INFINITY)
    if ids is not None:
        aside = aside.where(event_queue.c.event_id.in_(ids))
    if after is not None:
        aside = aside.where(event_queue.c.event_id > after)
    taken = aside.order_by(event_queue.c.event_id).limit(limit).with_for_update()
    query = (
        update(event_queue)
        .where(event_queue.c.due_at == INFINITY, event_queue.c.event_id.in_(taken))
        .values(due_at=func.now(), error=None)
        .returning(event_queue.c.event_id)
    )
    return sorted(connection.execute(query).scalars())


def count_set_aside(connection: Connection) -> int:
    """Return how many events are set aside because their fan-out failed."""
    query = select(func.count()).where(event_queue.c.due_at == INFINITY)
    return connection.execute(query).scalar_one()


def count_waiting(connection: Connection) -> int:
    """Return how many events wait for their fan-out; those set aside are not among them."""
    query = select(func.count()).where(event_queue.c.error.is_(None))
    return connection.execute(query).scalar_one()


_COLUMNS = [
    event.c.id,
    event.c.type,
    event.c.tenant,
    event.c.subject,
    event.c.source,
    cast(event.c.data, Text),
    cast(event.c.context, Text),
    event.c.occurred_at,
    event.c.due_at,
]
