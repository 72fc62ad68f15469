"""What events tell of the changes of a captured table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from tests.factories import rows, value

from .captured import add, data, run, told

if TYPE_CHECKING:
    from sqlalchemy import Connection


def test_changes_become_events(host: Connection) -> None:
    """Each change is an event with the rows before and after, and what was changed."""
    add(host, exclude=["secret"])
    run(
        host,
        "INSERT INTO host.users VALUES (42, 'a@x', 7, 's')",
        "UPDATE host.users SET email = 'b@x', secret = 't'",
        "DELETE FROM host.users",
        "TRUNCATE host.users",
    )

    a, b = '{"id":42,"email":"a@x","org_id":7}', '{"id":42,"email":"b@x","org_id":7}'
    assert told(host) == [
        ("user.created", f'{{"new":{a}}}'),
        ("user.updated", f'{{"new":{b},"old":{a},"changed":["email"]}}'),
        ("user.deleted", f'{{"old":{b}}}'),
        ("user.truncated", "{}"),
    ]
    assert rows(host, "SELECT DISTINCT source FROM outbox.event") == [("host.users",)]
    assert value(host, "SELECT count(*) FROM outbox.event_queue") == 4


def test_the_whole_row_is_told_without_a_choice(host: Connection) -> None:
    """Without columns or exclude all columns are told of."""
    capture = add(host)
    run(host, "INSERT INTO host.users VALUES (1, NULL, 7, 's')")

    assert capture.columns == ("id", "email", "org_id", "secret")
    assert told(host) == [("user.created", '{"new":{"id":1,"email":null,"org_id":7,"secret":"s"}}')]


@pytest.mark.parametrize(
    "options", [{"columns": ["id", "email"]}, {"exclude": ["secret", "org_id"]}]
)
def test_what_changes_no_captured_column_is_no_event(
    host: Connection, options: dict[str, Any]
) -> None:
    """An update that changes nothing, or only what is not captured, writes nothing."""
    add(host, **options)
    run(host, "INSERT INTO host.users VALUES (1, 'a@x', 7, 's')")
    run(
        host,
        "UPDATE host.users SET email = email",
        "UPDATE host.users SET secret = 't', org_id = 8",
    )

    assert [type for type, _ in told(host)] == ["user.created"]


@pytest.mark.parametrize(
    ("operations", "types"),
    [
        (["insert"], ["user.created"]),
        (["delete", "update"], ["user.updated", "user.deleted"]),
        (["truncate"], ["user.truncated"]),
    ],
)
def test_operations(host: Connection, operations: list[str], types: list[str]) -> None:
    """Only the operations that were asked for are told of."""
    capture = add(host, operations=operations)
    run(
        host,
        "INSERT INTO host.users VALUES (1)",
        "UPDATE host.users SET email = 'b@x'",
        "DELETE FROM host.users",
        "TRUNCATE host.users",
    )

    assert [type for type, _ in told(host)] == types
    assert capture.state == "active"


@pytest.mark.parametrize(
    ("options", "tenants"), [({}, [None] * 3), ({"tenant_from": "org_id"}, ["7", "8", "8"])]
)
def test_tenant(host: Connection, options: dict[str, Any], tenants: list[str | None]) -> None:
    """The tenant is that of the new row, or of the old one when it is deleted."""
    add(host, **options, columns=["id", "email"])
    run(host, "INSERT INTO host.users VALUES (1, 'a', 7)")
    run(host, "UPDATE host.users SET email = 'b', org_id = 8", "DELETE FROM host.users")

    assert [
        tenant for (tenant,) in rows(host, "SELECT tenant FROM outbox.event ORDER BY id")
    ] == tenants
    assert data(host)[0] == {"new": {"id": 1, "email": "a"}}


def test_an_empty_tenant_is_none(host: Connection) -> None:
    """An empty text is no tenant, and breaks nothing."""
    add(host, tenant_from="email")
    run(host, "INSERT INTO host.users VALUES (1, '')")

    assert value(host, "SELECT tenant FROM outbox.event") is None


@pytest.mark.parametrize(
    ("subject_from", "subject"),
    [
        (None, "user/1"),
        (["org_id", "id"], "user/7/1"),
        (["email"], "user/" + "é" * 1_019),
        (["secret"], None),
        ([], None),
    ],
)
def test_subject(host: Connection, subject_from: list[str] | None, subject: str | None) -> None:
    """The subject is the type and the primary key, or the columns that were named."""
    add(host, subject_from=subject_from)
    run(host, "INSERT INTO host.users VALUES (1, repeat('é', 5000), 7)")

    assert value(host, "SELECT subject FROM outbox.event") == subject


def test_subject_of_a_composite_key(db: Connection) -> None:
    """A primary key of several columns is joined in the order of the key."""
    run(db, "CREATE TABLE public.part (n int, day date, PRIMARY KEY (day, n))")
    capture = add(db, "public.part", "part")
    run(db, "INSERT INTO public.part VALUES (3, '2026-01-31')")

    assert capture.subject_from == ("day", "n")
    assert value(db, "SELECT subject FROM outbox.event") == "part/2026-01-31/3"


RECORD = """
CREATE TABLE public.record (id serial PRIMARY KEY, organization text, action text, object text)
"""


def test_a_table_whose_rows_are_events(db: Connection) -> None:
    """With type_from the type comes from a column, and the row is the data."""
    run(db, RECORD)
    add(db, "record", "record", type_from="action", tenant_from="organization")
    run(db, "INSERT INTO record (organization, action, object) VALUES ('acme', 'add-user', '{}')")

    assert rows(db, "SELECT type, tenant, subject, data::text FROM outbox.event") == [
        (
            "add-user", "acme", "record/1",
            '{"id":1,"organization":"acme","action":"add-user","object":"{}"}',
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("action", "type"),
    [
        ("login", "login"),
        ("mfa/setup/verify", "mfa/setup/verify"),
        ("User.Data.Updated", "User.Data.Updated"),
        ("add user", "add-user"),
        ("/api//login/", "api/login"),
        ("a..b./c:", "a.b.c"),
        ("réglé; DROP", "r-gl-DROP"),
        ("x" * 200, "x" * 128),
        ("x" * 127 + ".y", "x" * 127),
        ("x\n", "x"),
        ("-a-", "-a-"),
        ("", "record"),
        ("é!?", "record"),
        (None, "record"),
    ],
)
def test_a_text_becomes_a_type(db: Connection, action: str | None, type: str) -> None:
    """What is no event type is made one, or else the type of the capture is taken."""
    run(db, RECORD)
    add(db, "record", "record", type_from="action")
    db.execute(text("INSERT INTO record (action) VALUES (:action)"), {"action": action})

    assert [found for found, _ in told(db)] == [type]


SETTINGS = (
    "SET LOCAL DateStyle = 'German, DMY'",
    "SET LOCAL TimeZone = 'Asia/Kolkata'",
    "SET LOCAL IntervalStyle = 'postgres_verbose'",
    "SET LOCAL bytea_output = 'escape'",
    "SET LOCAL extra_float_digits = -5",
)
VALUES = {
    "numeric": ("12345678901234567890.10", "12345678901234567890.10"),
    "numeric(9, 3)": ("'NaN'", '"NaN"'),
    "bigint": ("9223372036854775807", "9223372036854775807"),
    "float8": ("0.1 + 0.2::float8", "0.30000000000000004"),
    "float4": ("'-Infinity'", '"-Infinity"'),
    "boolean": ("true", "true"),
    "text": ("E'\"\\\\\\u0001é\\U0001F600\\n'", '"\\"\\\\\\u0001é😀\\n"'),
    "char(3)": ("'a'", '"a  "'),
    "bytea": ("'\\x00ff'", '"\\\\x00ff"'),
    "date": ("'2026-01-31'", '"2026-01-31"'),
    "time": ("'09:30:00.5'", '"09:30:00.5"'),
    "timestamp": ("'2026-01-31 09:30'", '"2026-01-31T09:30:00"'),
    "timestamptz": ("'2026-01-31 09:30:00.123456+01'", '"2026-01-31T08:30:00.123456+00:00"'),
    "interval": ("'1 day 02:03:04.5'", '"P1DT2H3M4.5S"'),
    "tstzrange": (
        "'[2026-01-31 09:30+01,)'",
        '"[\\"2026-01-31 08:30:00+00\\",)"',
    ),
    "uuid": (
        "'0190163D-8694-739b-aea5-966c26f8ad91'", '"0190163d-8694-739b-aea5-966c26f8ad91"'
    ),
    "json": ("""'{"b" : 1.0, "a":[ ],"b":2}'""", '{"b" : 1.0, "a":[ ],"b":2}'),
    "jsonb": ("""'{"b" : 1.0, "a":[ ],"b":2}'""", '{"a": [], "b": 2}'),
    "int[]": ("'{1,NULL,3}'", "[1,null,3]"),
    "text[][]": ("ARRAY[['a,b', 'c'], ['\"', NULL]]", '[["a,b","c"],["\\"",null]]'),
    "timestamptz[]": ("ARRAY['2026-01-31 09:30+01'::timestamptz]", '["2026-01-31T08:30:00+00:00"]'),
    "inet": ("'10.0.0.1/8'", '"10.0.0.1/8"'),
    "mood": ("'so so'", '"so so"'),
    "address": (
        "ROW('Main \"St\"', 7, now_())", '{"street":"Main \\"St\\"","no":7,"since":"2026-01-31"}'
    ),
    "positive": ("5", "5"),
}  # fmt: skip
TYPES = """
CREATE TYPE mood AS ENUM ('so so');
CREATE TYPE address AS (street text, no int, since date);
CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
CREATE FUNCTION now_() RETURNS date RETURN make_date(2026, 1, 31)
"""


@pytest.mark.parametrize("settings", [(), SETTINGS], ids=["plain", "strange"])
@pytest.mark.parametrize("options", [{}, {"exclude": ["v"]}], ids=["whole", "chosen"])
def test_values_are_exact(
    db: Connection, settings: tuple[str, ...], options: dict[str, Any]
) -> None:
    """Values keep all their digits and parts, and look the same in every session."""
    columns = ", ".join(f"c{n} {type}" for n, type in enumerate(VALUES))
    run(db, TYPES, f"CREATE TABLE exact (id int PRIMARY KEY, v int, {columns})")
    add(db, "exact", "exact", **options)
    values = ", ".join(sql for sql, _ in VALUES.values())
    run(db, *settings, f"INSERT INTO exact VALUES (1, NULL, {values})")  # noqa: S608

    expected = ",".join(f'"c{n}":{json}' for n, (_, json) in enumerate(VALUES.values()))
    left = '"v":null,' if not options else ""
    assert told(db) == [("exact.created", f'{{"new":{{"id":1,{left}{expected}}}}}')]


def test_settings_of_the_host_stay(host: Connection) -> None:
    """The settings that values are read with end with the trigger."""
    add(host)
    run(host, *SETTINGS)
    names = ("DateStyle", "TimeZone", "IntervalStyle", "bytea_output", "extra_float_digits")
    before = [value(host, f"SELECT current_setting('{name}')") for name in names]
    run(host, "INSERT INTO host.users VALUES (1)")

    assert [value(host, f"SELECT current_setting('{name}')") for name in names] == before
