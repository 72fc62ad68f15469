"""The events of a captured table, folded, are the table: whatever is done to it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from tests.factories import rows, value

from .captured import add, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from tests.databases import Database


@dataclass(frozen=True)
class Table:
    """A table of the host: its name as SQL writes it, its key, the rest of its columns."""

    name: str
    key: tuple[str, ...]
    define: str


BODY = (
    '"a value" numeric, note text, at timestamptz, tags text[], doc jsonb, raw json, b bytea,'
    " mood fold_mood, span interval"
)
TABLES = (
    Table("public.fold_plain", ("id",), f"CREATE TABLE {{}} (id int PRIMARY KEY, {BODY})"),
    Table(
        "public.fold_composite",
        ("region", "id"),
        f"CREATE TABLE {{}} (region int, id int, {BODY}, PRIMARY KEY (id, region))",
    ),
    Table(
        "public.fold_parts",
        ("region", "id"),
        f"""
        CREATE TABLE {{0}} (region int, id int, {BODY}, PRIMARY KEY (region, id))
            PARTITION BY LIST (region);
        CREATE TABLE fold_part_0 PARTITION OF {{0}} FOR VALUES IN (0, 1);
        CREATE TABLE fold_part_d PARTITION OF {{0}} DEFAULT
        """,
    ),
    Table(
        '"Fold it; --"."Ünï ""quoted"""',
        ("I d", "r"),
        f"""
        CREATE SCHEMA "Fold it; --";
        CREATE TABLE {{}} ("I d" int, r int, {BODY},
            PRIMARY KEY (r, "I d") DEFERRABLE INITIALLY DEFERRED)
        """,
    ),
)

LITERALS = {
    '"a value"': ("1.10", "1.1", "-0.001", "123456789012345678901234567890", "'NaN'", "NULL"),
    "note": ("''", "'é 😀'", "E'\\n\"\\\\'", "repeat('x', 3000)", "NULL"),
    "at": ("'2026-01-31 09:30+02'", "'infinity'", "'0044-03-15 BC'", "NULL"),
    "tags": ("'{}'", "'{a,NULL,\"b,c\"}'", "NULL"),
    "doc": ("'{\"b\": [1.0, null]}'", "'3'", "NULL"),
    "raw": ('\'{"b" : 1,"b":2}\'', "'\"\\u0000\"'", "NULL"),
    "b": ("'\\x00ff'", "''", "NULL"),
    "mood": ("'so so'", "'it''s'", "NULL"),
    "span": ("'1 day 2 hours'", "'-00:00:00.5'", "NULL"),
}
STATEMENTS = (
    "INSERT INTO {table} ({columns}) VALUES ({row})",
    "INSERT INTO {table} ({columns}) SELECT {rows} FROM generate_series(0, 3) n",
    "UPDATE {table} SET {changes} WHERE {where}",
    "UPDATE {table} SET {shift}, {changes} WHERE {where}",
    "UPDATE {table} SET {shift}",
    "DELETE FROM {table} WHERE {where}",
    (
        "MERGE INTO {table} t USING (VALUES (1)) s ON {match} WHEN MATCHED THEN UPDATE"
        " SET {changes} WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({row})"
    ),
    "TRUNCATE {table}",
    "SET CONSTRAINTS ALL IMMEDIATE",
)  # fmt: skip
KEYS = st.integers(0, 3)
STEPS = st.integers(-1, 1)


def key_of(table: Table, values: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(values[name] for name in table.key)


def quoted(name: str) -> str:
    return f'"{name}"'


ASSIGNMENTS = st.sampled_from(sorted(LITERALS)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(LITERALS[name]))
)


@st.composite
def statements(draw: st.DrawFn, table: Table) -> str:
    """One statement that may well fail, or change nothing."""
    first, *others = map(quoted, table.key)
    values = dict(draw(st.lists(ASSIGNMENTS, min_size=1, max_size=3)))
    which = draw(st.sets(st.sampled_from([first, *others])))
    parts = {
        "table": table.name,
        "columns": ", ".join([first, *others, *values]),
        "row": ", ".join([*(str(draw(KEYS)) for _ in table.key), *values.values()]),
        "rows": ", ".join(["n / 2 + n", *("n" for _ in others), *values.values()]),
        "changes": ", ".join(f"{name} = {literal}" for name, literal in values.items()),
        "shift": f"{draw(st.sampled_from([first, *others]))} = {first} + {draw(STEPS)}",
        "where": " AND ".join(["true", *(f"{name} = {draw(KEYS)}" for name in sorted(which))]),
        "match": f"t.{first} = {draw(KEYS)}",
    }
    return draw(st.sampled_from(STATEMENTS)).format(**parts)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Table, list[tuple[bool, list[str]]]]:
    """A table, and savepoints that are kept or not, each with statements."""
    table = draw(st.sampled_from(TABLES))
    savepoint = st.tuples(st.booleans() | st.just(True), st.lists(statements(table), max_size=5))
    return table, draw(st.lists(savepoint, max_size=6))


