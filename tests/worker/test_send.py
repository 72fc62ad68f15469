"""One request: whatever the receiver does, a Reply comes, in time, and says what happened."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from outbox.request import Outgoing
from outbox.worker.failures import Blocked, DnsError, Stale, TlsError
from outbox.worker.send import BODY_KEPT, send
from outbox.worker.transport import HttpTransport
from tests.factories import LOOPBACK

from .peers import OK, answering, hang, listening, reset, whole_request, within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from outbox.worker.outcome import Reply

    from .peers import Peer

BODY = b'{"type":"invoice.paid"}'
DEADLINE = 0.3
SLACK = 3.0  # for a busy machine; who drips would go on for 5 seconds

# A self-signed certificate for 127.0.0.1 that nobody trusts.
CERTIFICATE = """
-----BEGIN CERTIFICATE-----
MIIBKzCB0qADAgECAgEBMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCTEyNy4wLjAu
MTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowFDESMBAGA1UEAwwJ
MTI3LjAuMC4xMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEO9XoqtPCiNWMq4Yf
+rIFo5fb4j7HsMjVCW5GWxdP78eZgcbiORQo9gI10KUtFjAvKz7qLqgqAscru+zO
VsN0lKMTMBEwDwYDVR0RBAgwBocEfwAAATAKBggqhkjOPQQDAgNIADBFAiEAtUxB
zF+cRhfjuOl4vuMcZKpJppP7+kcS6MJoCHZM5jICIG/+u8+aeR6ap+rhGsof8/Ou
rwhpsNsB9F615OxeUrKf
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgkaaQu4GDpUii8fld
sL62y/d0D3x7GwqkfonlmJRPZOuhRANCAAQ71eiq08KI1Yyrhh/6sgWjl9viPsew
yNUJbkZbF0/vx5mBxuI5FCj2AjXQpS0WMC8rPuouqCoCxyu77M5Ww3SU
-----END PRIVATE KEY-----
"""


def outgoing(url: str, *, body: bytes = BODY) -> Outgoing:
    return Outgoing(url, ((b"content-type", b"application/json"), (b"webhook-id", b"1")), body)


# With any transport.


def through(handler: Callable[[httpx.Request], httpx.Response], url: str = "http://r/x") -> Reply:
    return asyncio.run(send(httpx.MockTransport(handler), outgoing(url), within(5)))


def test_request() -> None:
    """What leaves is a POST of the very bytes and headers that were built."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(204)

    reply = through(answer, "http://r/x?y=1")

    assert (reply.status, reply.body, reply.error_class) == (204, b"", None)
    assert (seen[0].method, str(seen[0].url), seen[0].content) == ("POST", "http://r/x?y=1", BODY)
    assert seen[0].headers.raw == list(outgoing("http://r/x").headers)


