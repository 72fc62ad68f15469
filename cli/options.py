"""The options and arguments that several commands have."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from outbox.addresses import parse_allow
from outbox.encoding import check_text

from .session import URL, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., None]], Callable[..., None]]

id_argument = click.argument("id", type=click.UUID)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, for programs."
)

limit_option = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True,
    metavar="N", help="At most so many.",
)  # fmt: skip

before_option = click.option(
    "--before", type=click.UUID, metavar="ID", help="Older ones: the last id of the page before."
)

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


def text_option(name: str, *, help: str, max_chars: int = 1_024) -> Decorator:
    """An option whose value PostgreSQL, a header and a terminal can carry."""

    def check(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        return None if value is None else check_text(str(parameter.name), value, max_chars)

    return click.option(name, metavar="TEXT", callback=check, help=help)


def has_terminal() -> bool:
    """Return whether there is someone to ask."""
    return sys.stdin.isatty()


def read_stdin() -> bytes:
    """Return all that stdin has."""
    return sys.stdin.buffer.read()


def _remember(context: click.Context, _: click.Parameter, url: Any) -> None:
    if url is not None:
        context.meta[URL] = url
