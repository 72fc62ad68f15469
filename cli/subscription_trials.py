"""`outbox subscriptions`: what one would be sent, what a test comes to, who gets an event."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from outbox import OutboxError, fleet, matching, subscriptions, trials
from outbox.encoding import encode
from outbox.previews import preview
from outbox.sent import request_of

from . import output, timeline
from .matching_print import matching_row, print_matching
from .options import database_option, id_argument, json_option, parse_json, text_option
from .program import Failure
from .rows import attempt_row, delivery_row, request_row, sent_row
from .session import author, open_engine, transaction

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

    from outbox.trials import Seen

    from .rows import Row


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
        output.request(request_row(request, found.headers), as_json=as_json)


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
    value = None if data is None else parse_json("data", data)
    with open_engine() as engine:
        with engine.begin() as connection:
            if not fleet.alive(connection):
                raise Failure("no worker is alive: nothing was sent; start outbox-worker")
            trial = trials.begin(connection, id, by=author(), type=type, data=value)
        try:
            seen = trials.wait(engine, trial, timeout=timeout)
        finally:
            with engine.begin() as connection:
                trials.end(connection, trial)
        with engine.begin() as connection:
            delivery, attempts, request = _rows(connection, trials.look(connection, trial))
            why = None if seen.delivered else _why(connection, seen)
    if as_json:
        output.document(delivery | {"attempts": attempts, "request": request})
    else:
        timeline.show(delivery, attempts, request)
    if why is not None:
        raise Failure(f"the test was not delivered: {why}")


def _rows(connection: Connection, seen: Seen) -> tuple[Row, list[Row], Row | None]:
    workers = fleet.names(connection, {each.worker_id for each in seen.attempts if each.worker_id})
    attempts = [attempt_row(each, workers) for each in seen.attempts]
    request: Row | None = None
    if any(each.started_at for each in seen.attempts):
        try:
            request = sent_row(
                request_of(connection, seen.delivery, seen.attempts, now=time.time())
            )
        except OutboxError as error:  # such as a key that this machine does not have
            output.note(f"The request cannot be made again: {error}")
    return delivery_row(seen.delivery), attempts, request


def _why(connection: Connection, seen: Seen) -> str:
    if seen.over:
        return str(seen.attempts[-1].error)
    if seen.delivery.in_flight:
        return "the time is over, and its request is still in flight"
    if not fleet.alive(connection):
        return "the time is over, and no worker is alive any more"
    return "the time is over, and no worker has come to it; the receiver may have asked for a pause"


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
    text = None if data is None else encode(parse_json("data", data))
    with transaction() as connection:
        found = matching.explain(
            connection, type=type, tenant=tenant, data=text, ours=operational, others=others
        )
    if as_json:
        output.document(matching_row(found))
    else:
        print_matching(found)
