"""What the bytes of an answer mean, however they come, and what may follow on its connection."""

from __future__ import annotations

import asyncio
from itertools import pairwise, repeat
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.request import Outgoing
from outbox.worker import crash
from outbox.worker.phases import NO_PHASES
from outbox.worker.send import send
from outbox.worker.transport import HttpTransport
from outbox.worker.wire import MAX_HEAD, MAX_UNREAD, Wire

from .peers import OK, within
from .said import ANSWERS, CHUNKED, HEAD, TRUNCATED, answered
from .wires import Line, Lines, Sender

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.worker.outcome import Reply
    from outbox.worker.wire import Answer

URL = "http://r/x"


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    made = Sender()
    yield made
    made.close()


def bare(reply: Reply) -> Reply:
    """Only what a split of the bytes must not change, and what a table can say."""
    return reply._replace(headers=(), error=None, phases=NO_PHASES)


@pytest.mark.parametrize("what", ANSWERS)
def test_answers(sender: Sender, what: str) -> None:
    """Every answer has its meaning, and every fault its class."""
    data, expected = ANSWERS[what]
    (reply,) = sender.replies(Lines([data]), URL)

    assert bare(reply) == expected


@st.composite
def split(draw: st.DrawFn, answers: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """An answer, and the same in pieces."""
    data = draw(answers)
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=12))
    places = sorted({0, len(data), *cuts})
    return data, [data[start:end] for start, end in pairwise(places)]


@settings(deadline=None)
@given(split(st.sampled_from([data for data, _ in ANSWERS.values()])))
def test_pieces(sender: Sender, parts: tuple[bytes, list[bytes]]) -> None:
    """However the bytes of an answer come in pieces, it leads to the same Reply, word for word."""
    data, pieces = parts
    whole, cut = sender.replies(Lines([data]), URL) + sender.replies(Lines(pieces), URL)

    assert cut._replace(phases=NO_PHASES) == whole._replace(phases=NO_PHASES)


@pytest.mark.parametrize("what", [name for name, (data, _) in ANSWERS.items() if len(data) < 500])
def test_byte_by_byte(sender: Sender, what: str) -> None:
    """One byte after the other is an answer as well."""
    data, expected = ANSWERS[what]
    (reply,) = sender.replies(Lines([bytes([each]) for each in data]), URL)

    assert bare(reply) == expected


def damaged() -> st.SearchStrategy[bytes]:
    """Answers with some bytes replaced, taken out or put in."""
    good = st.sampled_from([data for data, _ in ANSWERS.values() if len(data) < 2_000])
    edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=4)))

    def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
        for where, gone, put in edits:
            at = round(where * len(data))
            data = data[:at] + put + data[at + gone :]
        return data

    return st.builds(edited, good, edits)


@settings(deadline=None)
@given(split(st.one_of(damaged(), st.binary(max_size=300))))
def test_garbage(sender: Sender, parts: tuple[bytes, list[bytes]]) -> None:
    """Whatever comes ends in a Reply: an answer, or a fault of the receiver's."""
    _, pieces = parts
    (reply,) = sender.replies(Lines(pieces), URL)

    if reply.status is None:
        assert reply.error_class in {"protocol", "reset"}
    else:
        assert 0 < reply.status <= 999
        assert reply.error_class in {None, "truncated"}


def test_head(sender: Sender) -> None:
    """The answer to HEAD has no body, whatever its headers say."""
    (reply,) = sender.replies(Lines([HEAD + b"content-length: 9\r\n\r\n"]), URL, method="HEAD")

    assert bare(reply) == answered(b"")


def test_headers(sender: Sender) -> None:
    """Headers are those of the answer: no interim ones, no trailers, without blanks around."""
    data = (
        b"HTTP/1.1 103 E\r\nlink: </a>\r\n\r\n" + HEAD + b"X-A: \t one two \t\r\nx-a:\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nx-late: 1\r\n\r\n"
    )  # fmt: skip
    (reply,) = sender.replies(Lines([data]), URL)

    assert reply.headers == (("x-a", "one two"), ("x-a", ""), ("transfer-encoding", "chunked"))


# What may follow on a connection.

