"""`outbox replay`: past events again."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from outbox import fleet, replays, subscriptions
from outbox.limits import check_limits, parse_rate
from outbox.replays import Selection

from . import output
from .layout import span
from .listing import TABLE
from .options import (
    confirm,
    database_option,
    json_option,
    moment_option,
    text_option,
    yes_option,
)
from .program import Failure, WrongUse
from .rows import replay_row
from .session import author, transaction

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from outbox.replays import Replay

    from .rows import Row

POLL = 0.5  # seconds between two looks at how far it is
PATIENCE = 10.0  # seconds without a step after which the reason is told

_COLUMNS = ("subscription_id", "deliveries", "state", "url")


@click.command("replay")
@click.option("--event", "event_id", type=click.UUID, metavar="ID", help="This event alone.")
@click.option(
    "--subscription", "subscription_id", type=click.UUID, metavar="ID",
    help="To this subscription alone.",
)  # fmt: skip
@click.option("--type", metavar="PATTERN", help="An event type, or a pattern such as invoice.*")
@text_option("--tenant", help="Only events of this tenant.", max_chars=255)
@text_option("--subject", help="Only events about this subject.")
@moment_option("--since", help="Only events stored from then on; 24h is so long ago.")
@moment_option("--until", help="Only events stored before then.")
@click.option("--missing", is_flag=True, help="Only what a subscription never had a delivery of.")
@click.option("--dead", is_flag=True, help="Only what is dead, and neither open nor delivered.")
@click.option("--rate", metavar="N/s", help="So many deliveries a second; else as there is room.")
@click.option("--dry-run", is_flag=True, help="Count, and do nothing.")
@click.option("--detach", is_flag=True, help="Do not wait until the deliveries are made.")
@yes_option
@json_option
@database_option()
def replay(
    missing: bool, dead: bool, rate: str | None, dry_run: bool, detach: bool, yes: bool,
    as_json: bool, **wanted: Any,
) -> None:  # fmt: skip
    """Deliver past events again, with the ids they have.

    Each event goes to each subscription that matches it now. They are counted first.
    The workers make the deliveries in the background, behind live traffic; Ctrl-C leaves
    them at it, and `outbox replays cancel` stops them. To a stopped subscription they are
    held.

    \b
    Example:
      outbox replay --subscription 0190163d-8694-739b-aea5-966c26f8ad91 \\
        --missing --rate 500/s
      outbox replay --type 'invoice.*' --since 24h --dry-run
    """
    selection = Selection(mode=_mode(missing, dead), **wanted)
    speed = check_limits(rate=None if rate is None else parse_rate(rate))["rate"]
    shares = _shares(selection)
    if dry_run or not shares:
        _print(shares, as_json)
        return
    total = _total(shares)
    if not as_json:
        output.note(_intention(shares, speed))
    confirm("Go on?", yes=yes, otherwise="nothing was replayed")
    with transaction() as connection:
        begun = replays.start(connection, selection, rate=speed, counted=total, by=author())
        reason = None if fleet.alive(connection) else _NOBODY
    if reason or not as_json:
        output.note(f"Replay {begun.id} is running. {reason or ''}".strip())
    ended = begun if detach else _watched(begun, quiet=as_json)
    output.one(replay_row(ended), as_json=as_json)


_NOBODY = "No worker is alive: it goes on as soon as one is."


def _mode(missing: bool, dead: bool) -> str:
    if missing and dead:
        raise WrongUse("--missing and --dead are two selections; give one")
    return "missing" if missing else "dead" if dead else "all"


def _shares(selection: Selection) -> list[Row]:
    """Return how much each subscription would get, the most first."""
    with transaction() as connection:
        counts = replays.count(connection, selection)
        known = {each.id: each for each in subscriptions.list_subscriptions(connection)}
    found = ((number, known[id]) for id, number in counts.items() if id in known)
    rows: list[Row] = [
        {"subscription_id": each.id, "deliveries": number, "state": each.state, "url": each.url}
        for number, each in found
    ]
    return sorted(rows, key=lambda row: (-row["deliveries"], row["subscription_id"]))


def _total(shares: list[Row]) -> int:
    return sum(share["deliveries"] for share in shares)


def _intention(shares: list[Row], rate: float | None = None) -> str:
    """Say what is going to be made."""
    total, receivers = _total(shares), len(shares)
    what = "1 delivery" if total == 1 else f"{total:,} deliveries"
    whom = "1 subscription" if receivers == 1 else f"{receivers:,} subscriptions"
    pace = "" if rate is None else f", in {span(total / rate)} at {rate:,g}/s"
    stopped = sum(share["state"] != "active" for share in shares)
    held = f" {stopped:,} of them stopped: theirs are held." if stopped else ""
    return f"{what} of past events to {whom}{pace}.{held}"


def _print(shares: list[Row], as_json: bool) -> None:
    if as_json:
        output.document({"deliveries": _total(shares), "subscriptions": shares})
        return
    output.line(_intention(shares))
    if shares:
        output.many(shares, _COLUMNS, TABLE)


def _watched(begun: Replay, *, quiet: bool) -> Replay:
    """Show how far it is until it has ended, and return it as it is then."""
    try:
        with nullcontext() if quiet else output.Bar("replay", begun.counted) as bar:
            ended = _watch(begun, bar)
    except KeyboardInterrupt:
        output.note(f"It goes on until: outbox replays cancel {begun.id}")
        raise
    if ended.state != "done":
        raise Failure(f"replay {ended.id} is {ended.state}: {ended.error}")
    return ended


def _watch(begun: Replay, bar: output.Bar | None) -> Replay:
    moved_at, still_since, told = begun.moved_at, time.monotonic(), ""
    while True:
        with transaction() as connection:
            found = replays.show(connection, begun.id)
            late = time.monotonic() - still_since > PATIENCE
            reason = _reason(connection, found) if late else ""
        if bar:
            bar.show(found.made, last=found.state != "running")
            if reason and reason != told:
                bar.note(told := reason)
        if found.state != "running":
            return found
        if found.moved_at != moved_at:
            moved_at, still_since = found.moved_at, time.monotonic()
        time.sleep(POLL)


def _reason(connection: Connection, running: Replay) -> str:
    """Return why nothing is made at the moment."""
    if not fleet.alive(connection):
        return _NOBODY
    behind = replays.behind(connection, running)
    stopped = [
        f"{each.subscription_id} is {each.state}" for each in behind if each.state != "active"
    ]
    if stopped:
        return f"It waits for subscriptions: {', '.join(stopped[:3])}."
    return "It waits until there is room: what is open comes first."
