"""A very small HTTP server: it answers GET of a few paths, and nothing else.

What it can be made to do is bounded: a request is a head of 8 KiB within 5 seconds, its
body is not read, a connection has one answer, and only so many are open at once.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from outbox.errors import InvalidInput

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    Pages = Mapping[str, Callable[[], Awaitable["Page"]]]

HEAD = 8_192  # bytes
SECONDS = 5.0  # for a request to come, and for its answer to go
CONNECTIONS = 32  # at once; what is more is closed
TEXT = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """An answer."""

    status: HTTPStatus
    body: bytes
    type: str = TEXT


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, to be served by one process or by several.

    Raises InvalidInput if it cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
    except (OSError, UnicodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "is no name of a host"
        raise InvalidInput("metrics port", f"{port} on {host}: {told}") from error


@asynccontextmanager
async def serving(listener: socket.socket, pages: Pages) -> AsyncIterator[None]:
    """Answer with `pages`, by path, what comes to `listener`."""
    endpoint = _Endpoint(pages)
    server = await asyncio.start_server(endpoint.connected, sock=listener.dup(), limit=HEAD)
    try:
        yield
    finally:
        server.close()


class _Endpoint:
    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._open = 0

    async def connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS:
                await self._serve(reader, writer)
        finally:
            self._open -= 1
            writer.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError, EOFError, TimeoutError):
            try:
                async with asyncio.timeout(SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                page = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            else:
                page = await self._page(head)
            async with asyncio.timeout(SECONDS):
                writer.write(_answer(page))
                await writer.drain()

    async def _page(self, head: bytes) -> Page:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _plain(HTTPStatus.BAD_REQUEST)
        if words[0] != "GET":
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        page = self._pages.get(words[1].partition("?")[0])
        return _plain(HTTPStatus.NOT_FOUND) if page is None else await page()


def _plain(status: HTTPStatus) -> Page:
    return Page(status, status.phrase.encode() + b"\n")


def _answer(page: Page) -> bytes:
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
        f"content-type: {page.type}\r\ncontent-length: {len(page.body)}\r\n"
        "cache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + page.body
