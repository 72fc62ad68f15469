"""Captured tables under hosts that do what hosts do: nothing breaks, nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from outbox import InvalidInput, captures
from tests.factories import BY, rows, value

from .captured import PARTS, add, data, run, told

if TYPE_CHECKING:
    from sqlalchemy import Connection


# What the host must not notice.


NOTE = "CREATE TABLE public.note (id int PRIMARY KEY, body json, secret int)"


@pytest.mark.parametrize("bad", [r'{"a": "\u0000"}', r'["\ud800"]', "1e1000000"])
@pytest.mark.parametrize("options", [{}, {"exclude": ["secret"]}], ids=["whole", "chosen"])
def test_json_that_no_event_may_hold(db: Connection, bad: str, options: dict[str, Any]) -> None:
    """JSON that jsonb cannot read is told as a text; the host's statement goes on."""
    run(db, NOTE)
    add(db, "note", "note", **options, tenant_from="id")
    db.execute(text("INSERT INTO public.note VALUES (1, CAST(:body AS json))"), {"body": bad})
    run(db, "UPDATE public.note SET body = '[1.50]'", "UPDATE public.note SET secret = 1")
    first, second, *rest = data(db)

    assert first["new"]["body"] == second["old"]["body"] == bad
    assert second["changed"] == ["body"]
    assert len(rest) == (0 if options else 1)
    assert rows(db, "SELECT DISTINCT tenant, subject FROM outbox.event") == [("1", "note/1")]


@pytest.mark.parametrize("kind", ["json", "jsonb"])
def test_json_without_bottom(db: Connection, kind: str) -> None:
    """However deep the host nests its JSON, what it can store it can store with a capture."""
    run(db, "SET LOCAL max_stack_depth = '100kB'", NOTE)
    run(db, f"ALTER TABLE public.note ALTER body TYPE {kind}")
    alone = [depth for depth in range(10, 1_500, 50) if stores(db, depth)]
    add(db, "note", "note")

    assert 100 < max(alone) < 1_450
    assert [depth for depth in range(10, 1_500, 50) if stores(db, depth)] == alone
    created = [data for type, data in told(db) if type == "note.created"]
    kinds = [data.partition('"body":')[2][0] for data in created]
    assert kinds == sorted(kinds, reverse=True)
    assert set(kinds) == {"[", '"'}


def stores(connection: Connection, depth: int) -> bool:
    """Whether PostgreSQL takes an array of arrays so deep."""
    try:
        with connection.begin_nested():
            run(connection, "DELETE FROM public.note")
            run(connection, f"INSERT INTO public.note VALUES (1, '{'[' * depth}{']' * depth}')")  # noqa: S608
    except DBAPIError:
        return False
    return True


@pytest.mark.parametrize("options", [{}, {"exclude": ["secret"]}], ids=["whole", "chosen"])
def test_large_rows(db: Connection, options: dict[str, Any]) -> None:
    """Long values of a large row are left out by name; their changes are told all the same."""
    run(db, "CREATE TABLE public.photo (id int PRIMARY KEY, name text, image bytea, secret int)")
    add(db, "photo", "photo", **options)
    run(
        db,
        "INSERT INTO public.photo VALUES (1, 'a', convert_to(repeat('x', 300000), 'UTF8'))",
        "UPDATE public.photo SET name = 'b'",
        "UPDATE public.photo SET image = convert_to(repeat('y', 300000), 'UTF8')",
        "UPDATE public.photo SET image = image",
        "UPDATE public.photo SET image = 'z'",
    )
    left = {} if options else {"secret": None}
    a, b = ({"id": 1, "name": name, **left} for name in "ab")

    assert data(db) == [
        {"new": a, "omitted": ["image"]},
        {"new": b, "old": a, "changed": ["name"], "omitted": ["image"]},
        {"new": b, "old": b, "changed": ["image"], "omitted": ["image"]},
        {
            "new": {"id": 1, "name": "b", "image": "\\x7a", **left},
            "old": b,
            "changed": ["image"],
            "omitted": ["image"],
        },
    ]


