"""A request as a command for `sh`, to be tried by hand.

It sends what a worker would send, to the byte, and nothing that curl adds of its own. What
a subscription put in that looks like a credential stays out of it: such a header takes
its value from a variable of the shell.
"""

from __future__ import annotations

import re
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from outbox.request import Outgoing

MAX_ARGUMENT = 100_000  # bytes; Linux takes 128 KiB
_UNSET = ("accept:", "expect:")  # curl's own headers, which a worker does not send


def curl_command(made: Outgoing, hidden: Collection[str]) -> str:
    """Return the command that sends `made`; headers that are `hidden` come from variables."""
    lines = [f"curl --include --globoff --path-as-is --request {made.method} {quote(made.url)}"]
    lines += [f"  --header {quote(each)}" for each in _UNSET]
    lines += [f"  --header {_header(*header, hidden)}" for header in made.headers]
    first, data = _data(made.body)
    return first + " \\\n".join([*lines, f"  --data-binary {data}"])


def variable(header: str) -> str:
    """Return the variable that the value of a header is taken from.

    >>> variable("x-api-key")
    'X_API_KEY'
    """
    return re.sub("[^A-Z0-9]", "_", header.upper())


def _header(name: bytes, value: bytes, hidden: Collection[str]) -> str:
    shown = name.decode()
    if shown in hidden:
        return f'{quote(f"{shown}: ")}"${{{variable(shown)}}}"'
    return quote(f"{shown}: {value.decode()}")


def _data(body: bytes) -> tuple[str, str]:
    """Return the body as an argument, or how it is piped in if it cannot be one.

    What a terminal would take for a command, or does not show, is written as octal digits.
    """
    text = body.decode()
    if len(body) <= MAX_ARGUMENT and all(c.isprintable() or c == "\n" for c in text):
        return "", quote(text)
    return f"printf %b '{''.join(map(_escaped, body))}' |\n", "@-"


def _escaped(byte: int) -> str:
    plain = 0x20 <= byte < 0x7F and byte not in b"\\'"
    return chr(byte) if plain else f"\\0{byte:03o}"
