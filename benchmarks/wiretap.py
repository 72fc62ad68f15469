"""Counts the statements that a program sends to PostgreSQL, as they pass by.

No statistics of a plain server tell how many statements it ran. So the program connects to
a port here, whose bytes go to the server and back as they are, and every message that runs
a statement is counted: Query, and Execute of the extended protocol.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from outbox import database

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS_ONE = (b"Q", b"E")


class Frontend:
    """What one client says: a startup message without a type, then one with a type each."""

    def __init__(self) -> None:
        self._rest = b""
        self._head = 4

    def statements(self, data: bytes) -> int:
        """Return how many statements are run by the messages that `data` completes."""
        self._rest += data
        found = 0
        while (end := self._end()) <= len(self._rest):
            found += self._head == 5 and self._rest[:1] in RUNS_ONE
            self._rest, self._head = self._rest[end:], 5
        return found

    def _end(self) -> int:
        """Return where the first message ends, at least that of its head."""
        length = int.from_bytes(self._rest[self._head - 4 : self._head])
        return max(self._head, self._head - 4 + length)


class Wiretap:
    """A port before the server of `url`; `count` are the statements since the start."""

    def __init__(self, url: str) -> None:
        server = conninfo_to_dict(database.conninfo(url, application_name="outbox-benchmark"))
        self._host = str(server.get("host", "localhost"))
        self._port = int(server.get("port") or 5432)
        self._to = make_url(url)
        self.count = 0

    async def listen(self) -> asyncio.Server:
        """Begin to listen; from now on `url` leads here."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        query = {"sslmode": "disable", "gssencmode": "disable"}  # or there was nothing to read
        here = self._to.set(host="127.0.0.1", port=server.sockets[0].getsockname()[1], query=query)
        self.url = here.render_as_string(hide_password=False)
        return server

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        if self._host.startswith("/"):
            path = f"{self._host}/.s.PGSQL.{self._port}"
            server, statements = await asyncio.open_unix_connection(path)
        else:
            server, statements = await asyncio.open_connection(self._host, self._port)
        await asyncio.gather(
            self._pass(client, statements, Frontend()), self._pass(server, answers, None)
        )

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, said: Frontend | None
    ) -> None:
        with suppress(ConnectionError), closing(sink):
            while data := await source.read(65_536):
                self.count += said.statements(data) if said else 0
                sink.write(data)
                await sink.drain()


@contextmanager
def tapped(url: str) -> Iterator[Wiretap]:
    """Count what passes at the port of the Wiretap's own `url`, for as long as this."""
    with asyncio.Runner() as runner:
        tap, loop = Wiretap(url), runner.get_loop()
        server = runner.run(tap.listen())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield tap
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            server.close()
