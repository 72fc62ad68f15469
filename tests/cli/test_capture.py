"""`outbox capture`."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

import pytest

from tests.factories import rows, value
from tests.outbox.captured import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.databases import Database

    from .conftest import Cli

ADD = ("capture", "add", "people", "--type", "user")


@pytest.fixture
def people(committed_db: Database) -> Iterator[Database]:
    """A table of the host."""
    with committed_db.engine.begin() as connection:
        run(connection, 'CREATE TABLE people (id int PRIMARY KEY, org int, "a, b" text, pin text)')
    yield committed_db
    with committed_db.engine.begin() as connection:
        run(connection, "DROP TABLE IF EXISTS people, pupils CASCADE")


def write(database: Database, *statements: str) -> None:
    with database.engine.begin() as connection:
        run(connection, *statements)


def test_add_prints_the_capture(cli: Cli, people: Database) -> None:
    """`add` stores what was asked for, and the table tells of its changes from then on."""
    added = cli.json(
        *ADD, "--columns", 'id,"a, b"', "--on", "delete,insert", "--tenant-from", "org",
        "--subject-from", "org, id",
    )  # fmt: skip
    write(people, "INSERT INTO people VALUES (42, 7, 'x')", "UPDATE people SET org = 8")

    assert cli.json("capture", "show", added["id"]) == added
    del added["id"], added["created_at"]
    assert added == {
        "table_name": "public.people",
        "type": "user",
        "operations": ["insert", "delete"],
        "columns": ["id", "a, b"],
        "excluded": ["org", "pin"],
        "tenant_from": "org",
        "subject_from": ["org", "id"],
        "type_from": None,
        "state": "active",
        "moved_to": None,
        "missing": None,
        "unknown": None,
        "unseen": None,
        "actor": getpass.getuser(),
        "command": "outbox capture add",
        "removed_at": None,
        "removed_by": None,
    }
    (event,) = cli.json("events", "list")
    assert (event["type"], event["tenant"], event["subject"]) == ("user.created", "7", "user/7/42")
    assert event["data"] == {"new": {"id": 42, "a, b": "x"}}


def test_a_person_sees_what_became_of_the_tables(cli: Cli, people: Database) -> None:
    """The list is a line for each capture, with what is not as it was."""
    id = cli.json(*ADD, "--exclude", "pin", "--on", "insert")["id"]
    write(
        people,
        "ALTER TABLE people RENAME TO pupils",
        "ALTER TABLE pupils RENAME pin TO code",
        "ALTER TABLE pupils DROP org",
    )

    assert cli.out("capture", "list") == (
        "ID                                    STATE   TABLE NAME     TYPE"
        "  MOVED TO       MISSING  UNKNOWN  OPERATIONS  SUBJECT FROM\n"
        f"{id}  active  public.people  user"
        "  public.pupils  org      code     insert      id\n"
    )


def test_list_of_none(cli: Cli) -> None:
    """Without captures there is nothing to list."""
    assert (cli.json("capture", "list"), cli.out("capture", "list")) == ([], "None.\n")


def test_remove(cli: Cli, people: Database) -> None:
    """A removed capture tells of nothing more, and is listed with --all."""
    id = cli.json(*ADD)["id"]
    removed = cli.json("capture", "remove", id, "--yes")
    write(people, "INSERT INTO people VALUES (1)")

    assert (removed["state"], removed["removed_by"]) == ("removed", getpass.getuser())
    assert cli.json("capture", "list") == []
    assert cli.json("capture", "list", "--all") == [removed]
    with people.engine.connect() as connection:
        assert value(connection, "SELECT count(*) FROM outbox.event") == 0


def test_remove_asks(cli: Cli, people: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it asks; without one it wants --yes."""
    id = cli.json(*ADD)["id"]
    without = cli("capture", "remove", id)
    monkeypatch.setattr("outbox.cli.options.has_terminal", lambda: True)
    refused = cli("capture", "remove", id, stdin="n\n")

    assert (without.exit_code, refused.exit_code) == (2, 1)
    assert "Emit no more user events for changes of public.people? [y/N]" in refused.stderr
    assert cli.json("capture", "show", id)["state"] == "active"


def test_replace(cli: Cli, people: Database) -> None:
    """--replace ends the one that is there."""
    first = cli.json(*ADD)["id"]
    second = cli.json(*ADD, "--exclude", "pin", "--replace")["id"]

    assert [each["id"] for each in cli.json("capture", "list")] == [second]
    assert cli.json("capture", "show", first)["state"] == "removed"


def test_a_table_whose_rows_are_events(cli: Cli, people: Database) -> None:
    """--type-from takes the type from a column."""
    cli.json(*ADD, "--type-from", "a, b", "--exclude", "pin")
    write(people, "INSERT INTO people VALUES (1, 7, 'add-user'), (2, 7, NULL)")

    with people.engine.connect() as connection:
        assert rows(connection, "SELECT type, data::text FROM outbox.event ORDER BY id") == [
            ("add-user", '{"id":1,"org":7,"a, b":"add-user"}'),
            ("user", '{"id":2,"org":7,"a, b":null}'),
        ]


def test_a_table_that_others_inherit_from(cli: Cli, people: Database) -> None:
    """What the capture does not see is said when it is added."""
    write(people, "CREATE TABLE pupils () INHERITS (people)")
    result = cli(*ADD)

    assert result.exit_code == 0
    assert result.stderr == (
        "Rows of tables that inherit from it are not captured with it: public.pupils.\n"
    )


WRONG: dict[tuple[str, ...], str] = {
    ("capture", "add", "people"): "Missing option '--type'.",
    ("capture", "add", "nope", "--type", "user"):
        "table: there is none of the name nope; capitals and odd characters want quotes, as in SQL",
    (*ADD, "--columns", ""): "columns: leaves no column to tell of",
    (*ADD, "--columns", "id,,pin"): "columns: must be names by commas, none of them empty",
    (*ADD, "--exclude", '"id'): "exclude: must be names by commas: unexpected end of data",
    (*ADD, "--exclude", "secret"):
        "exclude: public.people has no column secret; it has id, org, a, b, pin",
    (*ADD, "--columns", "id", "--exclude", "pin"):
        "columns: and exclude are two ways to say it; give one",
    (*ADD, "--on", "select"): "on: must be some of insert, update, delete, truncate",
    (*ADD, "--tenant-from", "\x1b[2J"):
        "tenant-from: public.people has no column \\x1b[2J; it has id, org, a, b, pin",
    ("capture", "add", "outbox.event", "--type", "user"):
        "table: outbox.event is no table of the host",
    ("capture", "show", "1"): "Invalid value for 'ID': '1' is not a valid UUID.",
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG.items(), ids=map(" ".join, WRONG))
def test_wrong_use(cli: Cli, people: Database, arguments: tuple[str, ...], message: str) -> None:
    """Wrong use is exit code 2, and the last line says what is wrong."""
    result = cli(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: {message}"


@pytest.mark.parametrize("arguments", [("show",), ("remove", "--yes")])
def test_what_is_not_there(cli: Cli, arguments: tuple[str, ...]) -> None:
    """An unknown id is exit code 1."""
    id = "0190163d-8694-739b-aea5-966c26f8ad91"
    result: Any = cli("capture", *arguments, id)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: capture: there is none with the id {id}\n"
