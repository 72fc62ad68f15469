"""The catalogue: kept, loaded, and asked by emit before any SQL runs."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import outbox
from outbox import Catalogue, Event, InvalidInput, NotFound, catalogue
from outbox.catalogue import Changes, EventType, describe
from tests.databases import engine_url

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tests.databases import Database

SCHEMA = {"type": "object", "required": ["id"], "properties": {"amount": {"multipleOf": 0.01}}}
PAID = describe("invoice.paid", schema=SCHEMA)


# Kept.


def test_add_and_show(db: Connection) -> None:
    """What is described is there as it was given, down to the digits."""
    example = {"id": 1, "amount": Decimal("19.90")}
    added = catalogue.add(db, "invoice.paid", description="Paid.", schema=SCHEMA, example=example)

    assert added == catalogue.show(db, "invoice.paid")
    assert (added.description, added.deprecated) == ("Paid.", False)
    assert added.example == '{"id":1,"amount":19.90}'
    assert added.schema == (
        '{"type":"object","required":["id"],"properties":{"amount":{"multipleOf":0.01}}}'
    )
    assert added.created_at == added.changed_at is not None


def test_add_again(db: Connection) -> None:
    """What is not given stays as it was."""
    first = catalogue.add(db, "a", description="It.", schema=SCHEMA, example={"id": 1})
    second = catalogue.add(db, "a", deprecated=True)
    third = catalogue.add(db, "a", description="That.")

    assert second == EventType("a", "It.", first.schema, first.example, True)
    assert third == EventType("a", "That.", first.schema, first.example, True)


@pytest.mark.parametrize(
    ("field", "entry"),
    [
        ("type", {"type": "a.*"}),
        ("type", {"type": ""}),
        ("description", {"description": ""}),
        ("description", {"description": "x" * 2_001}),
        ("description", {"description": "a\x1b[2J"}),
        ("schema.type", {"schema": {"type": "strin"}}),
        ("example", {"schema": SCHEMA, "example": {}}),
        ("example.amount", {"schema": SCHEMA, "example": {"id": 1, "amount": Decimal("0.001")}}),
        ("example.x", {"example": {"x": "\0"}}),
    ],
)
def test_wrong_entries(db: Connection, field: str, entry: dict[str, Any]) -> None:
    """What breaks a rule is refused, an example that its own schema refuses as well."""
    with pytest.raises(InvalidInput) as caught:
        catalogue.add(db, **{"type": "a", **entry})

    assert caught.value.field == field


def test_a_schema_that_the_kept_example_breaks(db: Connection) -> None:
    """A new schema has to allow the example that is there."""
    catalogue.add(db, "a", example={"x": 1})
    with pytest.raises(InvalidInput, match="example: lacks the member id"):
        catalogue.add(db, "a", schema=SCHEMA)


def test_list(db: Connection) -> None:
    """Types come by name, those that a pattern means."""
    for type in ("invoice.sent", "a_b", "Invoice.paid", "invoice.paid", "add-user"):
        catalogue.add(db, type)

    def listed(pattern: str) -> list[str]:
        return [each.type for each in catalogue.list_types(db, pattern=pattern)]

    assert listed("*") == ["Invoice.paid", "a_b", "add-user", "invoice.paid", "invoice.sent"]
    assert listed("invoice.*") == ["invoice.paid", "invoice.sent"]
    assert listed("invoice.paid") == ["invoice.paid"]
    with pytest.raises(InvalidInput):
        listed("in*voice")


def test_put_all(db: Connection) -> None:
    """Entries take the place of those that are there; others stay, and so does what is the same."""
    catalogue.add(db, "a", description="Old.", schema=SCHEMA)
    catalogue.add(db, "b", description="Other.")
    new = [describe("a", description="New."), describe("c"), describe("d")]

    assert catalogue.put_all(db, new) == Changes(added=2, changed=1, unchanged=0)
    assert catalogue.put_all(db, new) == Changes(added=0, changed=0, unchanged=3)
    assert catalogue.show(db, "a") == EventType("a", "New.")
    assert catalogue.show(db, "b").description == "Other."
    assert catalogue.put_all(db, []) == Changes(0, 0, 0)


def test_remove(db: Connection) -> None:
    """What is removed is gone, and cannot be removed again."""
    catalogue.add(db, "a")
    catalogue.remove(db, "a")

    for function in (catalogue.remove, catalogue.show):
        with pytest.raises(NotFound, match="event type"):
            function(db, "a")


# Asked.


def test_check() -> None:
    """Data is judged by the schema of its type; a type that has none, or is unknown, passes."""
    known = Catalogue([PAID, describe("user.created")])
    known.check("invoice.paid", '{"id": 1, "amount": 19.90}')
    known.check("user.created", "null")
    known.check("unknown", "null")
    with pytest.raises(InvalidInput) as caught:
        known.check("invoice.paid", '{"id": 1, "amount": 0.001}')

    assert caught.value.field == "data.amount"
    assert caught.value.rule == "must be a multiple of 0.01, by the schema of invoice.paid"


def test_strict() -> None:
    """A strict catalogue refuses types that it does not have."""
    known = Catalogue([describe("a")], strict=True)
    known.check("a", "1")
    with pytest.raises(InvalidInput, match="type: is not in the catalogue: b"):
        known.check("b", "1")


def test_a_broken_row(db: Connection) -> None:
    """A schema that came by other ways and is none is told when its type is emitted."""
    db.exec_driver_sql("INSERT INTO outbox.event_type (type, schema) VALUES ('a', '{\"type\": 1}')")
    known = Catalogue.load(db)
    with pytest.raises(InvalidInput, match=r"schema\.type"):
        outbox.emit(db, Event(type="a"), catalogue=known)


def test_emit(db: Connection) -> None:
    """Emit refuses what breaks a schema; what it writes is as without a catalogue."""
    known = Catalogue([PAID])
    good = outbox.emit(db, Event(type="invoice.paid", data={"id": UUID(int=1)}), catalogue=known)
    ids = outbox.emit_many(db, [Event(type="invoice.paid", data={"id": 1})], catalogue=known)
    with pytest.raises(InvalidInput):
        outbox.emit(db, Event(type="invoice.paid"), catalogue=known)
    with pytest.raises(InvalidInput):
        outbox.emit_many(
            db, [Event(type="a"), Event(type="invoice.paid", data=[])], catalogue=known
        )

    found = db.exec_driver_sql("SELECT id FROM outbox.event ORDER BY id").scalars().all()
    assert found == [good, *ids]


def test_emit_reads_nothing(committed_db: Database) -> None:
    """With a catalogue emit is one statement, and none if the data is refused."""
    engine = create_engine(engine_url(committed_db.url, "psycopg"))
    with engine.begin() as connection:
        catalogue.put_all(connection, [PAID])
    known = Catalogue.load(engine)
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    with Session(engine) as session, session.begin():
        with pytest.raises(InvalidInput):
            outbox.emit(session, Event(type="invoice.paid", data={}), catalogue=known)
        assert sent == []
        outbox.emit(session, Event(type="invoice.paid", data={"id": 1}), catalogue=known)
    engine.dispose()

    assert len(sent) == 1


def test_load(committed_db: Database) -> None:
    """A catalogue is loaded from whatever a host has at hand, also in a loop."""
    with committed_db.engine.begin() as connection:
        catalogue.put_all(connection, [PAID])
        assert Catalogue.load(connection).types == {"invoice.paid": PAID}
    with Session(committed_db.engine) as session:
        assert Catalogue.load(session, strict=True).strict

    async def main() -> list[Catalogue]:
        engine = create_async_engine(engine_url(committed_db.url, "asyncpg"))
        async with engine.connect() as connection, AsyncSession(engine) as session:
            found = [await Catalogue.load(each) for each in (engine, connection, session)]
        await engine.dispose()
        return found

    for found in (Catalogue.load(committed_db.engine), *asyncio.run(main())):
        assert found.types == {"invoice.paid": PAID}
