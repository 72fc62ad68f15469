"""The schema: facts that stay, ids that grow, partitions ahead, versions that only go up."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Table, text
from sqlalchemy.exc import DBAPIError, IntegrityError

import outbox
from outbox import Event, SchemaMismatch, schema, subscriptions
from outbox.schema import VERSION
from outbox.tables import metadata
from tests.factories import event, rows, subscribe, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.types import TypeEngine

    from tests.databases import Database

FACTS = ("event", "event_key", "delivery", "attempt", "subscription_change")


# Ids.


def test_uuid7(db: Connection) -> None:
    """Ids are UUIDv7 of this moment."""
    found = value(db, "SELECT outbox.uuid7()")
    moment = datetime.fromtimestamp((found.int >> 80) / 1000, UTC)
    now = value(db, "SELECT clock_timestamp()")

    assert (found.version, found.int >> 62 & 0b11) == (7, 0b10)
    assert timedelta(milliseconds=-1) < now - moment < timedelta(seconds=5)


def test_uuid7_grows(db: Connection) -> None:
    """Ids grow, also within a millisecond, and no two are the same."""
    ids = [row[0] for row in rows(db, "SELECT outbox.uuid7() FROM generate_series(1, 2000)")]
    moments = [id.int >> 64 for id in ids]

    assert moments == sorted(moments)
    assert len({id.int >> 80 for id in ids}) < len(set(moments))
    assert len(set(ids)) == 2000


def test_uuid7_floor(db: Connection) -> None:
    """The floor of a moment is the smallest id of its millisecond."""
    floor = value(db, "SELECT outbox.uuid7_floor('2026-01-31 12:00:00.123+00')")
    ((below, id, above),) = rows(
        db,
        "SELECT outbox.uuid7_floor(clock_timestamp()), outbox.uuid7(),"
        " outbox.uuid7_floor(clock_timestamp() + interval '1 ms')",
    )

    milliseconds = int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000) + 123
    assert floor == UUID(int=milliseconds << 80)
    assert below < id < above


# Facts.


@pytest.fixture
def facts(db: Connection) -> Connection:
    """A row in each table of facts."""
    id = outbox.emit(db, event(key="k"))
    subscription = subscribe(db)
    db.exec_driver_sql(f"""
        INSERT INTO outbox.delivery (event_id, subscription_id)
        VALUES ('{id}', '{subscription.id}');
        INSERT INTO outbox.attempt (delivery_id, attempt, outcome)
        SELECT id, 1, 'retry' FROM outbox.delivery
    """)  # noqa: S608 - ids
    return db


def refused(connection: Connection, statement: str) -> bool:
    """Whether the statement is refused as a change of facts."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(statement)
    except DBAPIError as error:
        return "is append-only" in str(error)
    return False


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize(
    "change",
    ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0}", "TRUNCATE {0} CASCADE"],
)
def test_facts_stay(facts: Connection, fact: str, change: str) -> None:
    """Facts are append-only, for the owner and superusers as well."""
    column = {"event": "type", "event_key": "key", "attempt": "outcome"}.get(
        fact, "subscription_id"
    )

    assert value(facts, f"SELECT count(*) FROM outbox.{fact}") == 1  # noqa: S608
    assert refused(facts, change.format(f"outbox.{fact}", column))


@pytest.mark.parametrize("fact", ["event", "delivery", "attempt"])
@pytest.mark.parametrize("change", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0}"])
def test_partitions_stay(facts: Connection, fact: str, change: str) -> None:
    """A partition is as append-only as its table."""
    column = {"event": "type", "delivery": "event_id", "attempt": "outcome"}[fact]
    partition = value(facts, f"SELECT tableoid::regclass::text FROM outbox.{fact}")  # noqa: S608

    assert partition != f"outbox.{fact}_default"
    assert refused(facts, change.format(partition, column))


