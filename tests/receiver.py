"""A receiver: a real HTTP/1.1 server in a thread, that records requests and plays a script.

receiver.script = [500, 500, 200]                   # then 200 for ever
receiver.script = lambda request: Answer(410)
receiver.script = [Answer(503, headers={"retry-after": "1"}), Answer(delay=0.5)]
receiver.script = [Answer(raw=b"nonsense")]         # these bytes, then the connection is cut
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from .logs import CANARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


@dataclass(frozen=True)
class Request:
    """What arrived; `arrived` is on the monotonic clock."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    arrived: float

    def header(self, name: str) -> str:
        """The only header of this name; AssertionError if there are more or none."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) == 1, f"{len(values)} headers {name} in {self.headers}"
        return values[0]


@dataclass(frozen=True)
class Answer:
    """What to say, `delay` seconds after the request was there in full."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    raw: bytes | None = None

    def encode(self) -> bytes:
        if self.raw is not None:
            return self.raw
        reason = HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else ""
        lines = [f"HTTP/1.1 {self.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [f"content-length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


class Receiver:
    """Listens while it is used as a context manager; a port of 0 takes a free one."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.requests: list[Request] = []
        self.script = ()
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={CANARY}"

    @property
    def script(self) -> Callable[[Request], int | Answer]:
        return self._script

    @script.setter
    def script(self, script: Iterable[int | Answer] | Callable[[Request], int | Answer]) -> None:
        self._script = script if callable(script) else _played(script)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[Request]:
        """Wait until `count` requests have come; return all that have."""
        with self._changed:
            done = self._changed.wait_for(lambda: len(self.requests) >= count, timeout)
            assert done, f"{len(self.requests)} of {count} requests came within {timeout} s"
            return list(self.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._connections: set[_Connection] = set()
        server = await self._loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await server.wait_closed()

    def _answer(self, request: Request) -> Answer:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        answer = self._script(request)
        return Answer(answer) if isinstance(answer, int) else answer


def _played(script: Iterable[int | Answer]) -> Callable[[Request], int | Answer]:
    rest = deque(script)
    return lambda _: rest.popleft() if rest else 200


class _Connection(asyncio.Protocol):
    """One kept-alive connection: one request at a time, with a content-length."""

    transport: asyncio.Transport

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = bytearray()
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._receiver._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        if self._busy or not (request := self._take()):
            return
        self._busy = True
        answer = self._receiver._answer(request)
        if answer.delay:
            asyncio.get_running_loop().call_later(answer.delay, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        self._busy = False
        self.transport.write(answer.encode())
        if answer.raw is not None:
            self.transport.close()
        else:
            self._next()

    def _take(self) -> Request | None:
        """Cut the first request off the buffer, if it is there in full."""
        head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (s.partition(":") for s in lines)]
        length = int({name.lower(): value for name, value in headers}.get("content-length", "0"))
        if not found or len(rest) < length:
            return None
        del self._buffer[: len(head) + 4 + length]
        method, path, _ = first.split(" ", 2)
        return Request(method, path, headers, rest[:length], time.monotonic())
