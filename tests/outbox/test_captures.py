"""Captures: adding, removing, and what becomes of them when the host changes its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from outbox import InvalidInput, NotFound, WrongState, captures
from tests.databases import engine_at
from tests.factories import BY, rows, value

from .captured import PARTS, add, data, run, told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from sqlalchemy import Connection

    from outbox.captures import Capture
    from tests.databases import Database


# What changes later.


def test_columns_that_go_and_come(host: Connection) -> None:
    """What is gone is left out, what is new is not told of, and the capture says so."""
    id = add(host, exclude=["secret"]).id
    run(
        host,
        "ALTER TABLE host.users RENAME secret TO hidden",
        "ALTER TABLE host.users DROP email",
        "ALTER TABLE host.users ADD token text",
        "INSERT INTO host.users VALUES (1, 7, 's', 't')",
        "UPDATE host.users SET hidden = 'u', token = 'u'",
        "ALTER TABLE host.users ALTER org_id TYPE numeric(5, 2)",
        "UPDATE host.users SET org_id = 8.5",
    )
    found = captures.show(host, id)

    assert data(host)[0] == {"new": {"id": 1, "org_id": 7}}
    assert [type for type, _ in told(host)] == ["user.created", "user.updated"]
    assert '"org_id":8.50' in told(host)[1][1]
    assert (found.state, found.missing, found.unknown) == (
        "active",
        ("email",),
        ("hidden", "token"),
    )


@pytest.mark.parametrize("name", ["count", "max", "concat", "num_nulls", "to_json", "name", "text"])
def test_a_column_that_goes_is_not_mistaken(db: Connection, name: str) -> None:
    """A dropped column is left out also where a function has its name."""
    run(db, f"CREATE TABLE public.t (id int, {name} int, secret int)")
    add(db, "t", "t", exclude=["secret"])
    run(db, f"ALTER TABLE public.t DROP {name}", "INSERT INTO public.t VALUES (1, 2)")

    assert data(db) == [{"new": {"id": 1}}]


def test_columns_that_make_tenant_and_subject_go(host: Connection) -> None:
    """Without them an event has neither, and is written all the same."""
    id = add(host, tenant_from="org_id", columns=["email"]).id
    run(host, "ALTER TABLE host.users DROP id, DROP org_id", "INSERT INTO host.users VALUES ('a')")

    assert rows(host, "SELECT tenant, subject FROM outbox.event") == [(None, None)]
    assert captures.show(host, id).missing == ("id", "org_id")


def test_a_table_that_moves(host: Connection) -> None:
    """A renamed table goes on under the source that it had, and is named as it is now."""
    id = add(host).id
    run(
        host, "ALTER TABLE host.users RENAME TO people", "ALTER TABLE host.people SET SCHEMA public"
    )
    run(host, "INSERT INTO people VALUES (1)")

    assert value(host, "SELECT source FROM outbox.event") == "host.users"
    assert (captures.show(host, id).moved_to, captures.show(host, id).state) == (
        "public.people",
        "active",
    )
    assert captures.remove(host, id, by=BY).state == "removed"
    run(host, "INSERT INTO people VALUES (2)")
    assert len(told(host)) == 1


def test_a_table_that_goes(host: Connection) -> None:
    """The capture of a dropped table is lost, and can be removed."""
    id = add(host).id
    run(host, "DROP TABLE host.users")

    assert [each.state for each in captures.list_captures(host)] == ["lost"]
    assert captures.remove(host, id, by=BY).state == "removed"
    assert captures.list_captures(host) == []


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("ALTER TABLE host.users DISABLE TRIGGER USER", "disabled"),
        ("ALTER TABLE host.users ENABLE REPLICA TRIGGER {0}", "disabled"),
        ("ALTER TABLE host.users ENABLE ALWAYS TRIGGER {0}", "active"),
        ("DROP TRIGGER {0} ON host.users", "lost"),
    ],
)
def test_triggers_that_are_meddled_with(host: Connection, statement: str, state: str) -> None:
    """A trigger that does not work, or is gone, is seen."""
    id = add(host).id
    run(host, statement.format(f'"!outbox_{id}"'))

    assert captures.show(host, id).state == state


# Adding and removing.


def test_a_capture_has_its_author(host: Connection) -> None:
    """It tells who added it, from where, and who removed it."""
    added = add(host, type="account.user")
    removed = captures.remove(host, added.id, by=BY)

    assert (added.actor, added.command, added.state) == ("ada", "a test", "active")
    assert (removed.removed_by, removed.state) == ("ada", "removed")
    assert captures.list_captures(host, removed=True) == [removed]
    assert rows(host, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'host.users'::regclass") == []
    with pytest.raises(WrongState, match="is removed"):
        captures.remove(host, added.id, by=BY)


@pytest.mark.parametrize("look", [captures.show, lambda db, id: captures.remove(db, id, by=BY)])
def test_unknown(db: Connection, look: Any) -> None:
    """An unknown id is not found."""
    with pytest.raises(NotFound, match="capture: there is none"):
        look(db, "0190163d-8694-739b-aea5-966c26f8ad91")


def test_two_captures_of_a_table(host: Connection) -> None:
    """A table may be told of under two types, but not twice under one."""
    first = add(host)
    add(host, type="member", columns=["org_id"])
    with pytest.raises(InvalidInput, match=f"host.users is captured as user already: {first.id}"):
        add(host)
    run(host, "INSERT INTO host.users VALUES (1)")

    assert sorted(type for type, _ in told(host)) == ["member.created", "user.created"]


@pytest.mark.parametrize(("first", "second"), [("part", "part_a"), ("part_a", "part")])
def test_no_change_is_told_twice(db: Connection, first: str, second: str) -> None:
    """A partition is not captured beside its table, under the same type."""
    run(db, PARTS)
    add(db, first, "part")

    with pytest.raises(InvalidInput, match=f"public.{first} is captured as part already"):
        add(db, second, "part", replace=True)
    assert add(db, "part_b", "other").state == "active"


def test_replace(host: Connection) -> None:
    """A capture takes the place of another in the same moment."""
    first = add(host)
    run(host, "ALTER TABLE host.users ADD phone text")
    second = add(host, exclude=["secret"], replace=True)
    run(host, "INSERT INTO host.users VALUES (1)")

    assert [each.state for each in captures.list_captures(host, removed=True)] == [
        "removed",
        "active",
    ]
    assert (captures.show(host, first.id).removed_by, second.unknown) == ("ada", ())
    assert [list(each["new"]) for each in data(host)] == [["id", "email", "org_id", "phone"]]


def test_rolled_back(host: Connection) -> None:
    """A capture lives and dies with the caller's transaction."""
    savepoint = host.begin_nested()
    add(host)
    savepoint.rollback()
    run(host, "INSERT INTO host.users VALUES (1)")

    assert (captures.list_captures(host), told(host)) == ([], [])


