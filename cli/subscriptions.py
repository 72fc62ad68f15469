"""`outbox subscriptions`: who wants to know."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from outbox import health, subscriptions
from outbox.deliveries import count_open
from outbox.event_types import parse_patterns
from outbox.formats import FORMATS
from outbox.headers import parse_headers
from outbox.limits import parse_rate
from outbox.previews import preview
from outbox.schedule import format_schedule, parse_duration, parse_schedule
from outbox.schemes import SCHEMES

from . import output
from .listing import shape_of, shape_options
from .options import (
    allow_option,
    confirm,
    database_option,
    id_argument,
    json_option,
    text_option,
    yes_option,
)
from .rows import failing_row, request_row, subscription_row
from .secret_text import given_secret, note, secret_options, secret_row
from .session import author, transaction

if TYPE_CHECKING:
    from uuid import UUID

    from .rows import Row

_COLUMNS = ("id", "state", "types", "tenant", "url", "filter", "failing", "state_reason")


@click.group("subscriptions")
@database_option()
def commands() -> None:
    """Add, list, pause and remove subscriptions.

    \b
    Example:
      outbox subscriptions list
    """


@commands.command()
@click.argument("url")
@click.option("--types", required=True, metavar="LIST", help="Event types or patterns, by commas.")
@text_option("--tenant", help="Only events of this tenant; else of every tenant.", max_chars=255)
@click.option("--filter", metavar="JSONPATH", help="An SQL/JSON path over the data.")
@click.option(
    "--header", "headers", multiple=True, metavar="'NAME: VALUE'",
    help="Send it with each request. Repeatable.",
)  # fmt: skip
@click.option(
    "--schedule", metavar="LIST", help="The delay before each attempt, such as '0s, 5s, 5m, 2h'."
)
@click.option("--max-age", type=float, metavar="SECONDS", help="Give a delivery up after so long.")
@click.option("--timeout", type=float, metavar="SECONDS", help="For one request in all.")
@click.option("--method", default="POST", metavar="NAME", help="POST, PUT or PATCH.")
@click.option(
    "--format", default="standard", metavar="NAME",
    help=f"How the body is made: {', '.join(FORMATS)}.",
)  # fmt: skip
@click.option(
    "--scheme", "schemes", multiple=True, metavar="NAME",
    help=f"How requests are signed: {', '.join(SCHEMES)}, or hmac:HEADER:hex|base64[:PREFIX]."
    " Repeatable. By default the format's own.",
)  # fmt: skip
@click.option("--user-agent", metavar="TEXT", help="Sent instead of ours, or the format's own.")
@click.option("--max-in-flight", type=int, metavar="N", help="So many requests at once, by all.")
@click.option("--rate", metavar="N/s", help="So many requests a second, by all workers together.")
@click.option("--burst", type=int, metavar="N", help="So many more in any one second.")
@click.option(
    "--ordered",
    metavar="stop|skip",
    help="One event of a subject after the other; behind a dead one stop, or skip it.",
)
@secret_options
@allow_option
@json_option
@database_option()
def add(
    types: str, headers: tuple[str, ...], schemes: tuple[str, ...], schedule: str | None,
    rate: str | None, secret_file: str | None, ed25519: bool, as_json: bool, **wanted: Any,
) -> None:  # fmt: skip
    """Send matching events to URL, signed with a secret.

    A new secret is made unless one is given; it is shown now and never again. Data passes
    a filter if its path yields something that is neither false nor null.

    \b
    Example:
      outbox subscriptions add https://example.com/hooks \\
        --types 'invoice.*,user.created' --filter '$.amount > 100'
      outbox subscriptions add https://example.com/logto \\
        --types '*' --format logto --secret-file signing-key
    """
    wanted |= {
        "types": parse_patterns(types),
        "headers": parse_headers(headers),
        "schedule": None if schedule is None else parse_schedule(schedule),
        "rate": None if rate is None else parse_rate(rate),
        "schemes": schemes or None,
        "secret_text": given_secret(secret_file, ed25519),
    }
    with transaction() as connection:
        added, secret = subscriptions.add(connection, by=author(), **wanted)
    _print(subscription_row(added) | secret_row(secret), as_json)
    if not as_json:
        note(secret)


@commands.command("list")
@text_option("--tenant", help="Only those of this tenant.", max_chars=255)
@click.option("--all", "removed", is_flag=True, help="Those that were removed as well.")
@shape_options
@database_option()
def list_(tenant: str | None, removed: bool, **wanted: Any) -> None:
    """List subscriptions, oldest first, and which of them are failing.

    \b
    Example:
      outbox subscriptions list --tenant acme
    """
    shape = shape_of(wanted)
    with transaction() as connection:
        found = subscriptions.list_subscriptions(connection, tenant=tenant, removed=removed)
        failing = health.failing(connection, [each.id for each in found])
    rows = [subscription_row(each) | failing_row(failing.get(each.id)) for each in found]
    output.many(rows, _COLUMNS, shape)


@commands.command()
@id_argument
@json_option
@database_option()
def show(id: UUID, as_json: bool) -> None:
    """Show a subscription as it is now, and whether it is failing.

    Secrets are not shown, nor the values of headers whose names sound like credentials.

    \b
    Example:
      outbox subscriptions show 0190163d-8694-739b-aea5-966c26f8ad91
    """
    with transaction() as connection:
        found = subscriptions.show(connection, id)
        failing = health.failing(connection, [id]).get(id)
    _print(subscription_row(found) | failing_row(failing), as_json)


@commands.command()
@id_argument
@text_option("--reason", help="Why, for those who look at it later.")
@json_option
@database_option()
def pause(id: UUID, reason: str | None, as_json: bool) -> None:
    """Stop sending to a subscription.

    Its deliveries are held, new ones as well, until `resume`.

    \b
    Example:
      outbox subscriptions pause 0190163d-8694-739b-aea5-966c26f8ad91 \\
        --reason 'they migrate'
    """
    with transaction() as connection:
        paused = subscriptions.pause(connection, id, by=author(), reason=reason)
    _print(subscription_row(paused), as_json)


@commands.command()
@id_argument
@json_option
@database_option()
def resume(id: UUID, as_json: bool) -> None:
    """Send again to a paused or disabled one.

    \b
    Example:
      outbox subscriptions resume 0190163d-8694-739b-aea5-966c26f8ad91
    """
    with transaction() as connection:
        resumed = subscriptions.resume(connection, id, by=author())
    _print(subscription_row(resumed), as_json)


@commands.command()
@id_argument
@text_option("--subject", help="Only this one; else all that stand still.")
@shape_options
@database_option()
def unblock(id: UUID, subject: str | None, **wanted: Any) -> None:
    """Let subjects go on that stand still behind a dead delivery.

    A subscription that is `--ordered stop` sends no more events of a subject once one of
    them is dead.

    \b
    Example:
      outbox subscriptions unblock 0190163d-8694-739b-aea5-966c26f8ad91 \\
        --subject user/42
    """
    shape = shape_of(wanted)
    with transaction() as connection:
        freed = subscriptions.unblock(connection, id, by=author(), subject=subject)
    output.many([{"subject": each} for each in freed], ("subject",), shape)


@commands.command("rotate-secret")
@id_argument
@click.option(
    "--overlap", default="24h", show_default=True, metavar="TIME",
    help="So long the old secrets go on signing as well, such as 3600 or 24h.",
)  # fmt: skip
@secret_options
@json_option
@database_option()
def rotate_secret(
    id: UUID, overlap: str, secret_file: str | None, ed25519: bool, as_json: bool
) -> None:
    """Give a subscription a new secret.

    A new one of the same kind is made unless one is given; it is shown now and never again.
    The schemes standard and stripe sign with the old ones too until the overlap is over.
    The others have room for one signature: the new secret signs at once.

    \b
    Example:
      outbox subscriptions rotate-secret 0190163d-8694-739b-aea5-966c26f8ad91
    """
    with transaction() as connection:
        rotated, secret = subscriptions.rotate_secret(
            connection, id, by=author(), overlap=parse_duration("overlap", overlap),
            secret_text=given_secret(secret_file, ed25519),
        )  # fmt: skip
    _print(subscription_row(rotated) | secret_row(secret), as_json)
    if not as_json:
        note(secret)


@commands.command("preview")
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


@commands.command()
@id_argument
@yes_option
@json_option
@database_option()
def remove(id: UUID, yes: bool, as_json: bool) -> None:
    """End a subscription for good.

    Its open deliveries are cancelled, its secrets are deleted.

    \b
    Example:
      outbox subscriptions remove 0190163d-8694-739b-aea5-966c26f8ad91 --yes
    """
    if not yes:
        with transaction() as connection:
            found, open_ = subscriptions.show(connection, id), count_open(connection, id)
        question = f"Remove {found.url} and cancel its {open_:,} open deliveries?"
        confirm(question, yes=yes, otherwise="nothing was removed")
    with transaction() as connection:
        cancelled = count_open(connection, id)
        removed = subscriptions.remove(connection, id, by=author())
    _print(subscription_row(removed) | {"cancelled": cancelled}, as_json)


def _print(row: Row, as_json: bool) -> None:
    if row["schedule"] and not as_json:
        row["schedule"] = format_schedule(row["schedule"])
    output.one(row, as_json=as_json)
