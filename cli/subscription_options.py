"""What a person can set of a subscription: the options that `add` and `update` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from outbox.event_types import parse_patterns
from outbox.formats import FORMATS
from outbox.headers import check_headers, split_headers
from outbox.limits import ORDERS, parse_rate
from outbox.schedule import parse_schedule
from outbox.schemes import SCHEMES
from outbox.subscription_settings import DEFAULTS, check_name

from .options import text_option
from .program import WrongUse

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = (
    text_option("--name", help="What people and files call it: letters, digits and . _ / -"),
    text_option(
        "--tenant", help="Only events of this tenant; else of every tenant.", max_chars=255
    ),
    click.option("--filter", metavar="JSONPATH", help="An SQL/JSON path over the data."),
    click.option(
        "--header", "headers", multiple=True, metavar="'NAME: VALUE'",
        help="Send it with each request. Repeatable.",
    ),
    click.option(
        "--schedule", metavar="LIST",
        help="The delay before each attempt, such as '0s, 5s, 5m, 2h'.",
    ),
    click.option(
        "--max-age", type=float, metavar="SECONDS", help="Give a delivery up after so long."
    ),
    click.option("--timeout", type=float, metavar="SECONDS", help="For one request in all."),
    click.option("--method", metavar="NAME", help="POST, which is usual, PUT or PATCH."),
    click.option(
        "--format", metavar="NAME",
        help=f"How the body is made: {', '.join(FORMATS)}. The first is usual.",
    ),
    click.option(
        "--scheme", "schemes", multiple=True, metavar="NAME",
        help=f"How requests are signed: {', '.join(SCHEMES)}, or hmac:HEADER:hex|base64[:PREFIX]."
        " Repeatable. By default the format's own.",
    ),
    click.option("--user-agent", metavar="TEXT", help="Sent instead of ours, or the format's own."),
    click.option(
        "--max-in-flight", type=int, metavar="N", help="So many requests at once, by all."
    ),
    click.option(
        "--rate", metavar="N/s", help="So many requests a second, by all workers together."
    ),
    click.option("--burst", type=int, metavar="N", help="So many more in any one second."),
    click.option(
        "--ordered", metavar="|".join(ORDERS),
        help="One event of a subject after the other; behind a dead one stop, or skip it.",
    ),
)  # fmt: skip
_OPTION_OF = {"schemes": "scheme", "headers": "header"}
UNSETTABLE = {_OPTION_OF.get(name, name.replace("_", "-")): name for name in DEFAULTS}


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """All that can be set but url and types: for `given_settings`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the options name, checked as far as they can be alone.

    Headers may be empty here, which `update` takes as gone. What is not given is not there.
    """
    given = {
        name: value
        for name, value in options.items()
        if name in {*DEFAULTS, "url", "types"} and value not in (None, ())
    }
    for name, parse in _PARSERS.items():
        if name in given:
            given[name] = parse(given[name])
    return given


def unset_settings(names: tuple[str, ...], given: dict[str, Any]) -> dict[str, None]:
    """Return the settings of `--unset`, none of which may be given as well."""
    for name in names:
        if UNSETTABLE[name] in given:
            raise WrongUse(f"--{name} is given and unset; give one of both")
    return {UNSETTABLE[name]: None for name in names}


def _parse_headers(lines: tuple[str, ...]) -> dict[str, str]:
    headers = split_headers(lines)
    check_headers({name: value or "-" for name, value in headers.items()})
    return headers


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "name": check_name,
    "types": parse_patterns,
    "headers": _parse_headers,
    "schedule": parse_schedule,
    "rate": parse_rate,
}
