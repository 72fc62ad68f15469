"""`outbox types`, and `outbox events emit --check`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from outbox import catalogue, catalogue_files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.databases import Database

    from .conftest import Cli

SCHEMA = '{"type": "object", "required": ["id"], "properties": {"amount": {"multipleOf": 0.01}}}'
ADD = ("types", "add", "invoice.paid", "--description", "An invoice was paid.")


def test_add_and_show(cli: Cli) -> None:
    """The whole page: fields, schema and example, with their digits."""
    out = cli.out(*ADD, "--schema", '{"required": ["id"]}', "--example", '{"id": 19.90}')
    at = out.splitlines()[3].removeprefix("created_at   ")

    assert out == cli.out("types", "show", "invoice.paid")
    assert out == (
        "type         invoice.paid\n"
        "description  An invoice was paid.\n"
        "deprecated   no\n"
        f"created_at   {at}\n"
        f"changed_at   {at}\n"
        "\n"
        "SCHEMA\n"
        "{\n"
        '  "required": [\n'
        '    "id"\n'
        "  ]\n"
        "}\n"
        "\n"
        "EXAMPLE\n"
        "{\n"
        '  "id": 19.90\n'
        "}\n"
    )


def test_change(cli: Cli, tmp_path: Path) -> None:
    """What is not given stays; a schema may come from a file, or from stdin."""
    (tmp_path / "schema.json").write_text(SCHEMA)
    cli.out(*ADD, "--schema", f"@{tmp_path / 'schema.json'}")
    cli.out("types", "add", "invoice.paid", "--example", "-", stdin='{"id": 1}')
    changed = cli.json("types", "add", "invoice.paid", "--deprecated")
    back = cli.json("types", "add", "invoice.paid", "--current")

    assert (changed["deprecated"], back["deprecated"]) == (True, False)
    assert (back["schema"], back["example"]) == (json.loads(SCHEMA), {"id": 1})


def test_list(cli: Cli) -> None:
    """A person sees what there is of each; a program gets all of it."""
    cli.out(*ADD, "--schema", SCHEMA)
    cli.out("types", "add", "user.created", "--deprecated")

    assert cli.out("types", "list") == (
        "TYPE          DEPRECATED  SCHEMA  DESCRIPTION\n"
        "invoice.paid  -           yes     An invoice was paid.\n"
        "user.created  yes         -       -\n"
    )
    (listed,) = cli.json("types", "list", "--type", "invoice.*")
    assert (listed["type"], listed["schema"]) == ("invoice.paid", json.loads(SCHEMA))
    assert cli.out("types", "list", "--csv").splitlines()[0].startswith("type,description,schema,")
    assert cli.out("types", "list", "--type", "other") == "None.\n"


def test_remove(cli: Cli) -> None:
    """What is removed is said, and gone."""
    cli.out(*ADD)

    assert cli.out("types", "remove", "invoice.paid") == "Removed invoice.paid.\n"
    result = cli("types", "show", "invoice.paid")
    assert (result.exit_code, result.stderr) == (
        1, "Error: event type: there is none with the id invoice.paid\n",
    )  # fmt: skip


def test_export_and_import(cli: Cli, tmp_path: Path) -> None:
    """What was exported is imported as it was, for people and for programs."""
    cli.out(*ADD, "--schema", SCHEMA, "--example", '{"id": 1, "amount": 19.90}')
    file = tmp_path / "types.json"
    file.write_text(cli.out("types", "export"))
    before = cli.json("types", "list")
    cli.out("types", "remove", "invoice.paid")

    assert cli.json("types", "import", str(file)) == {"added": 1, "changed": 0, "unchanged": 0}
    again = cli.json("types", "import", "-", stdin=cli.out("types", "export", "--json"))
    assert again == {"added": 0, "changed": 0, "unchanged": 1}
    after = cli.json("types", "list")
    assert [row["example"] for row in after] == [row["example"] for row in before]
    assert '"amount": 19.90' in file.read_text()


@pytest.mark.parametrize("name", catalogue_files.READY)
def test_import_a_known_system(cli: Cli, committed_db: Database, name: str) -> None:
    """The events of Casdoor and Logto are there by name."""
    cli.out("types", "import", name)

    with committed_db.engine.connect() as connection:
        found = catalogue.list_types(connection)
    assert {each.type: each for each in found} == {
        each.type: each for each in catalogue_files.ready(name)
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["add", "a.*"], "type: must be parts of"),
        (["add", "a", "--schema", "{"], "schema: is not JSON: "),
        (["add", "a", "--schema", "@/nowhere"], "schema: cannot be read from /nowhere: No such"),
        (
            ["add", "a", "--schema", '{"type": "strin"}'],
            "schema.type: fits none of the alternatives",
        ),
        (["add", "a", "--schema", '{"$ref": "https://example.com"}'], "schema: refers to 'https"),
        (["add", "a", "--schema", "false", "--example", "1"], "example: holds something that"),
        (["add", "a", "--description", ""], "description: must have 1 to 2,000 characters"),
        (["import", "/nowhere"], "file: cannot be read from /nowhere: No such file"),
        (["import", "/"], "file: cannot be read from /: Is a directory"),
        (["list", "--type", "a*b"], "types: must be parts of"),
        (["list", "--json", "--csv"], "--json and --csv are two shapes"),
    ],
)
def test_wrong_use(cli: Cli, options: list[str], said: str) -> None:
    """Wrong input gets one line with the place and the rule, and the exit code 2."""
    result = cli("types", *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {said}")
    assert result.stderr.count("\n") == 1


def test_check(cli: Cli) -> None:
    """`emit --check` refuses what breaks a schema; what has none is emitted all the same."""
    cli.out(*ADD, "--schema", SCHEMA)
    wrong = ("events", "emit", "invoice.paid", "--data", '{"id": 1, "amount": 0.001}')
    result = cli(*wrong, "--check")

    assert result.exit_code == 2
    assert result.stderr == (
        "Error: data.amount: must be a multiple of 0.01, by the schema of invoice.paid\n"
    )
    assert cli.json("events", "list") == []
    cli.out(*wrong)
    cli.out("events", "emit", "other", "--check")
    cli.out("events", "emit", "invoice.paid", "--data", '{"id": 1, "amount": 19.90}', "--check")
    assert len(cli.json("events", "list")) == 3
