"""`outbox deliveries retry` and `cancel`: repairs, of one delivery or of a million.

They are counted first, then a person is asked, unless they were named by their ids. Slice
after slice is a transaction of its own: whoever stops it has done what was done, and goes
on by running it again.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from outbox import cancels, repairs
from outbox.delivery_filter import EVERYTHING
from outbox.repairs import Done

from . import output
from .delivery_options import filter_of, filter_options
from .options import confirm, database_option, json_option, text_option, yes_option
from .program import Interrupted, WrongUse
from .session import author, connected

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from sqlalchemy import Connection

    from outbox.delivery_filter import DeliveryFilter
    from outbox.repairs import Plan

    from .rows import Row


_ids = click.argument("ids", type=click.UUID, nargs=-1, metavar="[ID]...")
_dry_run = click.option("--dry-run", is_flag=True, help="Count, and change nothing.")


@click.command()
@_ids
@filter_options
@_dry_run
@yes_option
@json_option
@database_option()
def retry(
    ids: tuple[UUID, ...], dry_run: bool, yes: bool, as_json: bool, **options: Any
) -> None:  # fmt: skip
    """Try deliveries again, now: by their ids, or all that fit.

    A pending one becomes due now; its place in the schedule stays, and one in flight is left
    alone. A dead one gets a new delivery of the same event, so the same webhook-id, unless
    that was done already; the new ones bear the id of a replay, which says who asked. The
    same goes for cancelled ones if they are asked for: by id, or --state cancelled. If a
    dead one holds up its subject, the new one is sent first of that subject.

    It can be stopped at any time, and goes on when it is run again.

    \b
    Example:
      outbox deliveries retry 0190163d-9a11-7c3e-9d5c-0b6f0b7f3c55
      outbox deliveries retry --state dead --status 5xx --since 24h --dry-run
    """
    wanted = _wanted(ids, options)
    with connected() as connection:
        with connection.begin():
            plan = repairs.plan_retry(connection, wanted)
        if dry_run:
            output.one(_retried(plan.due_now, plan.again, dry_run=True), as_json=as_json)
            return
        if plan.chosen and not ids:
            question = f"Let {plan.due_now:,} be due now, and make {plan.again:,} again?"
            confirm(question, yes=yes, otherwise="nothing was retried")
        step = partial(repairs.retry_some, connection, plan, by=author())
        done = _run(connection, "retry", plan, step)
    output.one(_retried(done.due_now, done.made, done.replay_id), as_json=as_json)


@click.command()
@_ids
@filter_options
@text_option("--reason", help="Why, for those who look at it later.")
@_dry_run
@yes_option
@json_option
@database_option()
def cancel(
    ids: tuple[UUID, ...], reason: str | None, dry_run: bool, yes: bool, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """End pending deliveries: by their ids, or all that fit.

    Held ones as well. A request that is in flight may still arrive; what came of it is kept
    as `late`. A cancelled delivery stays cancelled: `retry` makes a new one of it.

    It can be stopped at any time, and goes on when it is run again.

    \b
    Example:
      outbox deliveries cancel 0190163d-9a11-7c3e-9d5c-0b6f0b7f3c55 \\
        --reason 'sent by mail'
      outbox deliveries cancel --state held --tenant acme --dry-run
    """
    wanted = _wanted(ids, options)
    with connected() as connection:
        with connection.begin():
            plan = cancels.plan_cancel(connection, wanted)
        if dry_run:
            output.one({"cancelled": plan.chosen, "dry_run": True}, as_json=as_json)
            return
        if plan.chosen and not ids:
            question = f"Cancel {plan.chosen:,} deliveries?"
            confirm(question, yes=yes, otherwise="nothing was cancelled")
        step = partial(cancels.cancel_some, connection, plan, by=author(), reason=reason)
        done = _run(connection, "cancel", plan, step)
    output.one({"cancelled": done.cancelled, "dry_run": False}, as_json=as_json)
    if done.missed:
        output.note(f"{done.missed:,} are in the hand of workers: run it again.")


def _retried(
    due_now: int, made: int, replay_id: UUID | None = None, *, dry_run: bool = False
) -> Row:
    return {"due_now": due_now, "made": made, "replay_id": replay_id, "dry_run": dry_run}


def _wanted(ids: tuple[UUID, ...], options: dict[str, Any]) -> DeliveryFilter:
    wanted = filter_of(options)
    if ids and wanted != EVERYTHING:
        raise WrongUse("give ids, or options that say which deliveries; not both")
    if not ids and wanted == EVERYTHING:
        raise WrongUse("say which deliveries: by their ids, or by an option such as --state")
    return replace(wanted, ids=tuple(dict.fromkeys(ids))) if ids else wanted


def _run(connection: Connection, what: str, plan: Plan, step: Callable[[Done], Done]) -> Done:
    """Repair slice after slice, each in a transaction, and show how far it is."""
    done = Done()
    with output.Bar(what, plan.chosen) as bar:
        try:
            while not done.finished:
                with connection.begin():
                    done = step(done)
                bar.show(done.seen)
        except KeyboardInterrupt:
            how_far = f"{done.seen:,} of {plan.chosen:,}"
            raise Interrupted(f"interrupted after {how_far}; run it again to go on") from None
    return done