def test_a_cast_that_fails(db: Connection) -> None:
    """A value that the host's own cast to json refuses is left out."""
    run(
        db,
        "CREATE TYPE public.odd AS ENUM ('x', 'y')",
        "CREATE FUNCTION public.fail(odd) RETURNS json LANGUAGE plpgsql"
        " AS 'BEGIN RAISE EXCEPTION $e$no$e$; END'",
        "CREATE CAST (odd AS json) WITH FUNCTION public.fail(odd)",
        "CREATE TABLE public.t (id int, value odd)",
    )
    add(db, "t", "t")
    run(db, "INSERT INTO public.t VALUES (1, 'x')", "UPDATE public.t SET value = 'y'")
    left = {"omitted": ["value"]}

    assert data(db) == [
        {"new": {"id": 1}, **left},
        {"new": {"id": 1}, "old": {"id": 1}, "changed": ["value"], **left},
    ]


def test_many_columns(db: Connection) -> None:
    """Of a row with very many values the event stays within bounds."""
    columns = ", ".join(f"c{n} text DEFAULT repeat('x', 2000)" for n in range(400))
    run(db, f"CREATE TABLE public.wide (id int PRIMARY KEY, {columns})")
    add(db, "wide", "wide")
    run(db, "SET LOCAL client_min_messages = error", "INSERT INTO public.wide VALUES (1)")
    (event,) = data(db)

    assert event["new"] == {"id": 1}
    assert len(event["omitted"]) == 400


def test_what_is_left_out_is_not_read(db: Connection) -> None:
    """An excluded column costs nothing, however large it is."""
    run(db, "CREATE TABLE public.photo (id int PRIMARY KEY, image bytea)")
    run(db, "ALTER TABLE public.photo ALTER image SET STORAGE EXTERNAL")
    run(db, "INSERT INTO public.photo VALUES (1, convert_to(repeat('x', 3000000), 'UTF8'))")
    run(db, "ALTER TABLE public.photo ADD n int")
    add(db, "photo", "photo", exclude=["image"])
    query = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) UPDATE public.photo SET n = 1"
    plan = value(db, query)[0]
    toast = value(
        db, "SELECT pg_relation_size(reltoastrelid) / 8192 FROM pg_class WHERE relname = 'photo'"
    )
    triggers = {each["Trigger Name"][:8] for each in plan["Triggers"]}

    assert triggers == {"!outbox_"}
    assert plan["Plan"]["Shared Hit Blocks"] < toast
    assert data(db)[0]["changed"] == ["n"]


NAMES = {
    "r": "int", 'x"y': "int", "a,b": "int", "{}": "int", "back\\slash": "int", "select": "int",
    "it's": "int", "%s": "int", ":x": "int", "Ünï code": "int", "new": "int", "name": "text",
    "count": "int", "type": "text", "columns": "int",
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"exclude": ["secret"]}], ids=["whole", "chosen"])
def test_odd_names(db: Connection, options: dict[str, Any]) -> None:
    """Any name that PostgreSQL allows can be captured, by itself and as a part."""
    columns = {'"' + name.replace('"', '""') + '"': type for name, type in NAMES.items()}
    definition = ", ".join(f"{name} {type} DEFAULT 1" for name, type in columns.items())
    run(db, 'CREATE SCHEMA "Weird Table"')
    table = '"Weird Table"."Ünïcode; -- \'x\'"'
    run(db, f"CREATE TABLE {table} ({definition}, secret int)")
    capture = add(
        db, table, "odd", **options, subject_from=["a,b", 'x"y', "back\\slash"], tenant_from="it's"
    )
    run(db, f"INSERT INTO {table} DEFAULT VALUES")
    ((new,),) = ([each["new"] for each in data(db)],)
    new.pop("secret", None)

    assert new == {name: "1" if type == "text" else 1 for name, type in NAMES.items()}
    assert capture.table_name == table
    assert rows(db, "SELECT tenant, subject, source FROM outbox.event") == [
        ("1", "odd/1/1/1", table)
    ]
    assert captures.remove(db, capture.id, by=BY).state == "removed"


