"""A request as a `curl` command that can be pasted into a shell."""

from __future__ import annotations

import re
import shlex
from base64 import b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .arrivals import Headers

CONNECTION = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_OWN = ("accept", "content-type", "user-agent")  # curl sends its own unless it is told not to


def curl(method: str, url: str, headers: Headers, body: bytes) -> str:
    r"""Return the command that sends this request again, byte for byte.

    >>> print(curl("POST", "http://127.0.0.1/", (("Accept", "*/*"), ("X-A", "it's")), b"{}"))
    curl -X POST http://127.0.0.1/ \
      -H 'Accept: */*' \
      -H 'X-A: it'"'"'s' \
      -H Content-Type: \
      -H User-Agent: \
      --data-raw '{}'
    """
    given = [(name, value) for name, value in headers if name.lower() not in CONNECTION]
    names = {name.lower() for name, _ in given}
    lines = [f"curl {_method(method)} {_target(url)}"]
    lines += [f"-H {_quoted(_line(name, value))}" for name, value in given]
    lines += [f"-H {name.title()}:" for name in _OWN if name not in names and _is_sent(name, body)]
    lines += [_data(body)] if body else []
    command = " \\\n  ".join(lines)
    if b"\0" in body:  # no argument of a program can have it
        return f"printf %s {b64encode(body).decode()} | base64 -d |\n{command}"
    return command


def _is_sent(name: str, body: bytes) -> bool:
    return name != "content-type" or bool(body)


def _method(method: str) -> str:
    return "--head" if method == "HEAD" else f"-X {_quoted(method)}"


def _target(url: str) -> str:
    as_is = "--path-as-is " if "/." in url else ""
    globs = "--globoff " if re.search(r"[\[\]{}]", url) else ""
    return as_is + globs + _quoted(url)


def _line(name: str, value: str) -> str:
    return f"{name}: {value}" if value else f"{name};"  # so curl is told to send it empty


def _data(body: bytes) -> str:
    if b"\0" in body:
        return "--data-binary @-"
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"--data-raw {_escaped(body)}"
    plain = text.replace("\n", "").isprintable()
    return f"--data-raw {shlex.quote(text) if plain else _escaped(body)}"


def _quoted(text: str) -> str:
    """All but the body is bytes read as Latin-1."""
    plain = text.isascii() and text.isprintable()
    return shlex.quote(text) if plain else _escaped(text.encode("latin-1"))


def _escaped(raw: bytes) -> str:
    """In the quotes of bash and zsh that know escapes, since a terminal would obey the bytes."""
    return "$'" + "".join(map(_escape, raw)) + "'"


def _escape(byte: int) -> str:
    if chr(byte) in "\\'":
        return "\\" + chr(byte)
    return chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"
