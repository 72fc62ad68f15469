"""`outbox capture`: tables of the host whose changes are events."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import click

from outbox import InvalidInput, captures

from . import output
from .listing import shape_of, shape_options
from .options import confirm, database_option, id_argument, json_option, yes_option
from .rows import capture_row
from .session import author, transaction

if TYPE_CHECKING:
    from uuid import UUID

    from outbox.captures import Capture

_COLUMNS = (
    "id", "state", "table_name", "type", "moved_to", "missing", "unknown", "unseen", "operations",
    "tenant_from", "subject_from", "type_from",
)  # fmt: skip


def _names(_: click.Context, parameter: click.Parameter, text: str | None) -> list[str] | None:
    """Read names by commas; one with a comma in it stands in quotes, as in CSV."""
    if text is None:
        return None
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InvalidInput(str(parameter.name), f"must be names by commas: {error}") from error
    names = [name.strip() for row in rows for name in row]
    if not all(names):
        raise InvalidInput(str(parameter.name), "must be names by commas, none of them empty")
    return names


@click.group("capture")
@database_option()
def commands() -> None:
    """Turn the changes of a table into events.

    \b
    Example:
      outbox capture add public.users --type user --exclude password_hash
    """


@commands.command()
@click.argument("table")
@click.option(
    "--type", required=True, metavar="NAME",
    help="user makes the types user.created, .updated, .deleted and .truncated.",
)  # fmt: skip
@click.option(
    "--columns", callback=_names, metavar="LIST", help="Tell only of these, by commas; else of all."
)
@click.option("--exclude", callback=_names, metavar="LIST", help="Tell of all but these.")
@click.option(
    "--on", "operations", callback=_names, metavar="LIST",
    help="Some of insert, update, delete and truncate; else all.",
)  # fmt: skip
@click.option("--tenant-from", metavar="COLUMN", help="It holds the tenant of the event.")
@click.option(
    "--subject-from", callback=_names, metavar="LIST",
    help="These make the subject, such as user/42; else the primary key.",
)  # fmt: skip
@click.option(
    "--type-from",
    metavar="COLUMN",
    help="It holds the type: each new row is an event. Where it is empty, --type is taken.",
)
@click.option(
    "--replace", is_flag=True, help="End the capture of this table and type that is there."
)
@json_option
@database_option()
def add(table: str, exclude: list[str] | None, as_json: bool, **wanted: Any) -> None:
    """Emit an event for each change of TABLE, from now on.

    A trigger writes it, in the transaction of the change; the table must be yours. TABLE
    is written as in SQL, columns by their plain names. The data of an event is

    \b
      {"new": {…}, "old": {…}, "changed": ["email"]}

    without old when a row was created, without new when it was deleted, with changed when
    it was updated. An update that changes none of the columns is no event; of a TRUNCATE
    the data is {}. With --type-from the data is the new row itself, and what a type may not
    hold becomes -.

    Values are as PostgreSQL's to_json writes them, times in UTC. Of rows over 256 KiB the
    long values are left out, and omitted names their columns. JSON deeper than 64 levels,
    or that jsonb cannot hold (\\u0000), becomes a string. A row that moves to another
    partition is deleted and created. Columns that come later are not told of until the
    capture is replaced.

    \b
    Example:
      outbox capture add public.users --type user --tenant-from org_id \\
        --exclude password_hash,totp_secret
      outbox capture add casdoor.record --type record --type-from action \\
        --tenant-from organization
    """
    with transaction() as connection:
        added = captures.add(connection, table, by=author(), exclude=exclude or (), **wanted)
    output.one(capture_row(added), as_json=as_json)
    _note(added)


@commands.command("list")
@click.option("--all", "removed", is_flag=True, help="Those that were removed as well.")
@shape_options
@database_option()
def list_(removed: bool, **wanted: Any) -> None:
    """List captures, oldest first, and what became of their tables.

    Lost: the table or its triggers are gone. Missing: columns that are gone. Unknown:
    columns that came later, which events do not tell of. Unseen: tables that inherit from
    it, whose rows the triggers do not see.

    \b
    Example:
      outbox capture list
    """
    shape = shape_of(wanted)
    with transaction() as connection:
        found = captures.list_captures(connection, removed=removed)
    output.many(map(capture_row, found), _COLUMNS, shape)


@commands.command()
@id_argument
@json_option
@database_option()
def show(id: UUID, as_json: bool) -> None:
    """Show a capture, and what became of its table.

    \b
    Example:
      outbox capture show 0190163d-8694-739b-aea5-966c26f8ad91
    """
    with transaction() as connection:
        found = captures.show(connection, id)
    output.one(capture_row(found), as_json=as_json)


@commands.command()
@id_argument
@yes_option
@json_option
@database_option()
def remove(id: UUID, yes: bool, as_json: bool) -> None:
    """Emit no more events for the changes of a table.

    Its triggers are dropped, if they are still there. What was emitted stays.

    \b
    Example:
      outbox capture remove 0190163d-8694-739b-aea5-966c26f8ad91 --yes
    """
    if not yes:
        with transaction() as connection:
            found = captures.show(connection, id)
        question = f"Emit no more {found.type} events for changes of {found.table_name}?"
        confirm(question, yes=yes, otherwise="nothing was removed")
    with transaction() as connection:
        removed = captures.remove(connection, id, by=author())
    output.one(capture_row(removed), as_json=as_json)


def _note(added: Capture) -> None:
    if added.unseen:
        names = ", ".join(added.unseen)
        output.note(f"Rows of tables that inherit from it are not captured with it: {names}.")