def test_a_hostile_search_path(host: Connection) -> None:
    """What stands in front of pg_catalog for the host's role does not stand there for us."""
    add(host, exclude=["secret"])
    run(
        host,
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.row_to_json(anyelement) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION evil.json_each(json) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION evil.concat(VARIADIC text[]) RETURNS text RETURN 'x'",
        "CREATE TABLE evil.pg_attribute (x int)",
        "SET LOCAL search_path = evil, pg_catalog",
        "INSERT INTO host.users VALUES (1)",
    )

    assert data(host) == [{"new": {"id": 1, "email": None, "org_id": None}}]


def test_the_role_of_the_host_needs_nothing(host: Connection) -> None:
    """A role that may write to its table, and nothing of ours, writes events by that."""
    add(host, exclude=["secret"])
    run(
        host,
        "CREATE ROLE outbox_test_clerk",
        "GRANT USAGE ON SCHEMA host TO outbox_test_clerk",
        "GRANT INSERT, UPDATE, SELECT ON host.users TO outbox_test_clerk",
        "SET LOCAL ROLE outbox_test_clerk",
        "INSERT INTO host.users VALUES (1)",
        "UPDATE host.users SET email = 'a'",
    )
    run(host, "RESET ROLE")

    assert [type for type, _ in told(host)] == ["user.created", "user.updated"]


def test_a_schema_that_anyone_may_use_lets_nobody_forge(host: Connection) -> None:
    """The function behind the triggers is for those who own the schema alone."""
    run(
        host,
        "CREATE ROLE outbox_test_clerk",
        "GRANT USAGE ON SCHEMA outbox TO outbox_test_clerk",
        "SET LOCAL ROLE outbox_test_clerk",
        "CREATE TEMP TABLE forged (id int)",
    )
    trigger = (
        "CREATE TRIGGER forge AFTER INSERT ON forged FOR EACH ROW EXECUTE FUNCTION"
        " outbox.capture_change('a', 'b', '{}', '', '{}', '', '{}', '')"
    )
    with pytest.raises(Exception, match="permission denied for function"), host.begin_nested():
        run(host, trigger)


# What hosts do to their tables.


def test_every_way_to_write(host: Connection) -> None:
    """COPY, ON CONFLICT, MERGE and cascades are told as the changes that they make."""
    run(
        host,
        "CREATE TABLE host.orgs (id int PRIMARY KEY)",
        "INSERT INTO host.orgs VALUES (7)",
        "ALTER TABLE host.users ADD FOREIGN KEY (org_id) REFERENCES host.orgs"
        " ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED",
    )
    add(host, exclude=["secret"])
    cursor = host.connection.driver_connection.cursor()  # type: ignore[union-attr]
    with cursor.copy("COPY host.users (id, org_id) FROM STDIN") as copy:
        copy.write("1\t7\n")
    run(
        host,
        "INSERT INTO host.users VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET email = 'a'",
        "INSERT INTO host.users VALUES (1, 'b') ON CONFLICT (id) DO NOTHING",
        "MERGE INTO host.users u USING (VALUES (1), (2)) v (id) ON u.id = v.id"
        " WHEN MATCHED THEN UPDATE SET email = 'm' WHEN NOT MATCHED THEN INSERT VALUES (v.id)",
        "UPDATE host.orgs SET id = 8",
        "DELETE FROM host.orgs",
    )

    assert [(type, *({**each.get("old", {}), **each.get("new", {})}.values()))
            for (type, _), each in zip(told(host), data(host), strict=True)] == [
        ("user.created", 1, None, 7),
        ("user.updated", 1, "a", 7),
        ("user.updated", 1, "m", 7),
        ("user.created", 2, None, None),
        ("user.updated", 1, "m", 8),
        ("user.deleted", 1, "m", 8),
    ]  # fmt: skip


