"""`outbox schema`: install, check and print the schema."""

from __future__ import annotations

import click

from outbox import schema

from . import output
from .options import database_option, json_option
from .session import transaction


@click.group("schema")
@database_option()
def commands() -> None:
    """Install, check and print the database schema.

    \b
    Example:
      outbox schema apply
    """


@commands.command()
@json_option
@database_option()
def apply(as_json: bool) -> None:
    """Install the schema or upgrade it.

    In one transaction, so all of it or nothing. It may be run again.

    \b
    Example:
      outbox schema apply --database-url postgresql://owner@localhost/shop
    """
    with transaction(any_schema=True) as connection:
        before = schema.apply(connection)
    output.one({"version": schema.VERSION, "before": before}, as_json=as_json)


@commands.command()
@json_option
@database_option()
def check(as_json: bool) -> None:
    """Tell whether the database fits.

    Exits with 1 unless its schema has the version that this program needs.

    \b
    Example:
      outbox schema check && outbox-worker
    """
    with transaction(any_schema=True) as connection:
        found = schema.found_version(connection)
        if as_json:
            output.document({"version": found, "expected": schema.VERSION})
        schema.check(connection)
    if not as_json:
        output.line(f"The schema has version {found}, which this program needs.")


@commands.command("print")
@json_option
def print_(as_json: bool) -> None:
    """Print the SQL that installs the schema.

    \b
    Example:
      outbox schema print | less
    """
    if as_json:
        output.document({"version": schema.VERSION, "sql": schema.text()})
    else:
        output.line(schema.text().rstrip())