def test_reply() -> None:
    """The reply has the status, the headers in lower case and the body."""
    reply = through(lambda _: httpx.Response(503, headers={"Retry-After": "7"}, content=b"busy"))

    assert (reply.status, reply.body) == (503, b"busy")
    assert ("retry-after", "7") in reply.headers


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (httpx.ConnectTimeout, "timeout"),
        (httpx.ReadTimeout, "timeout"),
        (httpx.WriteTimeout, "timeout"),
        (httpx.ConnectError, "connect"),
        (httpx.ReadError, "reset"),
        (httpx.WriteError, "reset"),
        (httpx.CloseError, "reset"),
        (httpx.RemoteProtocolError, "protocol"),
        (httpx.LocalProtocolError, "protocol"),
        (httpx.UnsupportedProtocol, "protocol"),
        (httpx.ProxyError, "connect"),
        (httpx.PoolTimeout, "internal"),
        (DnsError, "dns"),
        (TlsError, "tls"),
        (Blocked, "blocked"),
        (Stale, "stale"),
    ],
)
def test_error_classes(error: type[httpx.TransportError], error_class: str) -> None:
    """Each failure of a transport has its class."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise error("what happened")

    reply = through(fail)

    assert (reply.status, reply.error_class) == (None, error_class)
    assert str(reply.error).startswith("what happened")


# With the real one, and receivers that misbehave.


async def exchange(
    port: int, *, path: str = "/x", timeout: float = DEADLINE, body: bytes = BODY, times: int = 1
) -> Reply:
    """Send to a port with a transport of its own; the last reply."""
    transport = HttpTransport(allow=LOOPBACK, connect_timeout=5)
    try:
        for _ in range(times):
            reply = await send(
                transport, outgoing(f"http://127.0.0.1:{port}{path}", body=body), within(timeout)
            )
    finally:
        await transport.aclose()
    return reply


def sent_to(peer: Peer, **options: Any) -> Reply:
    """What comes of a request to this receiver."""

    async def run() -> Reply:
        async with listening(peer) as port:
            return await exchange(port, **options)

    return asyncio.run(run())


def test_on_the_wire() -> None:
    """Nothing is added but host and length: no cookies, no accepted encodings, no agent."""
    seen: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await whole_request(reader))
        writer.write(OK)

    reply = sent_to(peer, path="/a%20b?x=%2F&y=1")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")

    assert (reply.status, reply.body) == (200, b"ok")
    assert (first, body) == (b"POST /a%20b?x=%2F&y=1 HTTP/1.1", BODY)
    assert {line.split(b":")[0].lower() for line in lines} == {
        b"host", b"content-type", b"webhook-id", b"content-length",
    }  # fmt: skip


FAILURES: dict[str, tuple[Peer, str]] = {
    "hangs": (hang, "timeout"),
    "hangs after the request": (answering(hold=True), "timeout"),
    "drips its headers": (
        answering(b"HTTP/1.1 200 OK\r\n", *[b"a: b\r\n"] * 99, pause=0.05), "timeout",
    ),
    "continues for ever": (
        answering(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 99, pause=0.05), "timeout",
    ),
    "resets": (reset, "reset"),
    "hangs up": (answering(), "reset"),
    "hangs up in its headers": (answering(b"HTTP/1.1 200 OK\r\ncontent-le"), "reset"),
    "does not speak HTTP": (answering(b"220 mail ready\r\n\r\n"), "protocol"),
    "sends a bad status": (answering(b"HTTP/1.1 abc OK\r\n\r\n"), "protocol"),
    "sends a status out of range": (answering(b"HTTP/1.1 99999 OK\r\n\r\n"), "protocol"),
    "sends two lengths": (
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        "protocol",
    ),
    "sends a header without end": (
        answering(b"HTTP/1.1 200 OK\r\na: " + b"x" * 200_000 + b"\r\n\r\n"),
        "protocol",
    ),
    "speaks TLS": (answering(b"\x15\x03\x01\x00\x02\x02\x46"), "protocol"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAILURES)
def test_no_answer(what: str) -> None:
    """A receiver that gives no answer is told by its class, before the deadline is over."""
    peer, error_class = FAILURES[what]
    started = time.monotonic()
    reply = sent_to(peer, path="/x?token=hidden")

    assert (reply.status, reply.error_class, reply.body) == (None, error_class, b"")
    assert time.monotonic() - started < DEADLINE + SLACK
    assert reply.error
    assert "hidden" not in reply.error


@pytest.mark.parametrize(
    "peer",
    [
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"),
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", hold=True),
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", *[b"x"] * 99, pause=0.05),
        answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"zz\r\n", pause=0.05),
    ],
    ids=["cut", "held", "dripped", "chunk missing", "chunk broken"],
)
def test_broken_body(peer: Peer) -> None:
    """When the headers were seen, they count; the broken body is a note."""
    started = time.monotonic()
    reply = sent_to(peer)

    assert (reply.status, reply.error_class) == (200, "truncated")
    assert time.monotonic() - started < DEADLINE + SLACK


def test_long_body() -> None:
    """Of a long body 8 KiB are kept, and the rest is not waited for."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n"
    reply = sent_to(answering(head, b"x" * 1_048_576), timeout=5)

    assert (reply.status, reply.error_class, reply.body) == (200, None, b"x" * BODY_KEPT)


def test_endless_body() -> None:
    """A body without end is cut off, and its connection with it."""
    ended = asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        except ConnectionError:
            ended.set()
            raise

    async def run() -> Reply:
        async with listening(peer) as port:
            reply = await exchange(port, timeout=5)
            await asyncio.wait_for(ended.wait(), 5)
            return reply

    reply = asyncio.run(run())

    assert (reply.status, len(reply.body), reply.error_class) == (200, BODY_KEPT, None)


def test_compressed_body() -> None:
    """A body that is compressed all the same is kept as it came, not blown up."""
    bomb = gzip.compress(b"\0" * 10_000_000)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    reply = sent_to(answering(head, bomb), timeout=5)

    assert (reply.status, reply.body) == (200, bomb[:BODY_KEPT])


