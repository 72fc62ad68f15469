"""A receiver that costs as little as one in Python can: it counts, and answers 200.

A bare asyncio protocol, on connections that stay open; it reads of a request no more than
its path, the length of its body and its `webhook-id`. What it saw is told to `GET`, and
forgotten after `DELETE`. `GET /answers` tells when the first byte of each id came first,
`DELETE /answers` forgets the ids as well, but not how many requests there were. Requests for
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

    def count(self, request: bytes, moment: float) -> None:
        """Remember one request, whose first byte came at `moment`."""
        self._last = moment
        self._first = self._first or moment
        self._requests += 1
        self._bytes += len(request)
        if id := _ID.search(request):
            self._ids.setdefault(request[: request.find(b" ", 5) + 1] + id[1], moment)

    def report(self) -> bytes:
        """Return it all as JSON; of the ids their number, at each path."""
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
        """Return as JSON when each id came first, at whatever path."""
        latest_first = reversed(self._ids.items())
        return json.dumps({id.split()[-1].decode(): at for id, at in latest_first}).encode()

    def forget_ids(self) -> None:
        """Begin anew with the ids alone."""
        self._ids = {}


class Connection(asyncio.Protocol):
    """One connection; what is left in its buffer is the beginning of the next request."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = b""
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, to answer on."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        if self._buffer:
            self._buffer += data
        else:
            self._buffer, self._began = data, time.monotonic()
        while end := _end(self._buffer):
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            self._transport.write(self._answer(request))

    def _answer(self, request: bytes) -> bytes:
        if request.startswith(b"POST /hooks/hang "):
            return b""
        if request.startswith(b"POST"):
            self._receiver.count(request, self._began)
            return OK
        report = self._told(request.split()[1] == b"/answers", request.startswith(b"DELETE"))
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(report), report)

    def _told(self, answers: bool, forget: bool) -> bytes:
        report = self._receiver.answers() if answers else self._receiver.report()
        if forget:
            (self._receiver.forget_ids if answers else self._receiver.forget)()
        return report


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