def parsed(text: str) -> Any:
    """JSON with all that it says: digits, and members that come twice."""
    return json.loads(text, parse_float=Decimal, object_pairs_hook=tuple)


def row_of(members: tuple[tuple[str, Any], ...]) -> dict[str, str]:
    return {name: repr(value) for name, value in members}


def events(connection: Connection, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What happened to a table, in the order of the ids."""
    query = "SELECT type, data::text FROM outbox.event WHERE source = :source ORDER BY id"
    for type, text in rows(connection, query, source=source):
        data = dict(parsed(text))
        for name in ("new", "old"):
            if name in data:
                data[name] = row_of(data[name])
        yield type.removeprefix("fold."), data


def contents(connection: Connection, table: Table) -> list[dict[str, str]]:
    """The rows of a table; JSON that no event can hold is its text, as in events."""
    query = f"SELECT row_to_json(t.*)::text FROM {table.name} t".replace(":", r"\:")  # noqa: S608
    found = [row_of(parsed(text)) for (text,) in rows(connection, query)]
    unreadable, told = repr("\x00"), repr(r'"\u0000"')
    return [row | {"raw": told if row["raw"] == unreadable else row["raw"]} for row in found]


def bag(found: list[dict[str, str]]) -> Counter[tuple[tuple[str, str], ...]]:
    return Counter(tuple(sorted(row.items())) for row in found)


def folded(connection: Connection, table: Table) -> Counter[tuple[tuple[str, str], ...]]:
    """The rows that are left: what is old goes, what is new comes."""
    left: Counter[tuple[tuple[str, str], ...]] = Counter()
    for type, data in events(connection, table.name):
        if type == "truncated":
            left.clear()
        if "old" in data:
            left.subtract(bag([data["old"]]))
        if "new" in data:
            left.update(bag([data["new"]]))
    return Counter({row: count for row, count in left.items() if count})


def folded_by_key(connection: Connection, table: Table) -> list[dict[str, str]]:
    """The same with a key: each event must find the row that it says was there."""
    left: dict[tuple[Any, ...], dict[str, str]] = {}
    for type, data in events(connection, table.name):
        if type == "truncated":
            left.clear()
        if "old" in data:
            assert left.pop(key_of(table, data["old"])) == data["old"]
        if "new" in data:
            assert left.setdefault(key_of(table, data["new"]), data["new"]) is data["new"]
        if type == "updated":
            old, new = data["old"], data["new"]
            assert list(data["changed"]) == [name for name in new if new[name] != old[name]]
    return list(left.values())


@pytest.fixture
def tables(db: Connection) -> Connection:
    """The tables, captured."""
    run(db, "CREATE TYPE fold_mood AS ENUM ('so so', 'it''s')")
    for table in TABLES:
        run(db, table.define.format(table.name))
        add(db, table.name, "fold")
    run(db, "SET LOCAL timezone = 'UTC'", "SET LOCAL intervalstyle = 'iso_8601'")
    return db


def live(connection: Connection, history: list[tuple[bool, list[str]]]) -> None:
    """Run all that can be run; what was not kept is rolled back."""
    for kept, block in history:
        savepoint = connection.begin_nested()
        for statement in block:
            with suppress(DBAPIError), connection.begin_nested():
                run(connection, statement)
        if kept:
            savepoint.commit()
        else:
            savepoint.rollback()


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=histories())
def test_the_events_are_the_table(
    tables: Connection, history: tuple[Table, list[tuple[bool, list[str]]]]
) -> None:
    """Folded from its events a table is what it is, exactly, in every kind of table."""
    table, blocks = history
    example = tables.begin_nested()
    live(tables, blocks)

    found = contents(tables, table)
    assert folded(tables, table) == bag(found)
    if "DEFERRABLE" not in table.define:  # keys may be the same for a moment there
        assert bag(folded_by_key(tables, table)) == bag(found)
    example.rollback()


@pytest.fixture
def counters(committed_db: Database) -> Iterator[Database]:
    """A captured table that several connections see."""
    with committed_db.engine.begin() as connection:
        run(connection, "CREATE TABLE public.counter (id int PRIMARY KEY, n int, raw json)")
        add(connection, "counter", "fold")
    yield committed_db
    with committed_db.engine.begin() as connection:
        run(connection, "DROP TABLE public.counter")


def test_the_order_of_several_writers(counters: Database) -> None:
    """Of each row the events of many transactions at once have the order of its changes."""

    count = "INSERT INTO counter VALUES ({}, 0) ON CONFLICT (id) DO UPDATE SET n = counter.n + 1"
    delete = "DELETE FROM counter WHERE id = {}"

    def write(first: int) -> None:
        with counters.engine.connect() as connection:
            for n in range(first, first + 60):
                run(connection, (delete if n % 7 == 0 else count).format(n % 3))
                if n % 5:
                    connection.commit()
                else:
                    connection.rollback()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    table = Table("public.counter", ("id",), "")
    with counters.engine.connect() as connection:
        assert value(connection, "SELECT count(*) FROM outbox.event") > 150
        assert bag(folded_by_key(connection, table)) == bag(contents(connection, table))