@pytest.mark.parametrize("fact", ["event", "delivery", "attempt"])
def test_default_partitions_stay(facts: Connection, fact: str) -> None:
    """So is the partition that catches what has no other."""
    key = "delivery_id" if fact == "attempt" else "id"
    others = {
        "event": "type, data) VALUES ('{0}', 'a.b', '1')",
        "delivery": "event_id, subscription_id) VALUES ('{0}', '{0}', '{0}')",
        "attempt": "attempt, outcome) VALUES ('{0}', 1, 'retry')",
    }[fact].format(UUID(int=0))
    facts.exec_driver_sql(f"INSERT INTO outbox.{fact} ({key}, {others}")

    assert value(facts, f"SELECT count(*) FROM outbox.{fact}_default") == 1  # noqa: S608
    assert refused(facts, f"DELETE FROM outbox.{fact}_default")  # noqa: S608
    assert refused(facts, f"TRUNCATE outbox.{fact}_default")


@pytest.mark.parametrize(
    ("rule", "statement"),
    [
        (
            "attempt_outcome_known",
            (
                "INSERT INTO outbox.attempt (delivery_id, attempt, outcome)"
                " VALUES (outbox.uuid7(), 1, 'failed')"
            ),
        ),
        (
            "attempt_delivered_is_2xx",
            (
                "INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status)"
                " VALUES (outbox.uuid7(), 1, 'delivered', 302)"
            ),
        ),
        (
            "attempt_delivered_is_2xx",
            (
                "INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status)"
                " VALUES (outbox.uuid7(), 1, 'delivered', NULL)"
            ),
        ),
        (
            "delivery_queue_lease",
            (
                "INSERT INTO outbox.delivery_queue"
                " (delivery_id, subscription_id, event_id, due_at, lease_owner)"
                " VALUES (outbox.uuid7(), outbox.uuid7(), outbox.uuid7(), now(), 1)"
            ),
        ),
        (
            "delivery_queue_counts",
            (
                "INSERT INTO outbox.delivery_queue"
                " (delivery_id, subscription_id, event_id, due_at, attempt, failures)"
                " VALUES (outbox.uuid7(), outbox.uuid7(), outbox.uuid7(), now(), 1, 2)"
            ),
        ),
        (
            "subscription_state_known",
            "INSERT INTO outbox.subscription (url, types, state) VALUES ('http://x', '{*}', 'off')",
        ),
        (
            "subscription_has_types",
            "INSERT INTO outbox.subscription (url, types) VALUES ('http://x', '{}')",
        ),
        (
            "subscription_type_grammar",
            "INSERT INTO outbox.subscription_type VALUES ('*.paid', '', outbox.uuid7())",
        ),
        (
            "event_queue_set_aside",
            "INSERT INTO outbox.event_queue VALUES (now(), outbox.uuid7(), 'broken')",
        ),
    ],
)
def test_impossible_states(db: Connection, rule: str, statement: str) -> None:
    """A state that the program knows not to exist, the database refuses."""
    with pytest.raises(DBAPIError, match=rule), db.begin_nested():
        db.exec_driver_sql(statement)


def test_no_delivery_ends_in_the_same_way_twice(facts: Connection) -> None:
    """An outcome of an attempt is recorded once."""
    with pytest.raises(IntegrityError), facts.begin_nested():
        facts.exec_driver_sql(
            "INSERT INTO outbox.attempt (delivery_id, attempt, outcome)"
            " SELECT id, 1, 'retry' FROM outbox.delivery"
        )


# Partitions.


def test_partitions_are_made_ahead(db: Connection) -> None:
    """A new schema has the partitions of today and a week ahead, and rows go there."""
    names = {
        row[0]
        for row in rows(
            db,
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent = 'outbox.event'::regclass",
        )
    }
    today = value(db, "SELECT (now() AT TIME ZONE 'UTC')::date")
    id = outbox.emit(db, Event(type="a.b"))
    home = value(db, "SELECT tableoid::regclass::text FROM outbox.event WHERE id = :id", id=id)

    days = {f"outbox.event_{today + timedelta(days=n):%Y%m%d}" for n in range(8)}
    assert names == {*days, "outbox.event_default"}
    assert home == f"outbox.event_{today:%Y%m%d}"


def test_partitions_are_made_once(db: Connection) -> None:
    """make_partitions makes what is missing, and says how many that were."""
    made = [value(db, "SELECT outbox.make_partitions(:days)", days=d) for d in (7, 9, 9)]

    assert made == [0, 6, 0]


