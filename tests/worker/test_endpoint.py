"""The small server of /metrics: what it answers, and what it does not let itself be made to do."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from outbox.errors import InvalidInput
from outbox.worker import endpoint
from outbox.worker.endpoint import Page, listen, serving

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as made:
        yield made


async def fine() -> Page:
    return Page(HTTPStatus.OK, b"fine\n")


async def ask(listener: socket.socket, request: bytes) -> bytes:
    """Send `request`, end what is sent, and return all that is answered."""
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(request)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def answered(listener: socket.socket, request: bytes) -> bytes:
    async def run() -> bytes:
        async with serving(listener, {"/fine": fine}):
            return await ask(listener, request)

    return asyncio.run(run())


def test_answer(listener: socket.socket) -> None:
    """A page is served by its path, whatever is asked for behind it, and the connection ends."""
    answer = answered(listener, b"GET /fine?name[]=x HTTP/1.1\r\nhost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 5\r\n" in head
    assert head.endswith(b"connection: close")
    assert body == b"fine\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /fine HTTP/1.1\r\ncontent-length: 9999999999\r\n\r\n", b"405"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET /fine\r\n\r\n", b"400"),
        (b"GET /fine HTTP/1.1\r\nx: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_refused(listener: socket.socket, request_: bytes, status: bytes) -> None:
    """Whatever else comes is refused with its status."""
    assert answered(listener, request_).split(b" ")[1] == status


def test_half_a_request(listener: socket.socket) -> None:
    """Who hangs up before the end of the request gets no answer, and harms nobody."""
    assert answered(listener, b"GET /fine HTTP/1.1\r\n") == b""


def test_slow_ones_are_cut_off(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing is closed; while too many are open, further ones are."""
    monkeypatch.setattr(endpoint, "SECONDS", 0.2)
    monkeypatch.setattr(endpoint, "CONNECTIONS", 1)

    async def run() -> None:
        async with serving(listener, {"/fine": fine}):
            silent, writer = await asyncio.open_connection(*listener.getsockname())
            second, other = await asyncio.open_connection(*listener.getsockname())
            assert await second.read() == b""
            assert await silent.read() == b""
            assert b"fine" in await ask(listener, b"GET /fine HTTP/1.1\r\n\r\n")
            writer.close()
            other.close()

    asyncio.run(run())


def test_port_in_use(listener: socket.socket) -> None:
    """It is told in a line which port of which host cannot be had."""
    port = listener.getsockname()[1]

    with pytest.raises(InvalidInput, match=f"{port} on 127.0.0.1"):
        listen("127.0.0.1", port)
    with pytest.raises(InvalidInput, match=r"on no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)
