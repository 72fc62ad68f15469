"""`outbox subscriptions`: stop them, let them go on, give them secrets, end them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from outbox import subscriptions
from outbox.deliveries import count_open
from outbox.schedule import parse_duration

from . import output
from .listing import shape_of, shape_options
from .options import (
    confirm,
    database_option,
    id_argument,
    json_option,
    text_option,
    yes_option,
)
from .rows import subscription_row
from .secret_text import given_secret, note, secret_options, secret_row
from .session import author, transaction
from .subscription_print import print_subscription

if TYPE_CHECKING:
    from uuid import UUID


@click.command()
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
    print_subscription(subscription_row(paused), as_json)


@click.command()
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
    print_subscription(subscription_row(resumed), as_json)


@click.command()
@id_argument
@text_option("--reason", required=True, help="Why, for those who look at it later.")
@json_option
@database_option()
def disable(id: UUID, reason: str, as_json: bool) -> None:
    """Stop sending to a subscription, and tell the operator of it.

    As a worker does it that finds nobody there: the event subscription.disabled is
    written. Its deliveries are held, new ones as well, until `resume`.

    \b
    Example:
      outbox subscriptions disable 0190163d-8694-739b-aea5-966c26f8ad91 \\
        --reason 'they left us'
    """
    with transaction() as connection:
        disabled = subscriptions.disable(connection, id, by=author(), reason=reason)
    print_subscription(subscription_row(disabled), as_json)


@click.command()
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


@click.command("rotate-secret")
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
    print_subscription(subscription_row(rotated) | secret_row(secret), as_json)
    if not as_json:
        note(secret)


@click.command()
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
    print_subscription(subscription_row(removed) | {"cancelled": cancelled}, as_json)
