"""`outbox types`: the catalogue of event types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from outbox import catalogue, catalogue_files

from . import output
from .documents import pretty
from .listing import TABLE, shape_of, shape_options
from .options import content, database_option, json_option, parse_json, text_option
from .rows import type_row
from .session import transaction

if TYPE_CHECKING:
    from outbox import EventType

    from .rows import Row

_COLUMNS = ("type", "deprecated", "schema", "example", "description")
_pattern_option = click.option(
    "--type", "pattern", default="*", metavar="PATTERN",
    help="Only these: a type, or a pattern such as invoice.*",
)  # fmt: skip


@click.group("types")
@database_option()
def commands() -> None:
    """Describe event types, for subscribers and for checks.

    \b
    Example:
      outbox types list --type 'invoice.*'
    """


@commands.command()
@click.argument("type")
@text_option("--description", help="What happened, in a sentence.", max_chars=2_000)
@click.option("--schema", metavar="JSON", help="JSON Schema 2020-12 of the data: JSON, @FILE or -")
@click.option("--example", metavar="JSON", help="Data that the schema allows: JSON, @FILE or -")
@click.option(
    "--deprecated/--current", default=None, help="Not for new subscribers; or again for them."
)
@json_option
@database_option()
def add(type: str, schema: str | None, example: str | None, as_json: bool, **about: Any) -> None:
    """Add an event type, or change one.

    What is not given stays as it was.

    \b
    Example:
      outbox types add invoice.paid --description 'An invoice was paid.' \\
        --schema '{"type": "object", "required": ["id"]}' \\
        --example '{"id": 1}'
    """
    about |= {"schema": _value("schema", schema), "example": _value("example", example)}
    with transaction() as connection:
        added = catalogue.add(connection, type, **about)
    _show(added, as_json=as_json)


@commands.command("list")
@_pattern_option
@shape_options
@database_option()
def list_(pattern: str, **wanted: Any) -> None:
    """List event types, by name.

    \b
    Example:
      outbox types list --type 'invoice.*'
    """
    shape = shape_of(wanted)
    with transaction() as connection:
        found = catalogue.list_types(connection, pattern=pattern)
    rows = map(type_row, found)
    output.many(map(_in_short, rows) if shape == TABLE else rows, _COLUMNS, shape)


@commands.command()
@click.argument("type")
@json_option
@database_option()
def show(type: str, as_json: bool) -> None:
    """Show an event type with its schema and its example.

    \b
    Example:
      outbox types show invoice.paid
    """
    with transaction() as connection:
        found = catalogue.show(connection, type)
    _show(found, as_json=as_json)


@commands.command()
@click.argument("type")
@json_option
@database_option()
def remove(type: str, as_json: bool) -> None:
    """Take an event type out of the catalogue.

    Its events and subscriptions stay, and new events of it are events all the same.

    \b
    Example:
      outbox types remove invoice.paid
    """
    with transaction() as connection:
        removed = catalogue.remove(connection, type)
    if as_json:
        output.document(type_row(removed))
    else:
        output.line(f"Removed {removed.type}.")


@commands.command("import")
@click.argument("source", metavar="FILE|casdoor|logto")
@json_option
@database_option()
def import_(source: str, as_json: bool) -> None:
    """Take event types over from a file.

    As `export` writes it; an OpenAPI 3.1 document with webhooks, whose bodies are taken to
    be the data; or an object of a JSON Schema for each type. - is stdin. The names stand
    for the events of Casdoor and of Logto. What the file has replaces what is there; other
    types stay.

    \b
    Example:
      outbox types import logto
    """
    if source in catalogue_files.READY:
        types = catalogue_files.ready(source)
    else:
        types = catalogue_files.read(content("file", source if source == "-" else f"@{source}"))
    with transaction() as connection:
        changes = catalogue.put_all(connection, types)
    output.one(changes._asdict(), as_json=as_json)


@commands.command()
@_pattern_option
@json_option
@database_option()
def export(pattern: str, as_json: bool) -> None:
    """Print event types as a file that can be imported.

    \b
    Example:
      outbox types export > types.json
    """
    with transaction() as connection:
        found = catalogue.list_types(connection, pattern=pattern)
    text = catalogue_files.write(found)
    output.raw((text if as_json else pretty(text)).encode() + b"\n")


def _value(field: str, text: str | None) -> object:
    return None if text is None else parse_json(field, text)


def _in_short(row: Row) -> Row:
    """A row for a table: whether there is a schema, and an example."""
    there = {name: True if row[name] is not None else None for name in ("schema", "example")}
    return row | there | {"deprecated": row["deprecated"] or None}


def _show(found: EventType, *, as_json: bool) -> None:
    row = type_row(found)
    if as_json:
        output.document(row)
        return
    output.one(
        {name: row[name] for name in row if name not in {"schema", "example"}}, as_json=False
    )
    for name in ("schema", "example"):
        if row[name] is not None:
            output.section(name, pretty(row[name].text))
