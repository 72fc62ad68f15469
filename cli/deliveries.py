"""`outbox deliveries`: events on their way to subscriptions, and every attempt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from outbox import OutboxError, deliveries, fleet
from outbox.sent import next_request, request_of

from . import output, timeline
from .curl import curl, variable
from .delivery_options import filter_of, filter_options
from .listing import list_options, paged, shape_of
from .options import database_option, id_argument, json_option
from .program import WrongUse
from .repairs import cancel, retry
from .rows import attempt_row, delivery_row, hidden_headers, sent_row
from .session import transaction

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

    from outbox.deliveries import Attempt, Delivery

    from .rows import Row

_COLUMNS = (
    "id", "state", "attempt", "status", "type", "tenant", "subject", "made_at", "due_at", "url",
    "held", "error",
)  # fmt: skip


@click.group("deliveries")
@database_option()
def commands() -> None:
    """List, show and repair deliveries.

    \b
    Example:
      outbox deliveries list --state dead
    """


@commands.command("list")
@filter_options
@list_options
@database_option()
def list_(limit: int | None, before: UUID | None, **options: Any) -> None:
    """List deliveries, newest first.

    \b
    Example:
      outbox deliveries list --state dead --status 5xx --since 24h
    """
    shape, wanted = shape_of(options), filter_of(options)
    with transaction() as connection:

        def fetch(before: UUID | None, limit: int) -> list[Delivery]:
            return deliveries.list_deliveries(connection, wanted, before=before, limit=limit)

        found = paged(fetch, shape, limit=limit, before=before)
        output.many(map(delivery_row, found), _COLUMNS, shape)


@commands.command()
@id_argument
@click.option(
    "--attempt", "number", type=click.IntRange(1), metavar="N",
    help="The request of this attempt; else of the last one.",
)  # fmt: skip
@click.option("--curl", "as_curl", is_flag=True, help="Print a command that sends it by hand.")
@json_option
@database_option()
def show(id: UUID, number: int | None, as_curl: bool, as_json: bool) -> None:
    """Show a delivery: each attempt, what was sent and what came back.

    Requests are not stored but made again as a worker makes them, of the revision of the
    subscription that the attempt used and the secrets that are still there; where this
    cannot be exact, it is said. Of a response there are the first 8 KiB and the headers,
    of a 2xx those that name the request at the receiver.

    --curl prints the request as it would be sent now, with --attempt as it was then. Its
    signature is real. A header of the subscription whose name sounds like a credential
    gets its value from a variable of the shell.

    \b
    Example:
      outbox deliveries show 0190163d-9a11-7c3e-9d5c-0b6f0b7f3c55
      outbox deliveries show 0190163d-9a11-7c3e-9d5c-0b6f0b7f3c55 --curl
    """
    if as_curl and as_json:
        raise WrongUse("--curl and --json are two shapes; give one")
    with transaction() as connection:
        found = deliveries.show_delivery(connection, id)
        attempts = deliveries.list_attempts(connection, id)
        if as_curl:
            _print_curl(connection, found, attempts, number)
            return
        workers = fleet.names(connection, {each.worker_id for each in attempts if each.worker_id})
        request = _request(connection, found, attempts, number)
    delivery, rows = delivery_row(found), [attempt_row(each, workers) for each in attempts]
    if as_json:
        output.document(delivery | {"attempts": rows, "request": request})
    else:
        timeline.show(delivery, rows, request)


def _request(
    connection: Connection, found: Delivery, attempts: list[Attempt], number: int | None
) -> Row | None:
    """Return the request to show; nobody is kept from the rest if it cannot be made."""
    try:
        return sent_row(request_of(connection, found, attempts, number, now=time.time()))
    except OutboxError as error:
        if number is not None:
            raise
        output.note(f"The request cannot be made again: {error}")
        return None


def _print_curl(
    connection: Connection, found: Delivery, attempts: list[Attempt], number: int | None
) -> None:
    if number is None:
        made = next_request(connection, found, now=time.time())
    else:
        made = request_of(connection, found, attempts, number, now=time.time())
    hidden = hidden_headers(made.own)
    sent = made.outgoing
    headers = [(name.decode(), value.decode()) for name, value in sent.headers]
    output.raw(f"{curl(sent.method, sent.url, headers, sent.body, hidden=hidden)}\n".encode())
    timeline.note(made.notes)
    if hidden:
        output.note(f"Set {', '.join(map(variable, sorted(hidden)))} first: it is not shown here.")


for verb in (retry, cancel):
    commands.add_command(verb)
