"""The options and arguments that several commands have."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from outbox import InvalidInput
from outbox.addresses import parse_allow
from outbox.encoding import check_text
from outbox.moments import parse_moment

from . import output
from .program import Failure, WrongUse
from .session import URL, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., None]], Callable[..., None]]

id_argument = click.argument("id", type=click.UUID)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, for programs."
)

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")

allow_option = click.option(
    "--allow", metavar="LIST", envvar="OUTBOX_ALLOW", default="",
    callback=lambda _, __, text: parse_allow(text),
    help="Networks, addresses and names that may be called besides public addresses, by commas; "
    "else OUTBOX_ALLOW is taken. The worker needs the same.",
)  # fmt: skip


def database_option(*, envvar: str | None = None) -> Decorator:
    """`--database-url`. Of the program and a command, the one that is given last wins.

    Only the program itself reads the environment, so that it is the weakest.
    """
    return click.option(
        "--database-url", metavar="URL", envvar=envvar, callback=_remember, expose_value=False,
        help=f"postgresql://… or embedded:PATH; else {VARIABLE} is taken.",
    )  # fmt: skip


def text_option(
    name: str, *, help: str, max_chars: int = 1_024, required: bool = False
) -> Decorator:
    """An option whose value PostgreSQL, a header and a terminal can carry."""

    def check(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        return None if value is None else check_text(str(parameter.name), value, max_chars)

    return click.option(name, metavar="TEXT", callback=check, help=help, required=required)


def moment_option(name: str, *, help: str, default: str | None = None) -> Decorator:
    """An option whose value is a time, or how long ago that is."""

    def read(_: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
        if value is None:
            return None
        now = datetime.now(UTC)  # noqa: TID251 - the edge
        return parse_moment(str(parameter.name), value, now=now)

    return click.option(
        name, metavar="TIME", callback=read, help=help, default=default, show_default=True
    )


def confirm(question: str, *, yes: bool, otherwise: str) -> None:
    """Go on only if `yes`, or if the person at the terminal agrees; else end with `otherwise`."""
    if yes:
        return
    if not has_terminal():
        raise WrongUse("there is no terminal to ask on; pass --yes")
    if not output.confirmed(question):
        raise Failure(otherwise)


def has_terminal() -> bool:
    """Return whether there is someone to ask."""
    return sys.stdin.isatty()


def read_stdin() -> bytes:
    """Return all that stdin has."""
    return sys.stdin.buffer.read()


def content(field: str, text: str) -> str | bytes:
    """Return `text`, or what is in the FILE of `@FILE`, or on stdin for `-`."""
    if text == "-":
        return read_stdin()
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(field, f"cannot be read from {text[1:]}: {reason}") from error


def parse_json(field: str, text: str) -> object:
    """Return the value of JSON that was typed, or of a file or stdin; numbers keep their digits."""
    try:
        return json.loads(content(field, text), parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(field, f"is not JSON: {error}") from error


def _remember(context: click.Context, _: click.Parameter, url: Any) -> None:
    if url is not None:
        context.meta[URL] = url
