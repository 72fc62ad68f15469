"""`outbox replays`: what was asked for again, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from outbox import replays

from . import output
from .listing import TABLE, list_options, paged, shape_of
from .options import confirm, database_option, id_argument, json_option, yes_option
from .rows import replay_row, row
from .session import author, transaction

if TYPE_CHECKING:
    from uuid import UUID

    from outbox.replays import Replay

_COLUMNS = (
    "id", "state", "made", "counted", "mode", "rate", "type", "subscription_id", "event_id",
    "tenant", "subject", "since", "until", "actor", "error",
)  # fmt: skip
_BEHIND = ("subscription_id", "state", "url", "state_reason")


@click.group("replays")
@database_option()
def commands() -> None:
    """List, show and cancel replays.

    `outbox replay` begins one.

    \b
    Example:
      outbox replays list
    """


@commands.command("list")
@click.option("--state", type=click.Choice(replays.STATES), help="Only in this state.")
@list_options
@database_option()
def list_(limit: int | None, before: UUID | None, **wanted: Any) -> None:
    """List replays, newest first.

    \b
    Example:
      outbox replays list --state running
    """
    shape = shape_of(wanted)
    with transaction() as connection:

        def fetch(before: UUID | None, limit: int) -> list[Replay]:
            return replays.list_replays(connection, before=before, limit=limit, **wanted)

        found = paged(fetch, shape, limit=limit, before=before)
        output.many(map(replay_row, found), _COLUMNS, shape)


@commands.command()
@id_argument
@json_option
@database_option()
def show(id: UUID, as_json: bool) -> None:
    """Show how far a replay is, and what became of its deliveries.

    With the subscriptions that take theirs slower than the others, or are stopped.

    \b
    Example:
      outbox replays show 0190163d-9a11-7c3e-9d5c-0b6f0b7f3c55
    """
    with transaction() as connection:
        found = replays.show(connection, id)
        shown = replay_row(found) | replays.fates(connection, id)
        behind = [row(each) for each in replays.behind(connection, found)]
    if as_json:
        output.document(shown | {"behind": behind})
        return
    output.one(shown, as_json=False)
    if behind:
        output.section("behind the others")
        output.many(behind, _BEHIND, TABLE)


@commands.command()
@id_argument
@click.option(
    "--deliveries", "and_deliveries", is_flag=True, help="End those still open, too, as cancelled."
)
@yes_option
@json_option
@database_option()
def cancel(id: UUID, and_deliveries: bool, yes: bool, as_json: bool) -> None:
    """Let a replay make no more deliveries.

    Those it has made go on, unless `--deliveries` ends them as well, which works for a
    replay that has ended, too. A request that is in flight is not called back.

    \b
    Example:
      outbox replays cancel 0190163d-9a11-7c3e-9d5c-0b6f0b7f3c55
    """
    if and_deliveries:
        with transaction() as connection:
            open_ = replays.fates(connection, replays.show(connection, id).id)["open"]
        question = f"Cancel it and its {open_:,} open deliveries?"
        confirm(question, yes=yes, otherwise="nothing was cancelled")
    with transaction() as connection:
        if not and_deliveries or replays.show(connection, id).state == "running":
            replays.cancel(connection, id, author())
        ended = replays.cancel_deliveries(connection, id, author()) if and_deliveries else 0
        shown = replay_row(replays.show(connection, id)) | {"cancelled": ended}
    output.one(shown, as_json=as_json)
