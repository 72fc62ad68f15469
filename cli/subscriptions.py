"""`outbox subscriptions`: who wants to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from outbox import health, subscriptions
from outbox.headers import check_headers, merged

from . import output
from .listing import TABLE, list_options, paged, shape_of, shape_options
from .options import (
    allow_option,
    database_option,
    id_argument,
    json_option,
    moment_option,
    text_option,
)
from .rows import change_row, differences_row, failing_row, health_row, subscription_row
from .secret_text import given_secret, note, print_secret, secret_options, secret_row
from .session import author, transaction
from .subscription_files import apply, export
from .subscription_options import (
    UNSETTABLE,
    given_settings,
    settings_options,
    unset_settings,
)
from .subscription_print import print_changes, print_differences, print_health, print_subscription
from .subscription_states import disable, pause, remove, resume, rotate_secret, unblock
from .subscription_trials import match, preview_, test

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from outbox.subscriptions import Change

_COLUMNS = ("id", "name", "state", "types", "tenant", "url", "filter", "failing", "state_reason")
_CHANGE_COLUMNS = ("changed_at", "revision", "change", "actor", "command", "differs")


@click.group("subscriptions")
@database_option()
def commands() -> None:
    """Add, change, list, pause and remove subscriptions.

    \b
    Example:
      outbox subscriptions list
    """


@commands.command()
@click.argument("url")
@click.option("--types", required=True, metavar="LIST", help="Event types or patterns, by commas.")
@settings_options
@secret_options
@allow_option
@json_option
@database_option()
def add(secret_file: str | None, ed25519: bool, allow: Any, as_json: bool, **options: Any) -> None:
    """Send matching events to URL, signed with a secret.

    A new secret is made unless one is given; it is shown now and never again. Data passes
    a filter if its path yields something that is neither false nor null.

    \b
    Example:
      outbox subscriptions add https://example.com/hooks --name billing \\
        --types 'invoice.*,user.created' --filter '$.amount > 100'
      outbox subscriptions add https://example.com/logto \\
        --types '*' --format logto --secret-file signing-key
    """
    wanted = given_settings(options)
    check_headers(wanted.get("headers", {}))
    given = given_secret(secret_file, ed25519)
    with transaction() as connection:
        added, secret = subscriptions.add(
            connection, **wanted, by=author(), secret_text=given, allow=allow
        )
    print_subscription(subscription_row(added) | secret_row(secret), as_json)
    if not as_json:
        note(secret)


@commands.command()
@id_argument
@click.option("--url", metavar="URL", help="Send to this one from now on.")
@click.option("--types", metavar="LIST", help="Event types or patterns, by commas.")
@settings_options
@click.option(
    "--unset", multiple=True, type=click.Choice(list(UNSETTABLE)), metavar="NAME",
    help=f"Make it what it is without: {', '.join(UNSETTABLE)}. Repeatable.",
)  # fmt: skip
@secret_options
@allow_option
@json_option
@database_option()
def update(
    id: UUID, unset: tuple[str, ...], secret_file: str | None, ed25519: bool, allow: Any,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Change what is given of a subscription, and nothing else.

    Open deliveries go by it from their next attempt on. --header adds one to those there
    are, or takes it away: 'NAME:'. If no secret of the subscription fits a new scheme, it
    gets another beside it, which is shown now and never again; to change the secret alone
    there is rotate-secret.

    \b
    Example:
      outbox subscriptions update 0190163d-8694-739b-aea5-966c26f8ad91 \\
        --url https://example.com/v2 --rate 50/s --unset filter
    """
    given = given_settings(options)
    changes = given | unset_settings(unset, given)
    secret_text = given_secret(secret_file, ed25519)
    with transaction() as connection:
        if given.get("headers"):
            known = subscriptions.show(connection, id).headers
            changes["headers"] = check_headers(merged(known, given["headers"]))
        done = subscriptions.update(
            connection, id, by=author(), secret_text=secret_text, allow=allow, **changes
        )
    if as_json:
        told = {"changed": differences_row(done.differs)} | secret_row(done.secret)
        output.document(subscription_row(done.after) | told)
    elif not done.differs:
        output.line("Nothing to change: it is so already.")
    else:
        output.line(f"Subscription {id} is changed, revision {done.after.revision}.")
        print_differences(done.differs)
        print_secret(done.secret)


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
@moment_option("--since", default="24h", help="How it fared since then; 7d is so long ago.")
@json_option
@database_option()
def show(id: UUID, since: datetime, as_json: bool) -> None:
    """Show a subscription as it is now, and how it fares.

    Secrets are not shown, nor the values of headers whose names sound like credentials. Of
    very many deliveries the newest are looked at.

    \b
    Example:
      outbox subscriptions show 0190163d-8694-739b-aea5-966c26f8ad91 --since 7d
    """
    with transaction() as connection:
        found = subscriptions.show(connection, id)
        failing = health.failing(connection, [id]).get(id)
        report = health_row(health.report(connection, id, since=since))
    row = subscription_row(found) | failing_row(failing)
    print_subscription(row | {"health": report} if as_json else row, as_json)
    if not as_json:
        print_health(report)


@commands.command()
@id_argument
@list_options
@database_option()
def history(id: UUID, limit: int | None, before: UUID | None, **wanted: Any) -> None:
    """List every change to a subscription, newest first, also to a removed one.

    What differs from before, when it was changed, by whom and by which command. Secrets
    are no part of it, nor the values of headers whose names sound like credentials.

    \b
    Example:
      outbox subscriptions history 0190163d-8694-739b-aea5-966c26f8ad91
    """
    shape = shape_of(wanted)
    with transaction() as connection:

        def fetch(before: UUID | None, limit: int) -> list[Change]:
            return subscriptions.history(connection, id, before=before, limit=limit)

        found = paged(fetch, shape, limit=limit, before=before)
        if shape == TABLE:
            print_changes(found)
        else:
            output.many(map(change_row, found), _CHANGE_COLUMNS, shape)


for command in (
    pause, resume, disable, unblock, rotate_secret, test, match, preview_, remove, apply, export,
):  # fmt: skip
    commands.add_command(command)
