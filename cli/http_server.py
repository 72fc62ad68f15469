"""The thin edge on aiohttp: requests come in as they are, whatever they are.

Everything that arrives becomes one `Request`, also what is no HTTP, is too large or too
slow: then with a `flaw`, and without what was not read. Bodies stay as they were sent,
compressed ones too.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .arrivals import BROKEN_OFF, Reply, Request, not_http, too_large, too_slow
from .program import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from .arrivals import Flaw

    Receive = Callable[[Request], Awaitable[Reply]]
    Broken = Callable[[Request | Exception], None]

MOST = 4 * 1_048_576  # bytes of a body
PATIENCE = 30.0  # seconds for a body to arrive, and for a kept connection to be used again
LINGER = 2.0  # seconds for which the rest of a refused body is read, so that the answer is heard
GRACE = 0.5  # seconds for what is being answered when the server stops

_log = logging.getLogger("outbox.listen")
_log.addHandler(logging.NullHandler())  # aiohttp's complaints about clients
_log.propagate = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How large and how slow a body may be."""

    most: int = MOST
    patience: float = PATIENCE


@asynccontextmanager
async def serving(
    receive: Receive, broken: Broken, host: str, port: int, limits: Limits = Limits()
) -> AsyncIterator[int]:
    """Answer requests with what `receive` returns; yield the port, a free one for 0.

    `broken` gets what is no HTTP and was answered 400, or a mistake of our own. Raises
    Failure if the port cannot be had.
    """
    runner = web.ServerRunner(_Server(receive, broken, limits), shutdown_timeout=GRACE)
    await runner.setup()
    site = web.TCPSite(runner, host, port, backlog=1_024)
    try:
        try:
            await site.start()
        except OSError as error:
            raise Failure(_reason(error, host, port)) from error
        yield site.port
    finally:
        await runner.cleanup()


def _reason(error: OSError, host: str, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return f"host: there is no {host}"
    if error.errno == errno.EADDRINUSE:
        return f"port: {port} of {host} is in use; give another with --port, or 0 for a free one"
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"port: {port} of {host} cannot be had: {reason.lower()}"


class _Server(web.Server):
    def __init__(self, receive: Receive, broken: Broken, limits: Limits) -> None:
        super().__init__(self._handle)
        self._receive = receive
        self._limits = limits
        self.broken = broken

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self, loop=self._loop, auto_decompress=False, access_log=None, logger=_log,
            keepalive_timeout=PATIENCE, lingering_time=LINGER,
        )  # fmt: skip

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        if incoming.headers.get("Expect", "").lower() == "100-continue":
            await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, flaw = await self._read(incoming)
        reply = await self._receive(_request(incoming, body, flaw))
        return _response(reply, close=flaw is not None)

    async def _read(self, incoming: web.BaseRequest) -> tuple[bytes, Flaw | None]:
        body, limits = bytearray(), self._limits
        try:
            async with asyncio.timeout(limits.patience):
                async for chunk in incoming.content.iter_any():
                    body += chunk
                    if len(body) > limits.most:
                        return bytes(body[: limits.most]), too_large(limits.most)
        except TimeoutError:
            return bytes(body), too_slow(limits.patience)
        except (web.RequestPayloadError, ConnectionError):
            return bytes(body), BROKEN_OFF
        return bytes(body), None


class _Connection(web.RequestHandler):
    """Shows what is no HTTP, too."""

    __slots__ = ("_broken",)

    def __init__(self, server: _Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._broken = server.broken

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be handled, and close the connection."""
        if status == web.HTTPBadRequest.status_code:
            flaw = not_http(message or "it is malformed")
            peer = request.remote or ""
            self._broken(Request(_now(), "?", "?", peer=peer, flaw=flaw))
        elif isinstance(exc, Exception):
            self._broken(exc)
        return _response(Reply(status), close=True)


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the edge


def _request(incoming: web.BaseRequest, body: bytes, flaw: Flaw | None) -> Request:
    headers = tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in incoming.raw_headers
    )
    version = f"{incoming.version.major}.{incoming.version.minor}"
    path = incoming.raw_path.encode("utf-8", "surrogateescape").decode("latin-1")
    return Request(
        _now(), incoming.method, path, headers, body, version,
        incoming.remote or "", flaw,
    )  # fmt: skip


def _response(reply: Reply, *, close: bool) -> web.Response:
    response = web.Response(status=reply.status, body=reply.body or None)
    for name, value in reply.headers:
        response.headers.add(name, value)
    if close:
        response.force_close()
    return response
