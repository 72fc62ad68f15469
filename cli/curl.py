"""A request as a command for `sh`, to be tried by hand.

It sends these bytes and nothing that curl adds of its own, and holds no character that a
terminal would obey. What looks like a credential stays out of it: such a header takes its
value from a variable of the shell.
"""

from __future__ import annotations

import re
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MAX_ARGUMENT = 100_000  # bytes; Linux takes 128 KiB
CONNECTION = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_OWN = ("accept", "expect", "user-agent", "content-type")  # curl sends its own unless told not to


def curl(
    method: str,
    url: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    hidden: Collection[str] = (),
) -> str:
    r"""Return the command that sends this request; headers that are `hidden` come from variables.

    >>> print(curl("PUT", "http://127.0.0.1/", [("X-A", "it's"), ("User-Agent", "a")], b"{}"))
    curl --include --globoff --path-as-is --request PUT http://127.0.0.1/ \
      --header accept: \
      --header expect: \
      --header content-type: \
      --header 'X-A: it'"'"'s' \
      --header 'User-Agent: a' \
      --data-raw '{}'
    """
    given = [header for header in headers if header[0].lower() not in CONNECTION]
    names = {name.lower() for name, _ in given}
    verb = "--head" if method == "HEAD" else f"--request {_quoted(method)}"
    lines = [f"curl --include --globoff --path-as-is {verb} {_quoted(url)}"]
    lines += [f"  --header {name}:" for name in _OWN if name not in names and _sends(name, body)]
    lines += [f"  --header {_header(name, value, hidden)}" for name, value in given]
    first, data = _data(body)
    lines += [f"  {data}"] if body else []
    return first + " \\\n".join(lines)


def variable(header: str) -> str:
    """Return the variable that the value of a header is taken from.

    >>> variable("x-api-key")
    'X_API_KEY'
    """
    return re.sub("[^A-Z0-9]", "_", header.upper())


def _sends(name: str, body: bytes) -> bool:
    return name != "content-type" or bool(body)


def _header(name: str, value: str, hidden: Collection[str]) -> str:
    if name in hidden:
        return f'{quote(f"{name}: ")}"${{{variable(name)}}}"'
    return _quoted(f"{name}: {value}" if value else f"{name};")  # so curl sends it empty


def _data(body: bytes) -> tuple[str, str]:
    """Return how the body is piped in if it cannot be an argument, and the option that takes it."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\0"
    if len(body) <= MAX_ARGUMENT and all(c.isprintable() or c == "\n" for c in text):
        return "", f"--data-raw {quote(text)}"  # an @ at its beginning is one
    return f"printf %b '{''.join(map(_octal, body))}' |\n", "--data-binary @-"


def _quoted(text: str) -> str:
    """All but the body is bytes read as Latin-1."""
    if text.isascii() and text.isprintable():
        return quote(text)
    return f"\"$(printf %b '{''.join(map(_octal, text.encode('latin-1')))}')\""


def _octal(byte: int) -> str:
    plain = 0x20 <= byte < 0x7F and byte not in b"\\'"
    return chr(byte) if plain else f"\\0{byte:03o}"