def test_a_trigger_of_the_host_comes_after(host: Connection) -> None:
    """Where the host changes a row once more after its change, the events keep the order."""
    run(
        host,
        "CREATE FUNCTION host.again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE host.users SET email = 'again' WHERE id = NEW.id AND email <> 'again';"
        " RETURN NULL; END $$",
        'CREATE TRIGGER "00 first" AFTER INSERT OR UPDATE ON host.users'
        " FOR EACH ROW EXECUTE FUNCTION host.again()",
    )
    add(host, columns=["email"])
    run(host, "INSERT INTO host.users VALUES (1, 'a'), (2, 'b')")

    assert data(host) == [
        {"new": {"email": "a"}},
        {"new": {"email": "again"}, "old": {"email": "a"}, "changed": ["email"]},
        {"new": {"email": "b"}},
        {"new": {"email": "again"}, "old": {"email": "b"}, "changed": ["email"]},
    ]


def test_ids_have_the_order_of_the_changes(host: Connection) -> None:
    """Within a transaction and within a statement, events in the order of ids are in order."""
    add(host, columns=["id"])
    run(host, "INSERT INTO host.users SELECT n FROM generate_series(1, 3000) n")
    run(host, "INSERT INTO host.users VALUES (3001)", "INSERT INTO host.users VALUES (3002)")

    assert [each["new"]["id"] for each in data(host)] == list(range(1, 3003))


def test_replicas_are_silent(host: Connection) -> None:
    """What comes by replication was told where it was written first."""
    add(host)
    run(host, "SET LOCAL session_replication_role = replica", "INSERT INTO host.users VALUES (1)")

    assert told(host) == []


def test_generated_columns(db: Connection) -> None:
    """Stored ones are told; those that are made at every reading no trigger can see."""
    virtual = int(value(db, "SHOW server_version_num")) >= 180000
    more = ", v int GENERATED ALWAYS AS (id * 3) VIRTUAL" if virtual else ""
    run(db, f"CREATE TABLE public.g (id int, s int GENERATED ALWAYS AS (id * 2) STORED{more})")
    capture = add(db, "g", "g")
    run(db, "INSERT INTO public.g VALUES (21)")

    assert data(db) == [{"new": {"id": 21, "s": 42}}]
    assert capture.excluded == (("v",) if virtual else ())
    if virtual:
        with pytest.raises(InvalidInput, match="columns: v is generated when it is read"):
            add(db, "g", "other", columns=["id", "v"])


@pytest.mark.parametrize("options", [{}, {"exclude": ["secret"]}], ids=["whole", "chosen"])
def test_partitions(db: Connection, options: dict[str, Any]) -> None:
    """All partitions are captured, later ones too, however their columns are arranged."""
    run(db, PARTS)
    add(db, "part", "part", **options)
    run(
        db,
        "INSERT INTO part VALUES ('a', 1, 'x')",
        "INSERT INTO part_b (region, id) VALUES ('b', 2)",
        "CREATE TABLE part_c (LIKE part)",
        "ALTER TABLE part ATTACH PARTITION part_c FOR VALUES IN ('c')",
        "INSERT INTO part VALUES ('c', 3)",
        "UPDATE part SET region = 'b', note = 'y' WHERE id = 1",
        "ALTER TABLE part DETACH PARTITION part_c",
        "INSERT INTO part_c VALUES ('c', 4)",
        "TRUNCATE part",
    )

    found = [(type, each.get("new", {}).get("region"), each.get("old", {}).get("region"))
             for (type, _), each in zip(told(db), data(db), strict=True)]  # fmt: skip
    assert found == [
        ("part.created", "a", None),
        ("part.created", "b", None),
        ("part.created", "c", None),
        ("part.deleted", None, "a"),
        ("part.created", "b", None),
        ("part.truncated", None, None),
    ]
    assert rows(db, "SELECT DISTINCT source FROM outbox.event") == [("public.part",)]
    assert value(db, "SELECT subject FROM outbox.event ORDER BY id LIMIT 1") == "part/a/1"


def test_tables_that_inherit(db: Connection) -> None:
    """Rows of a table that inherits are its own matter; the capture names it."""
    run(db, "CREATE TABLE public.p (id int)", "CREATE TABLE public.child () INHERITS (public.p)")
    capture = add(db, "p", "p")
    run(db, "INSERT INTO public.p VALUES (1)", "INSERT INTO public.child VALUES (2)")

    assert capture.unseen == ("public.child",)
    assert data(db) == [{"new": {"id": 1}}]
