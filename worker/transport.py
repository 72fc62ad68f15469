"""httpx on the outside, aiohttp's engine underneath.

An `httpx.AsyncBaseTransport` that speaks plain HTTP/1.1: no redirects, no cookies, no
proxies, no decompression, no retries of its own. httpx's own connection pool grows slow
with the connections it holds; this one does not (section "Why it is so" of the README).

Objects that a subscription's requests share (its URL) are made once and kept.
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import TYPE_CHECKING

import aiohttp
import httpx
from multidict import CIMultiDict
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_LINE = 8_190  # bytes of a status or header line
KEEP_ALIVE = 4.0  # seconds; less than the 5 s after which many servers close an idle connection


class DnsError(httpx.ConnectError):
    """The name of the receiver does not resolve."""


class TlsError(httpx.ConnectError):
    """The receiver's certificate or handshake is not acceptable."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends `httpx.Request`s; at most `connect_timeout` seconds to connect, TLS included."""

    def __init__(self, *, connect_timeout: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=_tls(), keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=10
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout),
            skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return as soon as the headers are there."""
        headers = CIMultiDict(
            [(k.decode("ascii"), v.decode("ascii")) for k, v in request.headers.raw]
        )
        try:
            response = await self._session.request(
                request.method,
                _yarl(str(request.url)),
                data=await _bytes(request.stream),
                headers=headers,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, ValueError, TimeoutError, OSError) as error:
            raise _translated(error) from error
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))

    async def aclose(self) -> None:
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
            raise _translated(error) from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


async def _bytes(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> bytes:
    if isinstance(stream, httpx.ByteStream):  # in memory already
        return b"".join(stream)
    if isinstance(stream, httpx.AsyncByteStream):
        return b"".join([chunk async for chunk in stream])
    raise TypeError("an async transport takes an async stream")


@lru_cache(maxsize=4096)
def _yarl(url: str) -> URL:
    return URL(url, encoded=True)


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _translated(error: Exception) -> httpx.TransportError:
    """Return httpx's name for what aiohttp saw, in words without the URL's query."""
    name = next((name for known, name in _NAMES if isinstance(error, known)), httpx.ReadError)
    return name(_in_words(error))


def _in_words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return error.message.split("\n")[0].rstrip(":")
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return _WORDS.get(type(error), type(error).__name__)


_WORDS: dict[type[Exception], str] = {
    aiohttp.ClientConnectorCertificateError: "the certificate is not valid for this host",
    aiohttp.ServerDisconnectedError: "the receiver closed the connection without an answer",
    aiohttp.ClientPayloadError: "the body broke off",
    aiohttp.ConnectionTimeoutError: "no connection in time",
    aiohttp.InvalidURL: "the URL is not valid",
}

# The first that fits counts: aiohttp's classes inherit from each other and from OSError.
_NAMES: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (aiohttp.ClientConnectorDNSError, DnsError),
    (aiohttp.ClientSSLError, TlsError),
    (aiohttp.ClientConnectorCertificateError, TlsError),
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (TimeoutError, httpx.ConnectTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ClientPayloadError, httpx.ReadError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.ServerDisconnectedError, httpx.ReadError),
    (OSError, httpx.ReadError),
    (ValueError, httpx.RemoteProtocolError),
)