KEEP = b"content-length: 2\r\n\r\nok"
FOLLOWS: dict[str, tuple[bytes, bool]] = {
    "length": (OK, True),
    "chunks": (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", True),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\na: b\r\n\r\n", True),
    "204": (b"HTTP/1.1 204 N\r\n\r\n", True),
    "100 before": (b"HTTP/1.1 100 C\r\n\r\n" + OK, True),
    "close": (HEAD + b"connection: close\r\n" + KEEP, False),
    "close among others": (HEAD + b"connection: x, Close\r\n" + KEEP, False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n" + KEEP, False),
    "HTTP/1.0 that keeps": (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n" + KEEP, True),
    "101": (b"HTTP/1.1 101 S\r\n\r\n", False),
    "an answer too many": (OK + OK, False),
    "bytes too many": (OK + b"x", False),
    "longer than it said": (OK + b" and more", False),
    "more than is read": (HEAD + b"content-length: 9999\r\n\r\n" + b"x" * 9_000, False),
    "a broken body": (CHUNKED + b"zz\r\n", False),
}


@pytest.mark.parametrize("what", FOLLOWS)
def test_what_may_follow(sender: Sender, what: str) -> None:
    """A connection is used again only after an answer that is whole, alone and says so."""
    data, follows = FOLLOWS[what]
    lines = Lines([data], [data], hold=True)
    first, second = sender.replies(lines, URL, URL)

    assert len(lines.made) == (1 if follows else 2)
    assert bare(first) == bare(second)
    assert lines.made[0].is_closing() is not follows


def test_each_place_has_its_own(sender: Sender) -> None:
    """Connections are told apart by scheme, host and port; the path does not matter."""
    urls = ["http://a/x", "http://a/y", "https://a/", "http://a:8080/", "http://b/"]
    lines = Lines(*repeat([OK], 4), hold=True)
    sender.replies(lines, *urls)

    assert len(lines.made) == 4
    assert lines.made[0].sent.count(b"Host: a\r\n") == 2


async def asked(line: Line) -> Wire:
    line.wire.ask(b"POST / HTTP/1.1\r\n\r\n")
    await line.wire.headers()
    return line.wire


def test_what_comes_unasked() -> None:
    """A byte on a connection that waits, or before the first request, ends it."""

    async def run() -> list[bool]:
        used, fresh = Line([OK], hold=True), Line([])
        wire = await asked(used)
        found = [wire.reusable]
        for line in (used, fresh):
            line.say(b"H")
            found.append(line.is_closing())
        return [*found, wire.reusable]

    assert asyncio.run(run()) == [True, True, True, False]


def test_who_speaks_first() -> None:
    """What speaks before it was asked, as mail servers do, does not speak HTTP."""

    async def run() -> Answer:
        line = Line([])
        line.say(b"220 mail ready\r\n")
        return await (await asked(line)).headers()

    with pytest.raises(httpx.RemoteProtocolError, match="nobody had asked"):
        asyncio.run(run())


def test_half_a_request(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker can be made to die when half of a request has left."""
    lines = Lines([OK])
    left: dict[str, bytes] = {}
    monkeypatch.setattr(crash, "WHERE", "half")
    monkeypatch.setattr(crash, "at", lambda point: left.setdefault(point, lines.made[-1].sent))
    (reply,) = sender.replies(lines, URL)

    assert left["half"].endswith(b"Content-Length: 2\r\n\r\n{")
    assert lines.made[0].sent == left["half"] + b"}"
    assert reply.status == 200


def test_a_request_that_is_not_sent() -> None:
    """After an answer that came before the request had left, nothing follows."""

    async def run() -> tuple[bool, bool]:
        line = Line([OK], hold=True)
        line.unsent = 9
        wire = await asked(line)
        wire.close()
        return wire.reusable, line.is_closing()

    assert asyncio.run(run()) == (False, True)


def test_a_request_that_is_cancelled() -> None:
    """Who gives a request up, while it waits or while it reads, closes its connection."""

    async def run(said: bytes) -> bool:
        transport = HttpTransport(connect_timeout=5)
        lines = Lines([said], hold=True)
        transport._connector = lines  # type: ignore[assignment]
        sending = asyncio.create_task(send(transport, Outgoing(URL, (), b""), within(5)))
        while not (lines.made and lines.made[0].taken == len(said)):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        await transport.aclose()
        return sending.cancelled() and lines.made[0].is_closing()

    for said in (b"", HEAD, HEAD + b"content-length: 9\r\n\r\nok"):
        assert asyncio.run(run(said))


def test_a_body_that_nobody_reads() -> None:
    """What a receiver floods with waits in the network, not in memory, until it is read."""

    async def run() -> tuple[int, bytes]:
        line = Line(repeat(b"x" * 1_000), hold=True)
        line.wire.ask(b"POST / HTTP/1.1\r\n\r\n")
        line.say(HEAD + b"\r\n")
        for _ in range(1_000):
            await asyncio.sleep(0)
        taken = line.taken
        return taken, await line.wire.chunk() + await line.wire.chunk()

    taken, read = asyncio.run(run())

    assert MAX_UNREAD < taken < MAX_UNREAD + 2_000
    assert len(read) > MAX_UNREAD


@pytest.mark.parametrize(
    "pieces",
    [
        repeat(b"1;" + b"x" * 1_000 + b"\r\nx\r\n"),
        [b"1;", *[b"x" * 1_000] * 1_000],
        [b"0\r\n", *[b"a: b\r\n" * 100] * 1_000],
        [b"0\r\na: ", *[b"x" * 1_000] * 1_000],
    ],
    ids=["extensions", "one extension", "trailers", "one trailer"],
)
def test_what_is_no_body(pieces: list[bytes]) -> None:
    """Around the chunks of a body there is no more room than in a head."""

    async def run() -> tuple[Reply, int]:
        transport = HttpTransport(connect_timeout=5)
        lines = Lines((each for some in ([CHUNKED], pieces) for each in some), hold=True)
        transport._connector = lines  # type: ignore[assignment]
        reply = await send(transport, Outgoing(URL, (), b""), within(5))
        await transport.aclose()
        return reply, lines.made[0].taken

    reply, taken = asyncio.run(run())

    assert bare(reply) == TRUNCATED
    assert taken < 2 * MAX_HEAD + 2_000
