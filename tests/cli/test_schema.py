"""`outbox schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert

from outbox import schema
from outbox.tables import schema_version

from .conftest import Cli

if TYPE_CHECKING:
    from tests.databases import Database


@pytest.mark.clone
def test_apply_installs_once(cloned_db: Database) -> None:
    """`apply` installs the schema, and may be run again."""
    with cloned_db.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA outbox CASCADE")
    cli = Cli(cloned_db.url)

    assert cli("schema", "check").exit_code == 1
    assert cli.json("schema", "apply") == {"version": schema.VERSION, "before": None}
    assert cli.out("schema", "apply") == (f"version  {schema.VERSION}\nbefore   {schema.VERSION}\n")
    assert cli("schema", "check").exit_code == 0


def test_check_says_that_it_fits(cli: Cli) -> None:
    """A database that fits is exit code 0."""
    assert cli.json("schema", "check") == {"version": schema.VERSION, "expected": schema.VERSION}
    assert cli.out("schema", "check") == (
        f"The schema has version {schema.VERSION}, which this program needs.\n"
    )


@pytest.mark.clone
def test_a_newer_schema_is_refused(cloned_db: Database) -> None:
    """On another version every command says so in one line, and `check` tells a program."""
    with cloned_db.engine.begin() as connection:
        connection.execute(insert(schema_version), {"version": 99})
    cli = Cli(cloned_db.url)
    line = (
        f"Error: schema: the database has version 99, this program knows only {schema.VERSION}; "
        "install a newer outbox-webhooks\n"
    )

    for command in ("schema check", "schema apply", "events list", "subscriptions list"):
        result = cli(*command.split())
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", line)
    result = cli("schema", "check", "--json")
    assert (result.exit_code, result.stderr) == (1, line)
    assert result.stdout == f'{{"version": 99, "expected": {schema.VERSION}}}\n'


def test_print_needs_no_database(bare_cli: Cli) -> None:
    """`print` prints schema.sql as it is."""
    assert bare_cli.out("schema", "print") == schema.text()
    assert bare_cli.json("schema", "print") == {"version": schema.VERSION, "sql": schema.text()}
