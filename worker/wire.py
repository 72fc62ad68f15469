"""One connection, and the answers that come over it: HTTP/1.1 (RFC 9112), and no more of it.

`Answer` is what the bytes say, however they come in pieces; it knows no connection.
`Wire` is the connection: it takes one request after the other, and never a second one
before the answer to the first is complete. Whatever comes that nobody asked for, and
whatever is not as it should be, ends it.

llhttp parses, as in Node.js: nothing here looks at a byte that it has not looked at.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httptools
import httpx

from .failures import Stale

if TYPE_CHECKING:
    from typing import NoReturn

MAX_LINE = 8_190  # bytes of a status or header line
MAX_HEADERS = 128
MAX_HEAD = 65_536  # bytes of an answer before its last header, interim answers included
MAX_UNREAD = 65_536  # bytes of a body that may wait; then nothing more is taken from the network
LENIENT = {  # a receiver that is this wrong is still understood: its answer harms nobody else
    "lenient_headers": True,
    "lenient_optional_cr_before_lf": True,
    "lenient_spaces_after_chunk_size": True,
}


class Answer:
    """The answer to one request, as far as it has come.

    answer = Answer()
    answer.feed(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")
    assert (answer.status, answer.chunks, answer.complete) == (200, [b"ok"], True)

    `status` and `headers` count when it is `headed`; `chunks` are of its body, for the
    reader to take away. `error` says what is wrong with it; a body that is wrong does not
    take the headers with it. `keeps` says whether its connection can be used again.
    """

    __slots__ = (
        "_bodiless", "_framing", "_line", "_parser",
        "begun", "chunks", "complete", "error", "headed", "headers", "keeps", "status",
    )  # fmt: skip

    def __init__(self, *, bodiless: bool = False) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.begun = self.headed = self.complete = self.keeps = False
        self.error: str | None = None
        self._bodiless = bodiless  # as the answer to HEAD is, whatever its headers say
        self._framing = 0  # bytes that were no body
        self._line = 0  # bytes of the reason behind a status
        self._parser: Any = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(**LENIENT)

    def feed(self, data: bytes) -> None:
        """Take the next bytes, as long as there is neither all of it nor an error."""
        self.begun = True
        room = MAX_HEAD - self._framing
        if self.headed or len(data) <= room:
            self._parse(data)
        else:  # so that the limit is the same, however the bytes come in pieces
            self._parse(data[:room])
            if self.headed:
                self._parse(data[room:])
        if not self.complete and self.error is None:
            self._check_framing()
        if self.complete or self.error is not None:
            self._parser = None  # they know each other: nothing but the collector would free them

    def end(self, *, broken: bool) -> None:
        """Take the end of the connection, which is the end of a body that has no other."""
        self._parser = None
        if self.headed and not broken and self.error is None and self._ends_with_connection():
            self.complete = True

    def _parse(self, data: bytes) -> None:
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.keeps = False
        except httptools.HttpParserError as error:
            self.keeps = False
            if not self.complete and self.error is None:
                self.error = f"no valid HTTP: {error}"

    def _check_framing(self) -> None:
        """Around a body (sizes of chunks, trailers) there may be as much again as before it."""
        if not self.headed and self._framing >= MAX_HEAD:
            self.error = "the headers have no end"
        elif self._framing >= 2 * MAX_HEAD:
            self.error = "there is too much around the body"

    def _ends_with_connection(self) -> bool:
        """RFC 9112, 6.3, rule 8."""
        found = {name.lower(): value for name, value in self.headers}
        coding = found.get(b"transfer-encoding")
        if coding is None:
            return b"content-length" not in found
        return coding.lower().split(b",")[-1].strip() != b"chunked"

    def _refuse(self, why: str) -> NoReturn:
        self.error = why
        raise ValueError(why)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("an answer that nobody asked for")

    def on_status(self, reason: bytes) -> None:
        self._line += len(reason)
        if self._line > MAX_LINE:
            self._refuse("the status line is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headed:  # a trailer
            return
        if len(name) + len(value) > MAX_LINE:
            self._refuse("a header is too long")
        if len(self.headers) == MAX_HEADERS:
            self._refuse("there are too many headers")
        if b"\0" in value:
            self._refuse("a header has a NUL in it")
        self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status <= 199 and status != 101:  # interim (RFC 9110, 15.2)
            return
        self.status = status
        self.headed = True
        self.complete = self._bodiless or status == 101
        self.keeps = status != 101 and self._parser.should_keep_alive()

    def on_body(self, chunk: bytes) -> None:
        if not self.headed:
            self._refuse("an interim answer has a body")
        if self.complete:
            self.keeps = False
            return
        self._framing -= len(chunk)
        self.chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self.headed:
            self.complete = True
        else:
            self.headers.clear()
            self._line = 0


class Wire(asyncio.Protocol):
    """One connection.

    wire.ask(b"POST / HTTP/1.1\\r\\n...") and then, until it is complete:
    answer = await wire.headers(); chunk = await wire.chunk()

    Who is interrupted, or has had enough before the end, closes it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer = Answer()
        self._asked = 0
        self._failure: httpx.TransportError | None = None
        self._more: asyncio.Future[None] | None = None
        self._paused = False

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: all is said, on both sides."""
        answer, transport = self._answer, self._transport
        return (
            answer.complete
            and answer.keeps
            and self._failure is None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def ask(self, request: bytes, *, bodiless: bool = False) -> None:
        """Send the bytes of a request, and begin to wait for its answer."""
        self._answer = Answer(bodiless=bodiless)
        self._asked += 1
        self._transport.write(request)

    def write(self, rest: bytes) -> None:
        """Send more of the request."""
        self._transport.write(rest)

    async def headers(self) -> Answer:
        """Return the answer when its headers are there. Raises httpx.TransportError."""
        answer = self._answer
        while not answer.headed:
            await self._wait()
        return answer

    async def chunk(self) -> bytes:
        """Return the next bytes of the body, none at its end. Raises httpx.TransportError."""
        answer = self._answer
        while not answer.chunks and not answer.complete:
            await self._wait()
        chunk = b"".join(answer.chunks)
        answer.chunks.clear()
        return chunk

    def close(self) -> None:
        """Close the connection, with a last word (of TLS) if there is nothing else to say."""
        if self._answer.complete and not self._transport.get_write_buffer_size():
            self._transport.close()
        else:
            self._transport.abort()

    def abort(self) -> None:
        """Close the connection at once, whatever has not left yet."""
        self._transport.abort()

    def _wait(self) -> asyncio.Future[None]:
        if self._failure is not None:
            raise self._failure
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._more = self._loop.create_future()
        return self._more

    def _wake(self) -> None:
        more, self._more = self._more, None
        if more is not None and not more.done():
            more.set_result(None)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer.complete or not self._asked:
            self._fail("something came that nobody had asked for")
            return
        answer.feed(data)
        if answer.error is not None:
            self._fail(answer.error)
        elif not answer.complete and sum(map(len, answer.chunks)) > MAX_UNREAD:
            self._paused = True
            self._transport.pause_reading()
        if answer.headed or answer.error is not None:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._answer.end(broken=error is not None)
        if self._failure is None:
            self._failure = self._cut(error)
        self._wake()

    def _fail(self, why: str) -> None:
        self._failure = httpx.RemoteProtocolError(why)
        self._transport.abort()

    def _cut(self, error: Exception | None) -> httpx.TransportError:
        if self._answer.headed:
            return httpx.ReadError("the body broke off")
        if self._asked > 1 and not self._answer.begun:
            return Stale("a kept connection was closed by the receiver")
        if isinstance(error, OSError) and error.strerror:
            return httpx.ReadError(error.strerror)
        return httpx.ReadError("the receiver closed the connection without an answer")
