"""Where the requests to a URL go, and the bytes with which they begin.

What all requests to a URL have in common is made once and kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import httpx

from .settings import READY

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding"})
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})  # always: without one their length is 0


class Place(NamedTuple):
    """What a connection leads to; kept connections are told apart by it.

    All connections of a transport go through the same proxy, or through none.
    """

    tls: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Route:
    """The way of requests with one method to one URL."""

    place: Place
    method: str
    beginning: bytes

    @property
    def bodiless(self) -> bool:
        """Whether the answer has no body, whatever its headers say."""
        return self.method == "HEAD"

    def head(self, headers: Sequence[tuple[bytes, bytes]], length: int) -> bytes:
        """Return all that goes before a body of `length` bytes.

        The framing is ours: host and length among `headers` are left out. Raises
        httpx.LocalProtocolError if one of them would end its line.
        """
        lines = [b": ".join(each) for each in headers if each[0].lower() not in FRAMING]
        if length or self.method in WITH_BODY:
            lines.append(b"Content-Length: %d" % length)
        lines += (b"", b"")
        head = self.beginning + b"\r\n".join(lines)
        ends = len(lines) + 1  # with the first two lines
        if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
            raise httpx.LocalProtocolError("a header has a line end or a NUL in it")
        return head


@lru_cache(maxsize=READY)
def route(method: str, url: str, *, proxied: bool = False) -> Route:
    """Return the way of `method` requests to `url`; a proxy has to be told all of an http URL.

    Raises httpx.UnsupportedProtocol or httpx.LocalProtocolError.
    """
    if not (method.isascii() and method.isalpha()):
        raise httpx.LocalProtocolError("the method is not valid")
    plain = _PLAIN.fullmatch(url)
    if plain:
        (place, shown), target = _origin(plain[1]), plain[2]
    else:
        found = _judged(url)
        (place, shown), target = _place(found), found.raw_path.decode("ascii")
    if proxied and not place.tls:
        target = f"http://{shown}{target}"
    beginning = f"{method} {target} HTTP/1.1\r\nHost: {shown}\r\n".encode("ascii")
    return Route(place, method, beginning)


# Paths that go out as they are written: none of their characters needs an escape, and none
# of their parts begins with a dot. So the URLs of a thousand subscriptions of one service
# take its parser once.
_PLAIN = re.compile(r"(https?://[^/?#\\]+)((?:/(?!\.)[A-Za-z0-9_~!$&'()*+,;=:@.-]*)+)")


@lru_cache(maxsize=READY)
def _origin(url: str) -> tuple[Place, str]:
    return _place(_judged(url))


def _place(url: httpx.URL) -> tuple[Place, str]:
    """Return where a URL leads, and how that is written in a request."""
    host = url.raw_host.decode("ascii")
    tls = url.scheme == "https"
    port = url.port or (443 if tls else 80)
    name = host.rstrip(".")
    shown = f"[{name}]" if ":" in name else name
    return Place(tls, host, port), shown if url.port is None else f"{shown}:{port}"


@lru_cache(maxsize=READY)
def parsed(url: str) -> httpx.URL:
    """Return `url` in its parts; raises httpx.InvalidURL."""
    return httpx.URL(url)


def _judged(url: str) -> httpx.URL:
    try:
        found = parsed(url)
    except httpx.InvalidURL as error:
        raise httpx.LocalProtocolError("the URL is not valid") from error
    if found.scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol("the URL is neither http nor https")
    if not found.raw_host or (found.port is not None and not 0 < found.port < 65_536):
        raise httpx.LocalProtocolError("the URL is not valid")
    return found
