"""A receiver that costs as little as one in Python can: it counts, and answers 200.

A bare asyncio protocol, on connections that stay open; it reads of a request no more than
the length of its body and its `webhook-id`. What it saw is told to `GET`, and forgotten
after `DELETE`; `GET /answers` tells when each id was answered first. Requests for
`/hooks/hang` it neither counts nor answers. It prints its port and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from typing import cast

import click
import uvloop

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nwebhook-id: *([^\r]+)", re.IGNORECASE)


class Receiver:
    """What came since the last `forget`; moments are of the system's monotonic clock."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._requests = self._bytes = 0
        self._first = self._last = 0.0
        self._ids: dict[bytes, float] = {}

    def count(self, request: bytes) -> None:
        """Remember one request."""
        self._last = time.monotonic()
        self._first = self._first or self._last
        self._requests += 1
        self._bytes += len(request)
        if id := _ID.search(request):
            self._ids.setdefault(id[1], self._last)

    def report(self) -> bytes:
        """Return it all as JSON; of the ids their number."""
        return json.dumps(
            {
                "requests": self._requests,
                "distinct": len(self._ids),
                "bytes": self._bytes,
                "first": self._first,
                "last": self._last,
            }
        ).encode()

    def answers(self) -> bytes:
        """Return as JSON when each id was answered first."""
        return json.dumps({id.decode(): moment for id, moment in self._ids.items()}).encode()


class Connection(asyncio.Protocol):
    """One connection; what is left in its buffer is the beginning of the next request."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, to answer on."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._buffer = self._buffer + data if self._buffer else data
        while end := _end(self._buffer):
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            self._transport.write(self._answer(request))

    def _answer(self, request: bytes) -> bytes:
        if request.startswith(b"POST /hooks/hang "):
            return b""
        if request.startswith(b"POST"):
            self._receiver.count(request)
            return OK
        if request.startswith(b"DELETE"):
            self._receiver.forget()
        is_answers = request.startswith(b"GET /answers ")
        report = self._receiver.answers() if is_answers else self._receiver.report()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(report), report)


def _end(buffer: bytes) -> int:
    """Return where the first request ends; 0 while a part of it is missing."""
    body = buffer.find(b"\r\n\r\n") + 4
    if body < 4:
        return 0
    length = _LENGTH.search(buffer, 0, body)
    end = body + (int(length[1]) if length else 0)
    return end if end <= len(buffer) else 0


async def serve() -> None:
    """Serve on a free port of this machine until SIGTERM."""
    loop = asyncio.get_running_loop()
    receiver, stopping = Receiver(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    server = await loop.create_server(lambda: Connection(receiver), "127.0.0.1", 0, backlog=1024)
    click.echo(server.sockets[0].getsockname()[1])
    await stopping.wait()


if __name__ == "__main__":
    uvloop.run(serve())
