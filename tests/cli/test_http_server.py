"""Whatever is sent to the receiver, it is taken, answered and told."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from outbox.cli.arrivals import Reply, Request
from outbox.cli.http_server import Limits, serving
from outbox.cli.program import Failure

from .arrivals import AT

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = b"Host: a\r\n\r\n"
LIMITS = Limits(most=1_000, patience=0.2)


class Exchange:
    """A server that keeps what it takes, on a port of its own."""

    def __init__(self, reply: Reply = Reply(200, body=b"ok")) -> None:  # noqa: B008 - a value
        self.taken: list[Request] = []
        self.faults: list[Exception] = []
        self._reply = reply

    def send(self, *parts: bytes, limits: Limits = LIMITS) -> bytes:
        """Send the parts one by one; return all that is answered until the connection ends."""
        return asyncio.run(asyncio.wait_for(self._send(parts, limits), 10))

    async def _send(self, parts: Sequence[bytes], limits: Limits) -> bytes:
        async with serving(self._receive, self._broken, "127.0.0.1", 0, limits) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for part in parts:
                writer.write(part)
                await writer.drain()
            answer = await reader.read()
            writer.close()
            return answer

    async def _receive(self, request: Request) -> Reply:
        if request.path == "/fault":
            raise ZeroDivisionError
        self.taken.append(replace(request, at=AT, peer=""))
        return self._reply

    def _broken(self, what: Request | Exception) -> None:
        if isinstance(what, Exception):
            self.faults.append(what)
        else:
            self.taken.append(what)


def head(method: bytes, *lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"%s /hooks HTTP/%s" % (method, version), b"Host: a", *lines, b"", b""])


CLOSE, THREE = b"Connection: close", b"Content-Length: 3"
CHUNKED = b"Transfer-Encoding: chunked"


def test_a_request_as_it_came() -> None:
    """Names keep their case, order and repetition; values every byte; bodies stay compressed."""
    exchange = Exchange(Reply(201, (("X-A", "1"), ("X-A", "2")), b"\x1f"))
    asked = head(b"POST", b"X-B: \xe9", b"x-b: 2", b"Content-Encoding: gzip", THREE, CLOSE)
    answer = exchange.send(asked, b"abc")

    assert exchange.taken == [
        Request(
            AT, "POST", "/hooks",
            (("Host", "a"), ("X-B", "\xe9"), ("x-b", "2"), ("Content-Encoding", "gzip"),
             ("Content-Length", "3"), ("Connection", "close")),
            b"abc",
        )
    ]  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 201 Created\r\nX-A: 1\r\nX-A: 2\r\n")
    assert answer.endswith(b"\r\n\r\n\x1f")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH"])
def test_any_method(method: bytes) -> None:
    """Every method is taken, and HEAD is answered without a body."""
    exchange = Exchange()
    answer = exchange.send(head(method, CLOSE))

    assert [found.method for found in exchange.taken] == [method.decode()]
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"ok") == (method != b"HEAD")


def test_http_1_0() -> None:
    """The old version is spoken, with and without a length."""
    exchange = Exchange()

    assert exchange.send(head(b"POST", version=b"1.0")).startswith(b"HTTP/1.0 200 OK")
    exchange.send(head(b"POST", b"Content-Length: 1", version=b"1.0"), b"x")
    assert [(found.version, found.body) for found in exchange.taken] == [
        ("1.0", b""),
        ("1.0", b"x"),
    ]


def test_chunked() -> None:
    """A body may come in chunks."""
    exchange = Exchange()
    exchange.send(
        head(b"POST", b"Transfer-Encoding: chunked", CLOSE), b"1\r\na\r\n", b"2\r\nbc\r\n0\r\n\r\n"
    )

    assert [found.body for found in exchange.taken] == [b"abc"]


def test_expect_100() -> None:
    """Who asks first is told to go on."""
    answer = Exchange().send(
        head(b"POST", b"Expect: 100-continue", b"Content-Length: 1", CLOSE), b"x"
    )

    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_two_on_one_connection() -> None:
    """Requests that follow each other at once are answered in turn."""
    exchange = Exchange()
    answer = exchange.send(head(b"GET") + head(b"GET", CLOSE))

    assert answer.count(b"HTTP/1.1 200 OK") == len(exchange.taken) == 2


def flaws(*parts: bytes) -> list[tuple[int, str]]:
    """Why what was taken is not whole."""
    exchange = Exchange()
    exchange.send(*parts)
    return [(*found.flaw,) for found in exchange.taken if found.flaw]


def test_a_body_that_is_too_large() -> None:
    """No more than the limit is kept, and it is said, with and without a length."""
    said = [(413, "its body is larger than 1,000 bytes; the rest was not read")]
    chunk = b"800\r\n%s\r\n" % (b"x" * 0x800)

    assert flaws(head(b"POST", b"Content-Length: 2000"), b"x" * 2_000) == said
    assert flaws(head(b"POST", CHUNKED), chunk, b"0\r\n\r\n") == said


def test_a_body_that_does_not_come() -> None:
    """A slow client is waited for as long as the limit says, one that goes away not at all."""
    exchange = Exchange()

    async def slow(patience: float, *, leaves: bool) -> None:
        limits = Limits(patience=patience)
        async with serving(exchange._receive, exchange._broken, "127.0.0.1", 0, limits) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head(b"POST", b"Content-Length: 9") + b"abc")
            await writer.drain()
            if leaves:
                writer.close()
            while not exchange.taken:
                await asyncio.sleep(0.01)
            writer.close()

    asyncio.run(asyncio.wait_for(slow(0.05, leaves=False), 10))
    assert exchange.taken.pop().flaw == (408, "its body did not arrive within 0.05 s")
    asyncio.run(asyncio.wait_for(slow(60, leaves=True), 10))
    assert exchange.taken[0].flaw == (400, "its body broke off")
    assert exchange.taken[0].body == b"abc"


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\x1b[2J HTTP/1.1\r\n" + HOST,
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n" + HOST,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 9_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n" + HOST,
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + HOST,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http(raw: bytes) -> None:
    """It is answered 400, the connection ends, and the list says why."""
    exchange = Exchange()
    answer = exchange.send(raw)

    assert answer.partition(b" ")[2].startswith(b"400 Bad Request")
    assert [found.flaw.reason[:15] for found in exchange.taken if found.flaw] == ["it is no HTTP: "]


def test_a_mistake_of_ours_is_not_hidden() -> None:
    """What goes wrong in our own code is answered 500 and reported."""
    exchange = Exchange()
    answer = exchange.send(b"GET /fault HTTP/1.1\r\nConnection: close\r\n" + HOST)

    assert answer.startswith(b"HTTP/1.1 500 ")
    assert [type(fault) for fault in exchange.faults] == [ZeroDivisionError]


def test_a_port_that_cannot_be_had() -> None:
    """A port in use and a host that is none are a line each."""
    exchange = Exchange()

    async def begin(host: str, port: int) -> None:
        async with serving(exchange._receive, exchange._broken, host, port):
            raise AssertionError

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Failure, match=f"^port: {port} of 127.0.0.1 is in use; give another"):
            asyncio.run(begin("127.0.0.1", port))
    with pytest.raises(Failure, match=r"^host: there is no no\.such\.invalid$"):
        asyncio.run(begin("no.such.invalid", 0))
    with pytest.raises(Failure, match=r"^port: 0 of 192\.0\.2\.1 cannot be had: "):
        asyncio.run(begin("192.0.2.1", 0))