THINGS = """
CREATE VIEW host.v AS SELECT * FROM host.users;
CREATE MATERIALIZED VIEW host.m AS SELECT 1 AS id;
CREATE SEQUENCE host.s;
CREATE TYPE host.c AS (id int);
CREATE TEMP TABLE t (id int);
CREATE FOREIGN DATA WRAPPER w;
CREATE SERVER w FOREIGN DATA WRAPPER w;
CREATE FOREIGN TABLE host.f (id int) SERVER w;
CREATE TABLE host.empty ()
"""


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("host.nope", {}, "table: there is none of the name host.nope;"),
        ("Users", {}, "table: there is none of the name Users;"),
        ("a.b.c.d", {}, "table: is no name: "),
        ("a.b.c", {}, "table: is no name: "),
        ("a..b", {}, "table: "),
        ('"a', {}, "table: "),
        ("", {}, "table: must have 1 to 1,024 characters"),
        ("x\ny", {}, "table: contains a control character"),
        ("host.v", {}, "table: host.v is a view; only a table can be captured"),
        ("host.m", {}, "table: host.m is a materialized view"),
        ("host.f", {}, "table: host.f is a foreign table"),
        ("host.s", {}, "table: host.s is a sequence"),
        ("host.c", {}, "table: host.c is a type"),
        ("host.users_pkey", {}, "table: host.users_pkey is an index"),
        ("t", {}, "table: pg_temp_"),
        ("outbox.event", {}, "table: outbox.event is no table of the host"),
        ("pg_catalog.pg_class", {}, "table: pg_catalog.pg_class is no table of the host"),
        ("host.empty", {}, "exclude: leaves no column"),
        ("host.users", {"type": "a..b"}, "type: must be parts of"),
        ("host.users", {"type": "x" * 119}, "type: must have at most 118 characters"),
        ("host.users", {"columns": []}, "columns: leaves no column"),
        ("host.users", {"columns": ["ID"]}, "columns: host.users has no column ID; it has id, em"),
        ("host.users", {"columns": ["id"], "exclude": ["email"]}, "columns: and exclude are two"),
        ("host.users", {"exclude": ["id", "email", "org_id", "secret"]}, "exclude: leaves no"),
        ("host.users", {"exclude": ["pin"]}, "exclude: host.users has no column pin"),
        ("host.users", {"tenant_from": "org"}, "tenant-from: host.users has no column org"),
        ("host.users", {"subject_from": ["id", "x"]}, "subject-from: host.users has no column x"),
        ("host.users", {"type_from": "action"}, "type-from: host.users has no column action"),
        ("host.users", {"operations": []}, "on: must be some of insert, update, delete, truncate"),
        ("host.users", {"operations": ["select"]}, "on: must be some of"),
        ("host.users", {"type_from": "email", "operations": ["update"]}, "on: must be insert"),
    ],
)  # fmt: skip
def test_mistakes(host: Connection, table: str, options: dict[str, Any], message: str) -> None:
    """A mistake names its field; nothing is stored, and the transaction goes on."""
    run(host, THINGS)
    with pytest.raises(InvalidInput) as caught:
        add(host, table, **options)

    assert str(caught.value).startswith(message)
    assert captures.list_captures(host, removed=True) == []


