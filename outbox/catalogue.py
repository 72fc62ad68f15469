"""The catalogue of event types: what may happen, and what its data is like.

It is for people who subscribe, and for hosts that want their data checked. An event of a
type that is not in it is an event all the same.

    catalogue = outbox.Catalogue.load(engine)
    outbox.emit(session, Event(type="invoice.paid", data=data), catalogue=catalogue)

The check needs no database: `emit` stays one INSERT.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from .encoding import check_text, encode
from .errors import InvalidInput, NotFound
from .event_types import check_pattern, check_type, matches
from .json_schemas import MAX_BYTES, Schema, compiled, from_text, parse
from .tables import event_type

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable
    from datetime import datetime

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

MAX_DESCRIPTION = 2_000  # characters


@dataclass(frozen=True, slots=True)
class EventType:
    """A row of `outbox.event_type`. `schema` and `example` are JSON texts."""

    type: str
    description: str | None = None
    schema: str | None = None
    example: str | None = None
    deprecated: bool = False
    created_at: datetime | None = field(default=None, compare=False)
    changed_at: datetime | None = field(default=None, compare=False)


class Catalogue:
    """Event types, each with its schema compiled once: what `emit` checks data against.

    `strict` refuses types that are not among them.

        catalogue = Catalogue([describe("invoice.paid", schema={"required": ["id"]})])
    """

    def __init__(self, types: Iterable[EventType], *, strict: bool = False) -> None:
        self.types = {each.type: each for each in types}
        self.strict = strict
        self._schemas: dict[str, Schema | None] = {}

    @overload
    @classmethod
    def load(cls, source: Engine | Connection | Session, *, strict: bool = ...) -> Catalogue: ...
    @overload
    @classmethod
    def load(
        cls, source: AsyncEngine | AsyncConnection | AsyncSession, *, strict: bool = ...
    ) -> Awaitable[Catalogue]: ...
    @classmethod
    def load(cls, source: Any, *, strict: bool = False) -> Catalogue | Awaitable[Catalogue]:
        """Read the catalogue of a database, from an engine or in a transaction of yours.

        With their async forms the call is awaited. Load it once, when the host starts, and
        again when types have changed.
        """
        if hasattr(source, "run_sync"):
            awaited: Awaitable[Catalogue] = source.run_sync(
                lambda sync: cls.load(sync, strict=strict)
            )
            return awaited
        if hasattr(source, "sync_engine"):
            return cls._load_awaited(source, strict=strict)
        if isinstance(source, Engine):
            with source.connect() as connection:
                return cls.load(connection, strict=strict)
        return cls(list_types(source), strict=strict)

    @classmethod
    async def _load_awaited(cls, engine: AsyncEngine, *, strict: bool) -> Catalogue:
        async with engine.connect() as connection:
            return await cls.load(connection, strict=strict)

    def check(self, type: str, data: str) -> None:
        """Raise InvalidInput unless an event of `type` may have the JSON text `data`.

        Its field is the path to the value at fault, its rule what the schema says.
        """
        if type not in self.types:
            if self.strict:
                raise InvalidInput("type", f"is not in the catalogue: {type}")
            return
        schema = self._schema(self.types[type])
        if schema is not None:
            schema.check(data, "data", type)

    def _schema(self, entry: EventType) -> Schema | None:
        if entry.type not in self._schemas:
            schema = None if entry.schema is None else from_text(entry.schema)
            self._schemas[entry.type] = schema
        return self._schemas[entry.type]


def describe(
    type: str,
    *,
    description: str | None = None,
    schema: object = None,
    example: object = None,
    deprecated: bool = False,
) -> EventType:
    """Return an entry of the catalogue, checked.

    `schema` is a JSON Schema 2020-12 of the data, `example` data that it allows, both as
    values; what is None is left out. Raises InvalidInput.
    """
    check_type(type)
    if description is not None:
        check_text("description", description, MAX_DESCRIPTION)
    text = None if example is None else encode(example, field="example", max_bytes=MAX_BYTES)
    judge = None if schema is None else compiled(schema)
    if judge is not None and text is not None:
        judge.check(text, "example", type)
    return EventType(type, description, judge.text if judge else None, text, deprecated)


def list_types(connection: Connection | Session, *, pattern: str = "*") -> list[EventType]:
    """Return the event types that a pattern such as `invoice.*` means, by name."""
    check_pattern(pattern)
    rows = connection.execute(select(*event_type.c).order_by(event_type.c.type.collate("C")))
    return [EventType(*row) for row in rows if matches(pattern, row.type)]


def show(connection: Connection, type: str) -> EventType:
    """Return the event type `type`. Raises NotFound."""
    found = _find(connection, type)
    if found is None:
        raise NotFound("event type", type)
    return found


def _find(connection: Connection, type: str) -> EventType | None:
    row = connection.execute(select(*event_type.c).where(event_type.c.type == type)).first()
    return EventType(*row) if row else None


def add(
    connection: Connection,
    type: str,
    *,
    description: str | None = None,
    schema: object = None,
    example: object = None,
    deprecated: bool | None = None,
) -> EventType:
    """Add an event type, or change what is given of one that is there; return it.

    As `describe`, but what is None stays as it was. Raises InvalidInput.

        catalogue.add(connection, "invoice.paid", schema={"required": ["id"]}, example={"id": 1})
    """
    old = _find(connection, check_type(type)) or EventType(type)
    entry = describe(
        type,
        description=description if description is not None else old.description,
        schema=_value(old.schema) if schema is None else schema,
        example=_value(old.example) if example is None else example,
        deprecated=old.deprecated if deprecated is None else deprecated,
    )
    put_all(connection, [entry])
    return show(connection, type)


def _value(text: str | None) -> object:
    return None if text is None else parse(text)


class Changes(NamedTuple):
    """How many entries were new, different, and the same."""

    added: int
    changed: int
    unchanged: int


def put_all(connection: Connection, entries: Iterable[EventType]) -> Changes:
    """Store entries, each as it is in place of one that is there; others stay.

    catalogue.put_all(connection, catalogue_files.ready("logto"))
    """
    old = {each.type: each for each in list_types(connection)}
    new = {each.type: each for each in entries}
    differing = [each for each in new.values() if each != old.get(each.type)]
    if differing:
        made = insert(event_type)
        updates = {name: made.excluded[name] for name in _WRITTEN[1:]} | {"changed_at": func.now()}
        stored = made.on_conflict_do_update(index_elements=[event_type.c.type], set_=updates)
        rows = [{name: getattr(each, name) for name in _WRITTEN} for each in differing]
        connection.execute(stored, rows)
    added = sum(type not in old for type in new)
    return Changes(added, len(differing) - added, len(new) - len(differing))


def remove(connection: Connection, type: str) -> EventType:
    """Take a type out of the catalogue and return what it was; its events stay."""
    found = show(connection, type)
    connection.execute(delete(event_type).where(event_type.c.type == type))
    return found


_WRITTEN = ("type", "description", "schema", "example", "deprecated")
