"""Receivers that do their worst, each beside a healthy one that must not notice.

Real sockets, a whole worker, a deadline of half a second. Each case says what is recorded:
the class, the status, the phase in which it ended.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import resource
import socket
import struct
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import outbox
from outbox.worker import attempt, send
from outbox.worker.resolver import Resolver
from outbox.worker.transport import HttpTransport
from tests.factories import LOOPBACK, event, rows, subscribe
from tests.logs import CANARY

from .certificates import DAY, NOW, Authority
from .conftest import until, working
from .peers import OK, answering, hang, listening, reset, whole_request

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from outbox.worker.outcome import Reply
    from tests.databases import Database
    from tests.receiver import Receiver

    from .peers import Peer

DEADLINE = 0.5  # seconds for a request
CONNECT = 0.3  # of them to connect
SLACK = 2.5  # for a busy machine
MEMORY = 100_000  # KiB that the process may grow by; the bodies are 1 GB
HEALTHY = 5  # events

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Expected:
    """What is recorded about the attempt."""

    error_class: str | None
    status: int | None = None
    phase: str = ""
    outcome: str = "retry"


def no_answer(error_class: str, phase: str = "") -> Expected:
    return Expected(error_class, phase=phase)


DELIVERED = Expected(None, 200, outcome="delivered")
TRUNCATED = Expected("truncated", 200, outcome="delivered")
WAITING = no_answer("timeout", "(while waiting for the answer)")


async def reset_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def refuse_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    await reader.read()


def flooding(first: bytes, chunk: bytes, times: int = 1_000_000) -> Peer:
    """A receiver that writes as fast as it can."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole_request(reader)
        writer.write(first)
        for _ in range(times):
            writer.write(chunk)
            await writer.drain()

    return peer