def test_answer_before_the_request_is_read() -> None:
    """A receiver that refuses a large request before it has read it is heard."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        await reader.read()

    reply = sent_to(peer, body=b"x" * 1_000_000, timeout=5)

    assert (reply.status, reply.error_class) == (413, None)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/other",
        "/other",
        "//127.0.0.1:{port}/other",
        "http://xn--a.com/",
        "x:y",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "javascript:alert(1)",
        "\xff\xfe",
        "",
    ],
)
@pytest.mark.parametrize("status", [301, 307])
def test_redirects(status: int, location: str) -> None:
    """A redirect is an answer like any other: never followed, whatever Location says."""
    asked: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await whole_request(reader))
        port = writer.get_extra_info("sockname")[1]
        target = location.format(port=port).encode("latin-1")
        head = b"HTTP/1.1 %d Moved\r\nlocation: %s\r\ncontent-length: 0\r\n\r\n"
        writer.write(head % (status, target))

    reply = sent_to(peer, timeout=5)

    assert (reply.status, reply.error_class, len(asked)) == (status, None, 1)


def test_cookies_are_not_kept() -> None:
    """A cookie of one answer does not go out with the next request."""
    asked: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked.append(await whole_request(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n")

    sent_to(peer, times=2, timeout=5)

    assert len(asked) == 2
    assert b"cookie" not in asked[1].lower()


def test_connections_are_kept() -> None:
    """The next request to a receiver takes the same connection."""
    connections: list[int] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        while True:
            await whole_request(reader)
            writer.write(OK)

    sent_to(peer, times=3, timeout=5)

    assert len(connections) == 1


def test_connections_that_were_closed_are_not_used() -> None:
    """A receiver that closes a kept connection costs no attempt."""
    reply = sent_to(answering(OK), times=3, timeout=5)

    assert (reply.status, reply.error_class) == (200, None)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy that happens to be set sees a webhook."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert sent_to(answering(OK), timeout=5).status == 200


# Without a connection.


def unreachable(url: str, *, timeout: float = 5, connect_timeout: float = 5) -> Reply:
    async def run() -> Reply:
        transport = HttpTransport(allow=LOOPBACK, connect_timeout=connect_timeout)
        try:
            return await send(transport, outgoing(url), within(timeout))
        finally:
            await transport.aclose()

    return asyncio.run(run())


def test_refused() -> None:
    """A port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reply = unreachable(f"http://127.0.0.1:{port}/?token=hidden")

    assert (reply.status, reply.error_class) == (None, "connect")
    assert "hidden" not in str(reply.error)


@pytest.mark.parametrize("name", ["name.invalid", "xn--a.com.invalid", "a" * 63 + ".invalid"])
def test_unknown_name(name: str) -> None:
    """A name that does not resolve."""
    reply = unreachable(f"http://{name}/?token=hidden", timeout=30)

    assert (reply.status, reply.error_class) == (None, "dns")
    assert "hidden" not in str(reply.error)


def test_connecting_takes_too_long() -> None:
    """A receiver whose handshake hangs has the seconds to connect, not the whole deadline."""

    async def run() -> Reply:
        async with listening(hang) as port:
            transport = HttpTransport(allow=LOOPBACK, connect_timeout=DEADLINE)
            try:
                return await send(transport, outgoing(f"https://127.0.0.1:{port}/"), within(30))
            finally:
                await transport.aclose()

    assert asyncio.run(run()).error_class == "timeout"


def https(peer: Peer, **options: Any) -> Reply:
    async def run() -> Reply:
        async with listening(peer, **options) as port:
            transport = HttpTransport(allow=LOOPBACK, connect_timeout=5)
            try:
                return await send(transport, outgoing(f"https://127.0.0.1:{port}/"), within(5))
            finally:
                await transport.aclose()

    return asyncio.run(run())


def test_tls_to_a_plain_port() -> None:
    """A receiver that does not speak TLS."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    reply = https(peer)

    assert (reply.status, reply.error_class) == (None, "tls")


def test_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    """A receiver whose certificate does not verify gets nothing."""
    asked: list[Awaitable[bytes]] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(whole_request(reader))

    chain = tmp_path / "chain.pem"
    chain.write_text(CERTIFICATE)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    reply = https(peer, ssl=context)

    assert (reply.status, reply.error_class, asked) == (None, "tls", [])
    assert "certificate" in str(reply.error).lower()
