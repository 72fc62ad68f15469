"""One HTTP request and what came of it: never raises, never takes longer than its deadline.

The boundary is httpx: any `httpx.AsyncBaseTransport` will do. The transport is called
directly, without a client around it: nothing follows redirects, keeps cookies or logs
URLs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from . import crash
from .answers import decoded
from .ask import Ask
from .failures import Blocked, DnsError, Stale, TlsError
from .outcome import Reply
from .phases import WORDS, Stopwatch

if TYPE_CHECKING:
    from outbox.request import Outgoing

    from .deadline import Deadline

BODY_KEPT = 8_192  # bytes of a response


async def send(
    transport: httpx.AsyncBaseTransport, outgoing: Outgoing, deadline: Deadline
) -> Reply:
    """Send `outgoing` and return the Reply, before the deadline.

    reply = await send(httpx.MockTransport(handler), outgoing, Deadlines().within(20))
    """
    watch = Stopwatch()
    response: httpx.Response | None = None
    try:
        with deadline:
            response = await transport.handle_async_request(Ask(outgoing, watch))
            crash.at("headers")
            watch.enter("body")
            body = await _read(response)
    except TimeoutError:
        late = "dns" if watch.phase == "dns" else "timeout"
        return _broken(response, watch, late, f"no complete answer within {deadline.seconds:g} s")
    except httpx.TransportError as error:
        return _broken(response, watch, _error_class(error), str(error))
    crash.at("answered")
    return _reply(response, body, watch)


async def _read(response: httpx.Response) -> bytes:
    """Return the body up to the cap; what is longer is cut off with its connection."""
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - for the type checker
    body = b""
    try:
        async for chunk in stream:
            body += chunk
            if len(body) >= BODY_KEPT:
                break
    finally:
        await stream.aclose()
    return body[:BODY_KEPT]


def _reply(
    response: httpx.Response,
    body: bytes,
    watch: Stopwatch,
    error_class: str | None = None,
    error: str | None = None,
) -> Reply:
    headers = decoded(response.headers.raw, delivered=response.is_success)
    return Reply(response.status_code, headers, body, error_class, error, watch.stop())


def _broken(
    response: httpx.Response | None, watch: Stopwatch, error_class: str, error: str
) -> Reply:
    """Headers that were seen decide all the same; a broken body is a note beside them."""
    if error_class == "timeout":
        error = f"{error} (while {WORDS[watch.phase]})"
    if response is None:
        return Reply(None, (), b"", error_class, error, watch.stop())
    return _reply(response, b"", watch, "truncated", error)


def _error_class(error: httpx.TransportError) -> str:
    for known, name in _CLASSES:
        if isinstance(error, known):
            return name
    return "reset"


_CLASSES: tuple[tuple[type[httpx.TransportError], str], ...] = (
    (Blocked, "blocked"),
    (DnsError, "dns"),
    (TlsError, "tls"),
    (Stale, "stale"),
    (httpx.PoolTimeout, "internal"),
    (httpx.TimeoutException, "timeout"),
    (httpx.ConnectError, "connect"),
    (httpx.RemoteProtocolError, "protocol"),
    (httpx.LocalProtocolError, "protocol"),
    (httpx.UnsupportedProtocol, "protocol"),
    (httpx.ProxyError, "connect"),
    (httpx.NetworkError, "reset"),
)
