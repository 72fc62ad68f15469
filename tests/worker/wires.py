"""Connections in memory: what a receiver says comes in the pieces that a test wants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from outbox.request import Outgoing
from outbox.worker.send import send
from outbox.worker.transport import HttpTransport
from outbox.worker.wire import Wire

from .peers import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from outbox.worker.outcome import Reply
    from outbox.worker.phases import Stopwatch
    from outbox.worker.route import Place


class Line(asyncio.Transport):
    """The network's side of one connection; it says `pieces` when it is asked.

    Then it hangs up, unless it is to `hold`.
    """

    def __init__(self, pieces: Iterable[bytes], *, hold: bool = False) -> None:
        super().__init__()
        self.wire = Wire()
        self.sent = b""
        self.taken = 0  # bytes that the wire took
        self.unsent = 0  # bytes that it could not get rid of
        self.paused = False
        self._pieces = pieces
        self._left = iter(pieces)
        self._hold = hold
        self._closing = False
        self.wire.connection_made(self)

    def say(self, data: bytes) -> None:
        """Say something, asked or not."""
        self.taken += len(data)
        self.wire.data_received(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        self._left = iter(self._pieces)
        self._soon(self._go_on)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self._soon(self._go_on)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._soon(lambda: self.wire.connection_lost(None))

    def abort(self) -> None:
        self.close()

    def _go_on(self) -> None:
        if self._closing or self.paused:
            return
        piece = next(self._left, None)
        if piece is not None:
            self.say(piece)
            self._soon(self._go_on)
        elif not self._hold:
            self.close()

    def _soon(self, step: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(step)


class Lines:
    """Takes the place of the connector: each connection has the next of `scripts`."""

    def __init__(self, *scripts: Iterable[bytes], hold: bool = False) -> None:
        self.made: list[Line] = []
        self._scripts = iter(scripts)
        self._hold = hold

    async def connect(self, place: Place, watch: Stopwatch) -> Wire:
        self.made.append(Line(next(self._scripts), hold=self._hold))
        return self.made[-1].wire


class Sender:
    """A transport without a network, in an event loop that stays; made once for many sends."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._transport = self._runner.run(self._made())

    async def _made(self) -> HttpTransport:
        return HttpTransport(connect_timeout=5)

    def close(self) -> None:
        self._runner.run(self._transport.aclose())
        self._runner.close()

    def replies(self, lines: Lines, *urls: str, method: str = "POST") -> list[Reply]:
        """Send to each of `urls`, one after the other."""

        async def run() -> list[Reply]:
            transport = self._transport
            transport._connector = lines  # type: ignore[assignment]
            transport._kept._by_place.clear()
            return [
                await send(transport, Outgoing(url, (), b"{}", method), within(5)) for url in urls
            ]

        return self._runner.run(run())