BOMB = gzip.compress(b"\0" * 50_000_000)
CASES: dict[str, tuple[Peer, Expected]] = {
    "hangs at once": (hang, WAITING),
    "hangs after the request": (answering(hold=True), WAITING),
    "hangs in its headers": (answering(HEAD + b"a: b\r\n", hold=True), WAITING),
    "hangs in its body": (answering(HEAD + b"content-length: 9\r\n\r\nok", hold=True), TRUNCATED),
    "drips its headers": (answering(HEAD, *[b"a: b\r\n"] * 99, pause=0.02), WAITING),
    "drips its body": (
        answering(HEAD + b"content-length: 99\r\n\r\n", *[b"x"] * 99, pause=0.02), TRUNCATED,
    ),
    "drips 1xx": (answering(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 99, pause=0.02), WAITING),
    "floods with 1xx": (
        flooding(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1_000), no_answer("protocol"),
    ),
    "floods with headers": (flooding(HEAD, b"a: b\r\n" * 1_000), no_answer("protocol")),
    "sends thousands of headers": (
        answering(HEAD + b"".join(b"a%d: b\r\n" % n for n in range(8_000)) + b"\r\n"),
        no_answer("protocol"),
    ),
    "sends a header of 200 KB": (
        answering(HEAD + b"a: " + b"x" * 200_000 + b"\r\n\r\n"), no_answer("protocol"),
    ),
    "floods with one header": (flooding(HEAD + b"a: ", b"x" * 65_536), no_answer("protocol")),
    "sends a gzip bomb": (
        answering(HEAD + b"content-encoding: gzip\r\n\r\n", BOMB), DELIVERED,
    ),
    "sends 1 GB": (
        flooding(HEAD + b"content-length: 1073741824\r\n\r\n", b"x" * 65_536, 16_384), DELIVERED,
    ),
    "sends chunks without end": (
        flooding(CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n"), DELIVERED,
    ),
    "refuses with a body without end": (
        flooding(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 65_536), Expected(None, 500),
    ),
    "breaks its chunking": (
        answering(CHUNKED + b"4\r\nhalf\r\n", b"zz\r\n", pause=0.05), TRUNCATED,
    ),
    "breaks it at once": (answering(CHUNKED + b"zz\r\n\r\n"), TRUNCATED),
    "sends less than it said": (answering(HEAD + b"content-length: 9\r\n\r\nok"), TRUNCATED),
    "sends more than it said": (answering(OK + b" and more"), DELIVERED),
    "sends two lengths": (
        answering(HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        no_answer("protocol"),
    ),
    "speaks HTTP/0.9": (answering(b"<html>hello</html>\n"), no_answer("protocol")),
    "sends garbage": (answering(bytes(range(128, 256)) * 99), no_answer("protocol")),
    "speaks TLS on a plain port": (
        answering(b"\x15\x03\x01\x00\x02\x02\x46"), no_answer("protocol"),
    ),
    "hangs up without an answer": (answering(), no_answer("reset")),
    "hangs up in its headers": (answering(HEAD + b"content-le"), no_answer("reset")),
    "resets at once": (reset_at_once, no_answer("reset")),
    "resets after the request": (reset, no_answer("reset")),
    "leads to a name that is none": (
        answering(b"HTTP/1.1 302 F\r\nlocation: http://xn--a.com/\r\ncontent-length: 0\r\n\r\n"),
        Expected(None, 302),
    ),
    "leads to no URL at all": (
        answering(b"HTTP/1.1 307 F\r\nlocation: x:y\r\ncontent-length: 0\r\n\r\n"),
        Expected(None, 307),
    ),
    "switches protocols": (
        answering(
            b"HTTP/1.1 101 S\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", b"x" * 99, hold=True
        ),
        Expected(None, 101),
    ),
    "answers 999": (
        answering(b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n"), Expected(None, 999),
    ),
    "refuses before it has read": (refuse_early, Expected(None, 413)),
}  # fmt: skip


class Scene:
    """A hostile receiver and a healthy one, both subscribed, and the worker between them."""

    def __init__(
        self, database: Database, healthy: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.database = database
        self.healthy = healthy
        self.replies: dict[str, Reply] = {}

        async def spied(transport: Any, outgoing: Any, deadline: Any) -> Reply:
            reply = await send.send(transport, outgoing, deadline)
            self.replies[outgoing.url] = reply
            return reply

        monkeypatch.setattr(attempt, "send", spied)

    async def play(self, *urls: str, count: int = 1, **options: Any) -> list[tuple[Any, ...]]:
        """Emit, wait until each receiver was tried; return what is recorded of the hostile ones."""
        for url in urls:
            self.subscribe(url)
        with self.database.engine.begin() as connection:
            subscribe(connection, self.healthy.url, ["healthy"])
            outbox.emit_many(connection, [event("healthy")] * HEALTHY)
        self.emit(count)
        transport = HttpTransport(**{"allow": LOOPBACK, "connect_timeout": CONNECT, **options})
        started = time.monotonic()
        async with working(self.database, transport, timeout=DEADLINE):
            await until(lambda: len(self.healthy.requests) >= HEALTHY)
            recorded = await until(lambda: self.recorded(len(urls) * count))
        assert self.healthy.requests[HEALTHY - 1].arrived - started < SLACK
        assert time.monotonic() - started < DEADLINE + 2 * SLACK
        return recorded

    def subscribe(self, url: str) -> None:
        with self.database.engine.begin() as connection:
            subscribe(connection, url, ["hostile"], schedule=[0, 60])

    def emit(self, count: int = 1) -> None:
        with self.database.engine.begin() as connection:
            outbox.emit_many(
                connection, [event("hostile", data={"large": "x" * 1_000, "text": CANARY})] * count
            )

    def recorded(self, count: int) -> list[tuple[Any, ...]]:
        query = """
            SELECT a.error_class, a.status, a.outcome, coalesce(a.error, '')
            FROM outbox.attempt a JOIN outbox.delivery d ON d.id = a.delivery_id
            JOIN outbox.event e ON e.id = d.event_id
            WHERE e.type = 'hostile' ORDER BY a.recorded_at
        """
        with self.database.engine.connect() as connection:
            found = rows(connection, query)
        return found if len(found) >= count else []


@pytest.fixture
def scene(committed_db: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(committed_db, receiver, monkeypatch)


def peak() -> int:
    """The most memory that this process has had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def check(recorded: tuple[Any, ...], expected: Expected) -> None:
    error_class, status, outcome, error = recorded
    assert (error_class, status, outcome) == (
        expected.error_class, expected.status, expected.outcome,
    ), error  # fmt: skip
    assert expected.phase in error


@pytest.mark.parametrize("what", CASES)
def test_a_receiver_that(what: str, scene: Scene) -> None:
    """It ends in time, with its class and phases, in little memory; the healthy one is served."""
    peer, expected = CASES[what]
    before = peak()

    async def run() -> list[tuple[Any, ...]]:
        async with listening(peer) as port:
            return await scene.play(f"http://127.0.0.1:{port}/hook?token={CANARY}")

    (recorded,) = asyncio.run(run())
    (phases,) = (r.phases for url, r in scene.replies.items() if "/hook?" in url)

    check(recorded, expected)
    assert peak() - before < MEMORY
    assert (phases.dns_ms, phases.tls_ms) == (None, None)
    assert None not in (phases.connect_ms, phases.first_byte_ms)
    assert (phases.body_ms is not None) == (expected.status is not None)


# TLS.


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def named(*_: Any, **__: Any) -> list[Any]:
    """Every name is at 127.0.0.1."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


def over_tls(
    scene: Scene, peer: Peer, authority: Authority, context: ssl.SSLContext | None
) -> tuple[tuple[Any, ...], Reply]:
    """What is recorded of https://good.example/, for a receiver with this TLS."""

    async def run() -> list[tuple[Any, ...]]:
        async with listening(peer, **({"ssl": context} if context else {})) as port:
            return await scene.play(
                f"https://good.example:{port}/hook?token={CANARY}",
                resolver=Resolver(named),
                ca_file=authority.file,
            )

    (recorded,) = asyncio.run(run())
    return recorded, next(r for url, r in scene.replies.items() if "/hook?" in url)


def test_a_good_certificate(scene: Scene, authority: Authority) -> None:
    """A certificate of one's own authority is valid for its name, on the pinned address."""
    context = authority.context("good.example")
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    recorded, reply = over_tls(scene, answering(OK), authority, context)

    check(recorded, DELIVERED)
    assert asked == ["good.example"]
    assert None not in reply.phases


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (lambda authority: authority.context("good.example", NOW - DAY), "expired"),
        (lambda authority: authority.context("other.example"), "not valid for 'good.example'"),
        (lambda authority: Authority(authority.another()).context("good.example"), "signature"),
    ],
    ids=["expired", "of another host", "of another authority"],
)
def test_a_bad_certificate(
    scene: Scene,
    authority: Authority,
    context: Callable[[Authority], ssl.SSLContext],
    said: str,
) -> None:
    """Who shows a certificate that is not valid gets nothing, and the reason is recorded."""
    asked: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read())

    recorded, reply = over_tls(scene, peer, authority, context(authority))

    check(recorded, no_answer("tls"))
    assert said in str(reply.error)
    assert asked == []
    assert (reply.phases.tls_ms is not None, reply.phases.body_ms) == (True, None)


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (plain, no_answer("tls")),
        (reset_at_once, no_answer("tls")),
        (hang, no_answer("timeout", "(while in the TLS handshake)")),
    ],
    ids=["speaks no TLS", "resets in the handshake", "hangs in the handshake"],
)
def test_no_handshake(scene: Scene, authority: Authority, peer: Peer, expected: Expected) -> None:
    """A handshake that fails or hangs ends with the time to connect."""
    recorded, reply = over_tls(scene, peer, authority, None)

    check(recorded, expected)
    assert reply.phases.tls_ms is not None
    assert reply.phases.body_ms is None


