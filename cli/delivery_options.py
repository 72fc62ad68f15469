"""The options that say which deliveries: the same for lists and for repairs."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from outbox.delivery_filter import ERROR_CLASSES, HELD, OUTCOMES, STATES, DeliveryFilter

from .options import moment_option, text_option

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = (
    click.option(
        "--subscription", "subscription_id", type=click.UUID, metavar="ID",
        help="Only to this subscription.",
    ),
    click.option("--event", "event_id", type=click.UUID, metavar="ID", help="Only of this event."),
    click.option("--type", metavar="PATTERN", help="An event type, or a pattern like invoice.*"),
    text_option("--tenant", help="Only of events of this tenant.", max_chars=255),
    text_option("--subject", help="Only of events about this subject."),
    click.option(
        "--state", type=click.Choice((*STATES, HELD)), metavar="STATE",
        help=f"{', '.join(STATES)}, or {HELD}: pending, but not to be sent now.",
    ),
    click.option(
        "--outcome", type=click.Choice(OUTCOMES), metavar="OUTCOME",
        help=f"Of the last attempt: {', '.join(OUTCOMES)}.",
    ),
    click.option("--status", metavar="503|5xx", help="HTTP status of the last attempt."),
    click.option(
        "--error-class", type=click.Choice(ERROR_CLASSES), metavar="CLASS",
        help=f"Of the last attempt: {', '.join(ERROR_CLASSES)}.",
    ),
    moment_option("--since", help="Made from then on, such as 24h (ago) or 2026-01-31T09:00Z."),
    moment_option("--until", help="Made before then."),
    text_option("--text", help="In the event's data, or an error or response, to the letter."),
    click.option(
        "--replay", "replay_id", type=click.UUID, metavar="ID", help="Made by this replay."
    ),
)  # fmt: skip


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """All of a filter: the command gets them for `filter_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def filter_of(wanted: dict[str, Any]) -> DeliveryFilter:
    """Take the filter out of the options of a command. Raises InvalidInput."""
    names = [field.name for field in fields(DeliveryFilter) if field.name in wanted]
    return DeliveryFilter(**{name: wanted.pop(name) for name in names})
