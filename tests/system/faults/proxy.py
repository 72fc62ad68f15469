"""A proxy before PostgreSQL that cuts connections where it hurts most.

before   a statement is taken from the client and never passed on
after    it is passed on, and the server's answer is not: who sent it cannot know
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


class Proxy:
    """Listens on a port of 127.0.0.1 while it is used as a context manager."""

    def __init__(self, socket: Path) -> None:
        self.port = 0
        self.cuts = {"before": 0, "after": 0}  # that happened
        self._socket = socket
        self._armed = {"before": 0, "after": 0}  # still to do
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def cut(self, where: str, count: int) -> None:
        """Cut the next `count` statements of whoever comes by."""
        self._armed[where] += count

    def disarm(self) -> None:
        """Cut no more."""
        self._armed = dict.fromkeys(self._armed, 0)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours: list[asyncio.StreamWriter] = [writer]
        try:
            answers, statements = await asyncio.open_unix_connection(self._socket)
            ours.append(statements)
            asked = asyncio.Event()
            ways = (self._forth(reader, statements, asked), self._back(answers, writer, asked))
            tasks = [asyncio.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            pass  # the server is away
        finally:
            for each in ours:
                with suppress(OSError):
                    each.transport.abort()

    async def _forth(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event
    ) -> None:
        while data := await reader.read(65_536):
            if self._is_statement(data) and self._take("before"):
                return
            if self._is_statement(data) and self._take("after"):
                asked.set()
            writer.write(data)
            await writer.drain()

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event
    ) -> None:
        while data := await reader.read(65_536):
            if asked.is_set():
                return
            writer.write(data)
            await writer.drain()

    def _is_statement(self, data: bytes) -> bool:
        """Whether a client asks for something: a query, or the execution of a prepared one."""
        return data[:1] in b"QPB"

    def _take(self, where: str) -> bool:
        if self._armed[where] <= 0:
            return False
        self._armed[where] -= 1
        self.cuts[where] += 1
        return True
