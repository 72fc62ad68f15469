"""`outbox events`: what happened."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

import outbox
from outbox import Catalogue, Event, InvalidInput, WrongState, erasure, events, matching, trials
from outbox.deliveries import list_deliveries
from outbox.event_filter import EventFilter
from outbox.repairs import SLICE

from . import output, waiting
from .documents import pretty
from .listing import TABLE, list_options, paged, shape_of
from .matching_print import matching_row, print_matching
from .options import (
    confirm,
    database_option,
    id_argument,
    json_option,
    moment_option,
    parse_json,
    text_option,
    yes_option,
)
from .program import WrongUse
from .rows import delivery_row, event_row
from .session import author, connected, open_engine, transaction

if TYPE_CHECKING:
    from uuid import UUID

    from outbox.events import StoredEvent

    from .rows import Row

_COLUMNS = ("id", "occurred_at", "type", "tenant", "subject", "source", "due_at")
_DELIVERY_COLUMNS = ("id", "state", "attempt", "status", "due_at", "url", "held", "error")
ALL = 2**31
NOBODY = {"matching": [], "others": [], "others_in_all": 0}


@click.group("events")
@database_option()
def commands() -> None:
    """Emit, list, show and retry events, and wait for their waiting.

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
    type=waiting.SECONDS,
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
    waiting.wait(id, wait, as_json=as_json)


@commands.command("wait")
@id_argument
@click.option(
    "--timeout",
    type=waiting.SECONDS,
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
    waiting.wait(id, timeout, as_json=as_json)


@commands.command("list")
@click.option("--type", metavar="PATTERN", help="An event type, or a pattern such as invoice.*")
@text_option("--tenant", help="Only events of this tenant.", max_chars=255)
@text_option("--subject", help="Only events about this subject.")
@text_option("--source", help="Only events from there.")
@moment_option("--since", help="Written from then on, such as 24h (ago) or 2026-01-31T09:00Z.")
@moment_option("--until", help="Written before then.")
@text_option("--text", help="In the data as it is stored, to the letter.")
@click.option(
    "--waiting", "fan_out", flag_value="waiting", help="Only those that wait for their fan-out."
)
@click.option(
    "--set-aside", "fan_out", flag_value="set aside", help="Only those whose fan-out failed."
)
@list_options
@database_option()
def list_(limit: int | None, before: UUID | None, **options: Any) -> None:
    """List events, newest first.

    \b
    Example:
      outbox events list --type 'invoice.*' --since 24h --limit 10
    """
    shape = shape_of(options)
    wanted = EventFilter(**options)
    with transaction() as connection:

        def fetch(before: UUID | None, limit: int) -> list[StoredEvent]:
            return events.list_events(connection, wanted, before=before, limit=limit)

        found = paged(fetch, shape, limit=limit, before=before)
        output.many(map(event_row, found), _COLUMNS, shape)


@commands.command()
@click.argument("ids", type=click.UUID, nargs=-1, metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All that are set aside.")
@json_option
@database_option()
def retry(ids: tuple[UUID, ...], every: bool, as_json: bool) -> None:
    """Fan out events again whose fan-out failed and that were set aside.

    `events list --set-aside` lists them, `events show` says why. The workers fan them out
    at once; what fails again is set aside again.

    \b
    Example:
      outbox events retry 0190163d-8694-739b-aea5-966c26f8ad91
      outbox events retry --all
    """
    if every == bool(ids):
        raise WrongUse("say which events: by their ids, or --all")
    retried = _retry_all() if every else _retry(ids)
    output.one({"retried": retried}, as_json=as_json)


def _retry(ids: tuple[UUID, ...]) -> int:
    with transaction() as connection:
        retried = events.fan_out_again(connection, ids, limit=len(ids))
        for id in set(ids).difference(retried):
            events.show_event(connection, id)
            state = events.fan_out_state(connection, id)
            raise WrongState("the fan-out of event", str(id), state, "retried")
    return len(retried)


def _retry_all() -> int:
    retried, after = 0, None
    with connected() as connection:
        with connection.begin():
            total = events.count_set_aside(connection)
        with output.Bar("retry", total) as bar:
            while True:
                with connection.begin():
                    found = events.fan_out_again(connection, after=after, limit=SLICE)
                retried += len(found)
                bar.show(retried)
                if len(found) < SLICE:
                    return retried
                after = found[-1]


@commands.command()
@id_argument
@json_option
@database_option()
def show(id: UUID, as_json: bool) -> None:
    """Show an event with its data and deliveries, and whom it matches.

    For each subscription that matches it now, whether it has a delivery, or why not; for
    some of the others, why they do not match.

    \b
    Example:
      outbox events show 0190163d-8694-739b-aea5-966c26f8ad91
    """
    with transaction() as connection:
        stored = events.show_event(connection, id)
        event = event_row(stored)
        event["fan_out"] = events.fan_out_state(connection, id)
        event["fan_out_error"] = events.fan_out_error(connection, id)
        found = list_deliveries(connection, event_id=id, limit=ALL)
        explained = matching.explain_event(connection, stored)
        fates = matching.fates(connection, stored, explained)
    deliveries = [delivery_row(each) for each in found]
    is_test = trials.is_test(stored)
    if as_json:
        row = event | {"deliveries": deliveries, "is_test": is_test}
        output.document(row | (NOBODY if is_test else matching_row(explained, fates)))
        return
    _print(event, deliveries)
    if is_test:
        output.line("A test: it is for one subscription alone.")
    else:
        print_matching(explained, fates)


@commands.command("erase")
@text_option("--subject", help="All events about it, such as user/42.")
@text_option("--tenant", help="Of this tenant; else of none.", max_chars=255)
@click.option("--dry-run", is_flag=True, help="Count them, and stop.")
@yes_option
@json_option
@database_option()
def erase_(
    subject: str | None, tenant: str | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Erase what events say about a subject.

    Their data becomes null and what receivers answered is deleted; open deliveries of them
    are cancelled. That they happened, and what became of them, stays on record.

    \b
    Example:
      outbox events erase --subject user/42 --tenant acme
    """
    if subject is None:
        raise WrongUse("--subject is missing: whose data is to go?")
    with transaction() as connection:
        found = erasure.count(connection, subject, tenant=tenant)
    if dry_run:
        output.one({"events": found}, as_json=as_json)
        return
    confirm(f"Erase what {found:,} events say about {subject}?", yes=yes,
            otherwise="nothing was erased")  # fmt: skip
    events_ = cancelled = 0
    with open_engine() as engine, output.Bar("events", found) as bar:
        for done in erasure.erase_by_day(engine, subject, tenant=tenant, by=author()):
            events_, cancelled = events_ + done.events, cancelled + done.cancelled
            bar.show(events_)
    output.one({"erased": events_, "cancelled": cancelled}, as_json=as_json)


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
