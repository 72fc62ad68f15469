"""`outbox retention` and `outbox prune`: how long facts are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from outbox import retention
from outbox.schedule import format_schedule, parse_duration

from . import output
from .layout import size
from .listing import TABLE
from .options import confirm, database_option, json_option, yes_option
from .rows import row
from .session import author, open_engine, transaction

if TYPE_CHECKING:
    from outbox.retention import Day, Pruned, Retention

    from .rows import Row

FOREVER = "forever"
_COLUMNS = ("day", "size", "held")


@click.group("retention")
@database_option()
def commands() -> None:
    """Tell how long facts are kept, and change it.

    \b
    Example:
      outbox retention set 90d
    """


@commands.command()
@json_option
@database_option()
def show(as_json: bool) -> None:
    """Show how long facts are kept, and who said so.

    \b
    Example:
      outbox retention show
    """
    with transaction() as connection:
        found = retention.show(connection)
    output.one(_retention_row(found, as_json=as_json), as_json=as_json)


@commands.command("set")
@click.argument("keep", metavar="TIME|forever")
@json_option
@database_option()
def set_(keep: str, as_json: bool) -> None:
    """Keep events, deliveries and attempts for so long.

    Workers drop what is older once an hour, by whole days (UTC); `outbox prune` does it
    now. A day in which something is open is kept until that has ended. With the events
    their keys are forgotten: the same key is then a new event.

    \b
    Example:
      outbox retention set 90d
    """
    seconds = None if keep == FOREVER else parse_duration("keep", keep)
    with transaction() as connection:
        changed = retention.keep_for(connection, seconds, by=author())
    output.one(_retention_row(changed, as_json=as_json), as_json=as_json)


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would be dropped, and stop.")
@yes_option
@json_option
@database_option()
def prune(dry_run: bool, yes: bool, as_json: bool) -> None:
    """Drop what is past its retention, now.

    Day by day, each with short locks that no host waits for. What is still open is never
    dropped, nor is the day that it belongs to.

    \b
    Example:
      outbox prune --dry-run
    """
    with transaction() as connection:
        days = retention.past(connection)
    ready = [day for day in days if day.held is None]
    if dry_run or not ready:
        output.many([_day_row(day, as_json) for day in days], _COLUMNS, _shape(as_json))
        return
    bytes_ = sum(day.bytes for day in ready)
    question = f"Drop {len(ready):,} days from {ready[0].day} to {ready[-1].day}, {size(bytes_)}?"
    confirm(question, yes=yes, otherwise="nothing was dropped")
    with open_engine() as engine, output.Bar("days", len(ready)) as bar:
        done: list[Day] = []

        def dropped(day: Day) -> None:
            done.append(day)
            bar.show(len(done))

        pruned = retention.prune(engine, dropped=dropped)
    output.one(_pruned_row(pruned, as_json), as_json=as_json)


def _shape(as_json: bool) -> str:
    return "json" if as_json else TABLE


def _retention_row(found: Retention, *, as_json: bool) -> Row:
    keep: object = found.keep
    if not as_json:
        keep = FOREVER if found.keep is None else format_schedule([found.keep])
    return row(found) | {"keep": keep}


def _day_row(day: Day, as_json: bool) -> Row:
    shown = {"bytes": day.bytes} if as_json else {"size": size(day.bytes)}
    return {"day": day.day.isoformat(), **shown, "held": day.held}


def _pruned_row(pruned: Pruned, as_json: bool) -> Row:
    bytes_ = sum(day.bytes for day in pruned.dropped)
    freed = {"bytes": bytes_} if as_json else {"freed": size(bytes_)}
    return {
        "dropped": len(pruned.dropped), **freed, "held": len(pruned.held),
        "busy": len(pruned.busy), "keys": pruned.keys,
    }  # fmt: skip