def test_partitions_do_not_depend_on_the_zone(db: Connection) -> None:
    """Days are those of UTC, wherever the session is at home."""
    for zone in ("Pacific/Kiritimati", "Pacific/Niue"):
        db.exec_driver_sql(f"SET LOCAL timezone = '{zone}'")

        assert value(db, "SELECT outbox.make_partitions()") == 0


def test_partition_of_rows_in_default(db: Connection) -> None:
    """A day whose rows lie in the DEFAULT partition is left there, and the others are made."""
    db.exec_driver_sql("""
        INSERT INTO outbox.event (id, type, data)
        VALUES (outbox.uuid7_floor(current_date + 9), 'a.b', '1')
    """)

    assert value(db, "SELECT outbox.make_partitions(9)") == 5
    assert value(db, "SELECT count(*) FROM outbox.event_default") == 1


@pytest.mark.clone
def test_partitions_made_by_two_at_once(cloned_db: Database) -> None:
    """Two workers that make partitions at once make each once."""
    made: list[int] = []

    def make() -> None:
        with cloned_db.engine.begin() as connection:
            made.append(value(connection, "SELECT outbox.make_partitions(12)"))

    together(make, make)

    assert sorted(made) == [0, 15]


def together(*works: Callable[[], None]) -> None:
    """Run all at once, each in its thread, to their ends."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


# Versions.


def test_check(db: Connection) -> None:
    """The version of this program is the one that apply installs."""
    schema.check(db)

    assert schema.found_version(db) == VERSION


def test_apply_twice(db: Connection) -> None:
    """Applied again it changes nothing and tells what it found."""
    before = rows(db, "SELECT * FROM outbox.schema_version")

    assert schema.apply(db) == VERSION
    assert rows(db, "SELECT * FROM outbox.schema_version") == before


@pytest.mark.clone
def test_apply_by_two_at_once(cloned_db: Database) -> None:
    """Two that apply at once: one installs, the other finds it done."""
    found: list[int | None] = []
    drop(cloned_db)

    def apply() -> None:
        with cloned_db.engine.begin() as connection:
            found.append(schema.apply(connection))

    together(apply, apply)

    assert sorted(found, key=str) == [VERSION, None]


def drop(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA outbox CASCADE"))


@pytest.mark.clone
def test_without_schema(cloned_db: Database) -> None:
    """A database without the schema has no version, and check says what to do."""
    drop(cloned_db)
    with cloned_db.engine.connect() as connection:
        with pytest.raises(SchemaMismatch, match="run `outbox schema apply`") as caught:
            schema.check(connection)

        assert (schema.found_version(connection), caught.value.found) == (None, None)


STEPS = {
    VERSION + 1: "ALTER TABLE outbox.subscription ADD COLUMN note text",
    VERSION + 2: "UPDATE outbox.subscription SET note = 'checked 100 %s'; SELECT 1",
}


@pytest.mark.clone
def test_upgrade(cloned_db: Database) -> None:
    """A database with data in it is taken up step by step, and keeps the history."""
    with cloned_db.engine.begin() as connection:
        subscribe(connection)
        assert schema.apply(connection, to=VERSION + 2, steps=STEPS) == VERSION

    with cloned_db.engine.connect() as connection:
        assert value(connection, "SELECT note FROM outbox.subscription") == "checked 100 %s"
        assert rows(connection, "SELECT version FROM outbox.schema_version ORDER BY 1") == [
            (version,) for version in range(VERSION, VERSION + 3)
        ]
        assert schema.apply(connection, to=VERSION + 2, steps=STEPS) == VERSION + 2


@pytest.mark.clone
def test_upgrade_that_fails(cloned_db: Database) -> None:
    """If a step fails, the database stays whole on the version it had."""
    steps = {**STEPS, VERSION + 2: "ALTER TABLE outbox.nothing ADD COLUMN note text"}
    with pytest.raises(DBAPIError), cloned_db.engine.begin() as connection:
        schema.apply(connection, to=VERSION + 2, steps=steps)

    with cloned_db.engine.connect() as connection:
        assert schema.found_version(connection) == VERSION
        assert rows(connection, COLUMNS, name="subscription", column="note") == []


@pytest.mark.clone
@pytest.mark.parametrize("version", range(1, VERSION))
def test_upgrade_from(cloned_db: Database, version: int) -> None:
    """A database of an older version becomes what schema.sql installs; no host has to wait."""
    new = catalog(cloned_db)
    drop(cloned_db)
    old = Path(__file__).with_name(f"schema_of_version_{version}.sql").read_text()
    with cloned_db.engine.begin() as connection:
        connection.exec_driver_sql(old, execution_options={"no_parameters": True})
        connection.execute(
            text("""
            INSERT INTO outbox.subscription (url, types) VALUES ('https://example.com/', '{*}')
        """)
        )
    with cloned_db.engine.begin() as connection:
        assert schema.apply(connection) == version
        assert subscriptions.list_subscriptions(connection)[0].schemes == ("standard",)
        assert rows(connection, KEEPS_HOSTS_WAITING) == []

    assert catalog(cloned_db) == new


KEEPS_HOSTS_WAITING = """
SELECT relation::regclass::text, mode FROM pg_locks
WHERE pid = pg_backend_pid()
    AND relation::regclass::text ~ '^outbox[.]event(_queue|_key|_default|_[0-9]+)?$'
    AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""


