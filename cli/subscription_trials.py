"""`outbox subscriptions`: what one would be sent, what a test comes to, who gets an event."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from outbox import InvalidInput, fleet, matching, subscriptions, trials
from outbox.encoding import encode
from outbox.previews import preview

from . import output
from .given_data import given_data
from .matching_print import matching_row, print_matching
from .options import database_option, id_argument, json_option, text_option
from .program import Failure
from .rows import attempt_row, phases, request_row
from .session import author, engine, transaction

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

    from outbox.trials import Seen, Trial

    from .rows import Row

_ATTEMPT = ("outcome", "status", "duration_ms", "phases", "error_class", "error")


@click.command("preview")
@id_argument
@click.option("--event", "event_id", type=click.UUID, required=True, metavar="ID", help="Of what.")
@click.option("--body", "body_alone", is_flag=True, help="Print the bytes of the body and no more.")
@json_option
@database_option()
def preview_(id: UUID, event_id: UUID, body_alone: bool, as_json: bool) -> None:
    """Show the request that would bring an event to a subscription.

    Its first attempt, if it were made now: the signatures are real, so whoever sees them
    can send it. Headers of the subscription whose names sound like credentials are shown
    without their values. Host and Content-Length are added when it is sent. Whether the
    event matches is not asked.

    \b
    Example:
      outbox subscriptions preview 0190163d-8694-739b-aea5-966c26f8ad91 \\
        --event 01a2013d-9b06-7bad-9092-2ccb5c7561ea
    """
    with transaction() as connection:
        found = subscriptions.show(connection, id)
        request = preview(connection, id, event_id, now=time.time())
    if body_alone:
        output.raw(request.body)
    else:
        output.request(request_row(request, found), as_json=as_json)


@click.command()
@id_argument
@click.option("--type", default=trials.TYPE, show_default=True, help="Of this event type.")
@click.option("--data", metavar="JSON", help="JSON, or @FILE, or - for stdin.")
@click.option(
    "--timeout", type=click.IntRange(1, 3_600), default=30, show_default=True,
    metavar="SECONDS", help="Wait for its answer so long.",
)  # fmt: skip
@json_option
@database_option()
def test(id: UUID, type: str, data: str | None, timeout: int, as_json: bool) -> None:
    """Send a test event to a subscription alone, and show what comes of it.

    It goes the real way, by a worker, whatever the subscription subscribes to, and is
    tried once. Its data is the example of its type, unless it is given. A failure counts
    for nothing. The exit code is 0 only if it was delivered.

    \b
    Example:
      outbox subscriptions test 0190163d-8694-739b-aea5-966c26f8ad91 \\
        --type invoice.paid --data '{"id": 1}'
    """
    value = None if data is None else given_data(data)
    with engine() as found:
        with found.begin() as connection:
            if not fleet.alive(connection):
                raise Failure("no worker is alive: nothing was sent; start outbox-worker")
            trial = trials.begin(connection, id, by=author(), type=type, data=value)
        try:
            seen = trials.wait(found, trial, timeout=timeout)
        finally:
            with found.begin() as connection:
                trials.end(connection, trial)
        with found.begin() as connection:
            row = _trial_row(connection, id, trial, seen)
            silent = _why_silent(connection, seen)
    if as_json:
        output.document(row)
    else:
        _print_trial(row)
    if not seen.delivered:
        raise Failure(f"the test was not delivered: {silent or row['attempts'][-1]['error']}")


def _trial_row(connection: Connection, id: UUID, trial: Trial, seen: Seen) -> Row:
    attempts = [attempt_row(each) for each in seen.attempts]
    sent = [each for each in seen.attempts if each.started_at]
    request: Row | None = None
    if sent and (started := sent[-1].started_at):
        try:
            made = preview(
                connection, id, trial.event_id, now=started.timestamp(), attempt=sent[-1].attempt
            )
            request = request_row(made, subscriptions.show(connection, id))
        except InvalidInput as error:  # the keys of this machine do not open the secrets
            request = {"error": f"the request cannot be shown: {error}"}
    return {
        "event_id": trial.event_id, "delivery_id": trial.delivery_id,
        "delivered": seen.delivered, "request": request, "attempts": attempts,
    }  # fmt: skip


def _why_silent(connection: Connection, seen: Seen) -> str | None:
    """Why there is no answer, None if there is one."""
    if seen.over:
        return None
    if seen.delivery.in_flight:
        return "the time is over, and its request is still in flight"
    if not fleet.alive(connection):
        return "the time is over, and no worker is alive any more"
    return "the time is over, and no worker has come to it; the receiver may have asked for a pause"


def _print_trial(row: Row) -> None:
    output.one({name: row[name] for name in ("event_id", "delivery_id")}, as_json=False)
    request = row["request"]
    if request and "error" in request:
        output.section("request", request["error"])
    elif request:
        output.section("request")
        output.request(request, as_json=False)
    for each in row["attempts"]:
        output.section(f"attempt {each['attempt']}")
        told = each | {"phases": phases(each)}
        output.one({name: told[name] for name in _ATTEMPT if told[name] is not None}, as_json=False)
        if each["response_body"] is not None:
            output.section("response", each["response_body"])


@click.command()
@click.option("--type", required=True, metavar="TYPE", help="The event type.")
@text_option("--tenant", help="Whose event it is.", max_chars=255)
@click.option(
    "--data", metavar="JSON", help="JSON, or @FILE, or - for stdin; without it no filter is asked."
)
@click.option(
    "--operational", is_flag=True, help="One that the outbox itself emits, such as delivery.dead."
)
@click.option(
    "--others", type=click.IntRange(0, 1_000), default=matching.OTHERS, show_default=True,
    metavar="N", help="So many of those that do not match.",
)  # fmt: skip
@json_option
@database_option()
def match(
    type: str, tenant: str | None, data: str | None, operational: bool, others: int, as_json: bool
) -> None:
    """Show who would get an event, and why others would not.

    \b
    Example:
      outbox subscriptions match --type invoice.paid --tenant acme \\
        --data '{"amount": 120}'
    """
    text = None if data is None else encode(given_data(data))
    with transaction() as connection:
        found = matching.explain(
            connection, type=type, tenant=tenant, data=text, ours=operational, others=others
        )
    if as_json:
        output.document(matching_row(found))
    else:
        print_matching(found)
