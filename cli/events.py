"""`outbox events`: what happened."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

import outbox
from outbox import Catalogue, Event, InvalidInput, events
from outbox.deliveries import list_deliveries

from . import answers, output
from .answers import SECONDS
from .documents import pretty
from .listing import TABLE, list_options, paged, shape_of
from .options import (
    database_option,
    id_argument,
    json_option,
    parse_json,
    text_option,
)
from .rows import delivery_row, event_row
from .session import transaction

if TYPE_CHECKING:
    from uuid import UUID

    from outbox.events import StoredEvent

    from .rows import Row

_COLUMNS = ("id", "occurred_at", "type", "tenant", "subject", "source", "due_at")
_DELIVERY_COLUMNS = ("id", "state", "attempt", "status", "due_at", "url", "held", "error")
ALL = 2**31


@click.group("events")
@database_option()
def commands() -> None:
    """Emit, list and show events, and wait for their answers.

    \b
    Example:
      outbox events list --type 'invoice.*'
    """


@commands.command()
@click.argument("type")
@click.option("--data", default="{}", metavar="JSON", help="JSON, or @FILE, or - for stdin.")
@text_option("--tenant", help="Whose event it is.", max_chars=255)
@text_option("--subject", help="The thing it is about, such as user/42.")
@text_option("--source", help="Where it comes from.")
@text_option("--key", help="The same key again is the same event again.", max_chars=255)
@click.option("--due-at", metavar="TIME", help="Not before, such as 2030-01-31T09:00:00Z.")
@click.option(
    "--wait",
    type=SECONDS,
    is_flag=False,
    flag_value=5.0,
    metavar="[SECONDS]",
    help="Wait for what each subscription answers, 5 seconds if none are given.",
)
@click.option("--check", is_flag=True, help="Refuse data that breaks the schema of its type.")
@json_option
@database_option()
def emit(
    type: str,
    data: str,
    due_at: str | None,
    wait: float | None,
    check: bool,
    as_json: bool,
    **about: Any,
) -> None:
    """Write an event in a transaction of its own.

    \b
    Example:
      outbox events emit invoice.paid --tenant acme \\
        --data '{"id": 1, "amount": 19.90}' --wait
    """
    event = Event(type=type, data=parse_json("data", data), due_at=_parse_moment(due_at), **about)
    with transaction() as connection:
        catalogue = Catalogue.load(connection) if check else None
        id = outbox.emit(connection, event, catalogue=catalogue)
    if wait is None:
        output.one({"id": id}, as_json=as_json)
        return
    if not as_json:
        output.note(f"Waiting for the answers to {id}.")
    answers.wait(id, wait, as_json=as_json)


@commands.command("wait")
@id_argument
@click.option(
    "--timeout",
    type=SECONDS,
    default=5.0,
    metavar="SECONDS",
    show_default=True,
    help="How long at most.",
)
@json_option
@database_option()
def wait_(id: UUID, timeout: float, as_json: bool) -> None:
    """Wait until all deliveries of an event have ended.

    Prints what each subscription answered. Exits with 1 unless all of them have it.

    \b
    Example:
      outbox events wait 0190163d-8694-739b-aea5-966c26f8ad91 --timeout 30
    """
    answers.wait(id, timeout, as_json=as_json)


@commands.command("list")
@click.option("--type", metavar="PATTERN", help="An event type, or a pattern such as invoice.*")
@text_option("--tenant", help="Only events of this tenant.", max_chars=255)
@text_option("--subject", help="Only events about this subject.")
@list_options
@database_option()
def list_(limit: int | None, before: UUID | None, **wanted: Any) -> None:
    """List events, newest first.

    \b
    Example:
      outbox events list --type 'invoice.*' --limit 10
    """
    shape = shape_of(wanted)
    with transaction() as connection:

        def fetch(before: UUID | None, limit: int) -> list[StoredEvent]:
            return events.list_events(connection, before=before, limit=limit, **wanted)

        found = paged(fetch, shape, limit=limit, before=before)
        output.many(map(event_row, found), _COLUMNS, shape)


@commands.command()
@id_argument
@json_option
@database_option()
def show(id: UUID, as_json: bool) -> None:
    """Show an event with its data and deliveries.

    \b
    Example:
      outbox events show 0190163d-8694-739b-aea5-966c26f8ad91
    """
    with transaction() as connection:
        event = event_row(events.show_event(connection, id))
        event["fan_out"] = events.fan_out_state(connection, id)
        event["fan_out_error"] = events.fan_out_error(connection, id)
        found = list_deliveries(connection, event_id=id, limit=ALL)
    deliveries = [delivery_row(each) for each in found]
    if as_json:
        output.document(event | {"deliveries": deliveries})
    else:
        _print(event, deliveries)


def _print(event: Row, deliveries: list[Row]) -> None:
    output.one({name: event[name] for name in event if name != "data"}, as_json=False)
    output.section("data", pretty(event["data"].text))
    output.section("deliveries")
    output.many(deliveries, _DELIVERY_COLUMNS, TABLE)


def _parse_moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput("due_at", "must be a time such as 2030-01-31T09:00:00Z") from error