# Before the connection, and after it.


@asynccontextmanager
async def full() -> AsyncIterator[int]:
    """A port whose queue of connections is full: the next one hangs."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for each in waiting:
                each.close()


def test_nobody_accepts(scene: Scene) -> None:
    """A connection that is not accepted ends with the time to connect."""

    async def run() -> list[tuple[Any, ...]]:
        async with full() as port:
            return await scene.play(f"http://127.0.0.1:{port}/hook?token={CANARY}")

    (recorded,) = asyncio.run(run())

    check(recorded, no_answer("timeout", "no connection within 0.3 s (while connecting)"))


def test_six_names_that_hang(scene: Scene) -> None:
    """Six subscriptions whose names hang in DNS hold nobody else, and end by their class."""
    go_on = threading.Event()

    def lookup(host: str, *_: Any, **__: Any) -> list[Any]:
        go_on.wait(30)
        raise OSError(f"{host} is gone")

    async def run() -> list[tuple[Any, ...]]:
        urls = [f"http://hang{n}.example/hook?token={CANARY}" for n in range(6)]
        return await scene.play(*urls, resolver=Resolver(lookup))

    recorded = asyncio.run(run())
    go_on.set()

    assert len(recorded) == 6
    for each in recorded:
        check(each, no_answer("dns", "DNS gave no answer within 0.3 s"))


def test_a_kept_connection_that_was_closed(scene: Scene) -> None:
    """A receiver that answers once and then closes under the next request loses nothing by it.

    The request that was cut has a row, is no failure, and follows again at once, on another
    connection, with the next number.
    """
    asked: list[int] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):  # the second has no answer
            asked.append(int(re.findall(rb"webhook-attempt: (\d)", await whole_request(reader))[0]))
            if len(asked) != 2:
                writer.write(OK)

    async def run() -> list[tuple[Any, ...]]:
        transport = HttpTransport(allow=LOOPBACK, connect_timeout=CONNECT)
        async with listening(peer) as port:
            scene.subscribe(f"http://127.0.0.1:{port}/hook?token={CANARY}")
            async with working(scene.database, transport, timeout=DEADLINE):
                scene.emit()
                await until(lambda: scene.recorded(1))
                scene.emit()
                return await until(lambda: scene.recorded(3))

    recorded = asyncio.run(run())

    assert [each[:3] for each in recorded] == [
        (None, 200, "delivered"),
        ("stale", None, "retry"),
        (None, 200, "delivered"),
    ]
    assert asked == [1, 1, 2]


def test_an_answer_that_nobody_asked_for(scene: Scene) -> None:
    """What a receiver sends ahead is never taken for the answer to the next request."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole_request(reader)
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(OK)
        await reader.read()

    async def run() -> list[tuple[Any, ...]]:
        async with listening(peer) as port:
            return await scene.play(f"http://127.0.0.1:{port}/hook?token={CANARY}", count=3)

    assert {each[2] for each in asyncio.run(run())} == {"delivered"}
