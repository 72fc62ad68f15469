"""httpx on the outside, a small HTTP/1.1 client of our own underneath.

An `httpx.AsyncBaseTransport` for one job: no redirects, no cookies, no proxies of the
environment, no decompression, no retries of its own, and connections only to addresses
that are allowed (`connector.py`). What is general in a client costs more than a delivery
does (section "Why it is so" of the README).

A kept connection that turns out to be closed is reported as `Stale`: whether the request
is made again is not decided here, because the receiver may have read it.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import httpx

from outbox.addresses import PUBLIC
from outbox.errors import InvalidInput

from . import crash
from .ask import outgoing
from .connector import Connector, Policy
from .kept import Kept
from .phases import Stopwatch
from .resolver import Resolver
from .route import route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from outbox.addresses import Allowed

    from .proxy import Proxy
    from .route import Place
    from .wire import Wire


class HttpTransport(httpx.AsyncBaseTransport):
    """Sends `httpx.Request`s.

    `connect_timeout` is the seconds to resolve, connect and shake hands, `ca_file` holds
    certificates that are trusted besides the system's. A `Stopwatch` in the request's
    extensions ("stopwatch") is told of each phase.
    """

    def __init__(
        self,
        *,
        connect_timeout: float,
        allow: Allowed = PUBLIC,
        proxy: Proxy | None = None,
        ca_file: str | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        policy = Policy(timeout=connect_timeout, tls=tls_context(ca_file), allow=allow, proxy=proxy)
        self._proxied = proxy is not None
        self._resolver = resolver or Resolver()
        self._connector = Connector(policy, self._resolver)
        self._kept = Kept()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return as soon as the headers are there."""
        asked = await outgoing(request)
        way = route(asked.method, asked.url, proxied=self._proxied)
        head, body = way.head(asked.headers, len(asked.body)), asked.body
        wire = self._kept.take(way.place)
        if wire is None:
            watch = request.extensions.get("stopwatch") or Stopwatch()
            wire = await self._connector.connect(way.place, watch)
        try:
            if crash.WHERE == "half":
                await _ask_in_halves(wire, head, body)
            else:
                wire.ask(head + body, bodiless=way.bodiless)
            answer = await wire.headers()
        except BaseException:
            wire.abort()
            raise
        stream = _Body(wire, way.place, self._kept)
        return httpx.Response(answer.status, headers=answer.headers, stream=stream)

    async def aclose(self) -> None:
        self._resolver.close()
        await self._kept.aclose()


class _Body(httpx.AsyncByteStream):
    """The raw body. Closed before its end, it closes the connection with it."""

    def __init__(self, wire: Wire, place: Place, kept: Kept) -> None:
        self._wire = wire
        self._place = place
        self._kept = kept
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = b"" if self._closed else await self._wire.chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        if not self._closed:  # a connection that is given back twice would serve two at once
            self._closed = True
            self._kept.keep(self._place, self._wire)


async def _ask_in_halves(wire: Wire, head: bytes, body: bytes) -> None:
    wire.ask(head + body[: len(body) // 2])
    await asyncio.sleep(0)  # lets the first half leave
    crash.at("half")
    wire.write(body[len(body) // 2 :])


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Return how TLS is spoken: 1.2 or newer, certificates verified, no keys logged.

    Not `ssl.create_default_context`, which writes every key to a file that the environment
    may name. Raises InvalidInput when `ca_file` holds no certificates.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_default_certs()
    try:
        if ca_file:
            context.load_verify_locations(ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidInput("ca-file", "is not a readable file of PEM certificates") from error
    return context