def catalog(database: Database) -> dict[str, set[tuple[Any, ...]]]:
    """All that the schema is made of, by name: the order of columns does not matter."""
    with database.engine.connect() as connection:
        return {name: set(rows(connection, query)) for name, query in CATALOG.items()}


CATALOG = {
    "columns": """
        SELECT table_name::text, column_name::text, data_type::text, is_nullable::text,
            column_default::text, generation_expression::text
        FROM information_schema.columns WHERE table_schema = 'outbox'
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'outbox'::regnamespace
    """,
    "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'outbox'",
    "functions": """
        SELECT proname::text, pg_get_functiondef(oid)
        FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace
    """,
    "triggers": """
        SELECT tgrelid::regclass::text, pg_get_triggerdef(t.oid)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = 'outbox'::regnamespace AND NOT tgisinternal
    """,
    "views": "SELECT viewname::text, definition FROM pg_views WHERE schemaname = 'outbox'",
    "settings": """
        SELECT relname::text, reloptions::text FROM pg_class
        WHERE relnamespace = 'outbox'::regnamespace
    """,
}

COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'outbox' AND table_name = :name AND column_name = :column
"""


def test_newer_version(db: Connection) -> None:
    """A database that is newer than the program is refused, by apply and by check."""
    db.execute(text("INSERT INTO outbox.schema_version (version) VALUES (:v)"), {"v": VERSION + 1})

    for look in (schema.apply, schema.check):
        with pytest.raises(SchemaMismatch, match="install a newer outbox-webhooks") as caught:
            look(db)
        assert (caught.value.found, caught.value.expected) == (VERSION + 1, VERSION)


# What the stores believe.

KINDS = {
    "Uuid": "uuid",
    "Text": "text",
    "JSON": "json",
    "JSONB": "jsonb",
    "DateTime": "timestamp with time zone",
    "Integer": "integer",
    "BigInteger": "bigint",
    "Boolean": "boolean",
    "SmallInteger": "smallint",
    "LargeBinary": "bytea",
    "ARRAY": "ARRAY",
    "Double": "double precision",
    "Interval": "interval",
    "OID": "oid",
}


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_tables(db: Connection, table: Table) -> None:
    """The tables that SQLAlchemy knows have the columns and types of the schema."""
    query = """
        SELECT column_name::text, data_type::text FROM information_schema.columns
        WHERE table_schema = 'outbox' AND table_name = :name
    """
    found = dict(rows(db, query, name=table.name))

    assert {column.name: kind(column.type) for column in table.columns}.items() <= found.items()


def kind(type: TypeEngine[Any]) -> str:
    name = type.__class__.__name__
    return KINDS["JSON" if name == "JsonText" else name]
