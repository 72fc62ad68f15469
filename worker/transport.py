"""httpx on the outside, aiohttp's engine underneath.

An `httpx.AsyncBaseTransport` that speaks plain HTTP/1.1: no redirects, no cookies, no
proxies of the environment, no decompression, no retries of its own, and connections only
to addresses that are allowed (`connector.py`). httpx's own connection pool grows slow with
the connections it holds; this one does not (section "Why it is so" of the README).

A kept connection that turns out to be closed is reported as `Stale`: whether the request
is made again is not decided here, because the receiver may have read it.

Objects that a subscription's requests share (its URL) are made once and kept.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING

import aiohttp
import httpx
from multidict import CIMultiDict
from yarl import URL

from outbox.addresses import PUBLIC
from outbox.errors import InvalidInput

from . import crash
from .connector import EXCHANGE, Connector, Exchange, Policy
from .failures import Stale
from .phases import Stopwatch
from .resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from outbox.addresses import Allowed

    from .proxy import Proxy

MAX_LINE = 8_190  # bytes of a status or header line
MAX_HEADERS = 128


class AiohttpTransport(httpx.AsyncBaseTransport):
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
        self._proxy = URL(proxy.url) if proxy else None
        self._resolver = resolver or Resolver()
        self._session = aiohttp.ClientSession(
            connector=Connector(policy, self._resolver),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
        )
        self._session._retry_connection = False  # noqa: SLF001 - else a PUT may go out twice

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return as soon as the headers are there."""
        exchange = Exchange(request.extensions.get("stopwatch") or Stopwatch())
        EXCHANGE.set(exchange)
        headers = CIMultiDict(
            [(k.decode("ascii"), v.decode("ascii")) for k, v in request.headers.raw]
        )
        try:
            response = await self._session.request(
                request.method,
                _yarl(str(request.url)),
                data=_data(await _bytes(request.stream), headers),
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
            )
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise _translated(error, exchange) from error
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))

    async def aclose(self) -> None:
        self._resolver.close()
        await self._session.close()


class _Body(httpx.AsyncByteStream):
    """The raw body. Closed before its end, it closes the connection with it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise _translated(error, None) from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


def _data(body: bytes, headers: CIMultiDict[str]) -> bytes | AsyncIterator[bytes]:
    if crash.WHERE != "half":
        return body
    headers["content-length"] = str(len(body))
    return _in_halves(body)


async def _in_halves(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    await asyncio.sleep(0)  # lets the first half leave
    crash.at("half")
    yield body[len(body) // 2 :]


async def _bytes(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> bytes:
    if isinstance(stream, httpx.ByteStream):  # in memory already
        return b"".join(stream)
    if isinstance(stream, httpx.AsyncByteStream):
        return b"".join([chunk async for chunk in stream])
    raise TypeError("an async transport takes an async stream")


@lru_cache(maxsize=4096)
def _yarl(url: str) -> URL:
    return URL(url, encoded=True)


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


def _translated(error: Exception, exchange: Exchange | None) -> httpx.TransportError:
    """Return httpx's name for what aiohttp saw, in words without the URL's query."""
    if isinstance(error, _CUT) and exchange and not exchange.fresh and not _received(exchange):
        return Stale("a kept connection was closed by the receiver")
    name = next((name for known, name in _NAMES if isinstance(error, known)), httpx.ReadError)
    return name(_in_words(error))


def _received(exchange: Exchange) -> int:
    return exchange.wire.received if exchange.wire else 0


def _in_words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return error.message.split("\n")[0].rstrip(":")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _WORDS.get(type(error), type(error).__name__)


_CUT = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)

_WORDS: dict[type[Exception], str] = {
    aiohttp.ServerDisconnectedError: "the receiver closed the connection without an answer",
    aiohttp.ClientPayloadError: "the body broke off",
    aiohttp.InvalidURL: "the URL is not valid",
}

# The first that fits counts: aiohttp's classes inherit from each other and from OSError.
_NAMES: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (aiohttp.ClientPayloadError, httpx.ReadError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.ServerDisconnectedError, httpx.ReadError),
    (OSError, httpx.ReadError),
    (ValueError, httpx.RemoteProtocolError),
)
