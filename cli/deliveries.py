"""`outbox deliveries`: events on their way to subscriptions, and every attempt."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from outbox import deliveries

from . import output
from .delivery_options import filter_of, filter_options
from .listing import TABLE, list_options, paged, shape_of
from .options import database_option, id_argument, json_option
from .rows import attempt_row, delivery_row, phases
from .session import transaction

if TYPE_CHECKING:
    from uuid import UUID

    from outbox.deliveries import Delivery

    from .rows import Row

_COLUMNS = (
    "id", "state", "attempt", "status", "type", "tenant", "subject", "made_at", "due_at", "url",
    "held", "error",
)  # fmt: skip
_ATTEMPT_COLUMNS = (
    "attempt", "outcome", "status", "started_at", "duration_ms", "phases", "due_at", "error",
)  # fmt: skip


@click.group("deliveries")
@database_option()
def commands() -> None:
    """List and show deliveries and their attempts.

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
@json_option
@database_option()
def show(id: UUID, as_json: bool) -> None:
    """Show a delivery and all its attempts.

    With what was kept of the responses: their first 8 KiB.

    \b
    Example:
      outbox deliveries show 0190163d-9a11-7c3e-9d5c-0b6f0b7f3c55
    """
    with transaction() as connection:
        delivery = delivery_row(deliveries.show_delivery(connection, id))
        attempts = [attempt_row(each) for each in deliveries.list_attempts(connection, id)]
    if as_json:
        output.document(delivery | {"attempts": attempts})
    else:
        _print(delivery, attempts)


def _print(delivery: Row, attempts: list[Row]) -> None:
    output.one(delivery, as_json=False)
    output.section("attempts")
    rows = [attempt | {"phases": phases(attempt)} for attempt in attempts]
    output.many(rows, _ATTEMPT_COLUMNS, TABLE)
    for body, same in groupby(attempts, key=lambda attempt: attempt["response_body"]):
        if body is not None:
            numbers = ", ".join(str(attempt["attempt"]) for attempt in same)
            output.section(f"response to attempt {numbers}", body)