def test_a_table_of_another(host: Connection) -> None:
    """Only the owner of a table, or a superuser, captures it."""
    run(
        host,
        "CREATE ROLE outbox_test_owner",
        "GRANT ALL ON ALL TABLES IN SCHEMA outbox TO outbox_test_owner",
        "GRANT USAGE ON SCHEMA outbox, host TO outbox_test_owner",
        "GRANT EXECUTE ON FUNCTION outbox.capture_change TO outbox_test_owner",
        "GRANT ALL ON host.users TO outbox_test_owner",
        "CREATE TABLE host.own (id int)",
        "ALTER TABLE host.own OWNER TO outbox_test_owner",
    )
    users = add(host)
    run(host, "SET LOCAL ROLE outbox_test_owner")
    with pytest.raises(
        InvalidInput, match=r"host\.users belongs to postgres; connect as postgres or"
    ):
        add(host)
    with pytest.raises(InvalidInput, match="table: must be owner of"):
        captures.remove(host, users.id, by=BY)

    assert add(host, "host.own", "own").state == "active"


@pytest.fixture
def shop(committed_db: Database) -> Iterator[Database]:
    """A host's table that others can see."""
    with committed_db.engine.begin() as connection:
        run(connection, "CREATE TABLE public.shop (id int PRIMARY KEY, n int)")
    yield committed_db
    with committed_db.engine.begin() as connection:
        run(connection, "DROP TABLE public.shop")


def test_a_busy_table(shop: Database) -> None:
    """Where others hold the table it gives up after a second, and nothing is changed."""
    with shop.engine.begin() as other, shop.engine.begin() as connection:
        run(other, "INSERT INTO public.shop VALUES (1)")
        with pytest.raises(WrongState, match=r"table public\.shop is held by others"):
            add(connection, "shop", "shop")

        assert value(connection, "SELECT 1") == 1


def test_the_host_waits_for_nobody(shop: Database) -> None:
    """Two that write to the table at once, and one that reads the events, never wait."""
    with shop.engine.begin() as connection:
        id = add(connection, "shop", "shop").id
    with shop.engine.begin() as a, shop.engine.begin() as b, shop.engine.begin() as c:
        for n, connection in enumerate((a, b)):
            run(
                connection,
                "SET LOCAL lock_timeout = '1ms'",
                f"INSERT INTO public.shop VALUES ({n})",  # noqa: S608
            )
        run(c, "SET LOCAL lock_timeout = '1ms'", "DELETE FROM outbox.event_queue")
        run(a, "UPDATE public.shop SET n = 1")

    with shop.engine.begin() as connection:
        assert len(told(connection)) == 3
        captures.remove(connection, id, by=BY)


def test_no_event_of_what_was_rolled_back(host: Connection) -> None:
    """A savepoint takes its events with it."""
    add(host)
    savepoint = host.begin_nested()
    run(host, "INSERT INTO host.users VALUES (1)")
    savepoint.rollback()

    assert told(host) == []


@pytest.mark.parametrize("driver", ["psycopg2", "pg8000"])
def test_every_driver(shop: Database, driver: str) -> None:
    """Captures can be managed on every driver; a name that is none is told from an outage."""
    with engine_at(shop.url, driver).begin() as connection:
        capture: Capture = add(connection, "shop", "shop", exclude=["n"])
        with pytest.raises(InvalidInput, match="table: is no name"):
            add(connection, "a.b.c.d", "x")
        assert [each.id for each in captures.list_captures(connection)] == [capture.id]
        removed: UUID = captures.remove(connection, capture.id, by=BY).id

    assert (capture.columns, removed) == (("id",), capture.id)
