"""What is served at `--metrics-port`, for all processes of a worker: by any one of them.

    /metrics   the sums of what all have counted, and what waits in the database
    /healthz   200 while the loops of all processes turn
    /readyz    200 while all are registered and PostgreSQL answers, on the right schema,
               in each of their databases

All processes accept at one socket, which was there before them: whichever of them dies,
another one answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import psycopg

from outbox.errors import DatabaseUnavailable, OutboxError

from .endpoint import Page, serving
from .faults import in_a_line
from .ledger import SILENCE, Ledger
from .look import Look

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from .ledger import Row

STUCK = 30.0  # seconds after which a process whose loop does not turn is not healthy
FRESH = 1.0  # seconds for which an answer of PostgreSQL counts
PROBE = 2.0  # seconds that it has to answer


class Checked(Protocol):
    """What can tell how a database is."""

    async def check(self) -> None:
        """Raise psycopg.Error or an OutboxError unless it answers as it should."""


@dataclass(frozen=True, slots=True)
class Post:
    """Where a process stands among those of its worker; `listener` is None without a port."""

    ledger: Ledger
    place: int = 0
    listener: socket.socket | None = None

    @property
    def row(self) -> Row:
        """The numbers of this process."""
        return self.ledger.rows[self.place]


def alone() -> Post:
    """Return the post of a process that has no others beside it, and is not asked."""
    return Post(Ledger(1))


def unhealthy(rows: Sequence[Row], now: float) -> list[str]:
    """Return what is wrong with the processes of `rows`, at `now` of the monotonic clock."""
    silent = {place: now - row.alive_at for place, row in enumerate(rows)}
    return [
        f"process {place}: its loop has not turned for {seconds:.0f} s"
        for place, seconds in silent.items()
        if seconds > STUCK
    ]


def unready(rows: Sequence[Row], now: float) -> list[str]:
    """Return which processes of `rows` do not work, or not yet, at `now`, and why."""
    return [
        f"process {place}: {'not registered' if row.alive_at >= now - SILENCE else 'not running'}"
        for place, row in enumerate(rows)
        if not row.is_ready or row.alive_at < now - SILENCE
    ]


class Monitor:
    """The pages, as one process answers them; of several databases each is asked, by its name."""

    def __init__(
        self, post: Post, checked: Checked | Mapping[str, Checked],
        database_url: str | tuple[str, ...],
    ) -> None:  # fmt: skip
        self._post = post
        self._checked = checked if isinstance(checked, Mapping) else {"": checked}
        self._look = Look(database_url, post.ledger.whole)
        self._probing = asyncio.Lock()
        self._probed_at = float("-inf")
        self._faults: list[str] = []

    def serving(self, listener: socket.socket) -> AbstractAsyncContextManager[None]:
        """Answer what comes to `listener`, within this context."""
        pages = {"/metrics": self.metrics, "/healthz": self.healthz, "/readyz": self.readyz}
        return serving(listener, pages)

    async def metrics(self) -> Page:
        """The numbers of all processes."""
        from .exposition import CONTENT_TYPE, exposed

        await self._look.refresh()
        totals = self._post.ledger.totals(time.monotonic())
        return Page(HTTPStatus.OK, exposed(totals), CONTENT_TYPE)

    async def healthz(self) -> Page:
        """Whether the processes live."""
        return _verdict(unhealthy(self._post.ledger.rows, time.monotonic()))

    async def readyz(self) -> Page:
        """Whether the processes can work."""
        await self._probe()
        return _verdict([*unready(self._post.ledger.rows, time.monotonic()), *self._faults])

    async def _probe(self) -> None:
        """Ask PostgreSQL, however many ask us, once a second at most."""
        async with self._probing:
            if time.monotonic() < self._probed_at + FRESH:
                return
            found = await asyncio.gather(*map(_asked, self._checked.values()))
            told = zip(self._checked, found, strict=True)
            self._faults = [": ".join(filter(None, each)) for each in told if each[1]]
            self._probed_at = time.monotonic()


async def _asked(checked: Checked) -> str | None:
    try:
        async with asyncio.timeout(PROBE):
            await checked.check()
    except TimeoutError:
        return f"database: no answer within {PROBE:g} s"
    except psycopg.Error as error:
        return f"database: {in_a_line(error)}"
    except DatabaseUnavailable as error:
        return str(error)
    except OutboxError as error:
        return f"schema: {error}"
    return None


def _verdict(faults: Sequence[str]) -> Page:
    if not faults:
        return Page(HTTPStatus.OK, b"ok\n")
    return Page(HTTPStatus.SERVICE_UNAVAILABLE, "".join(f"{fault}\n" for fault in faults).encode())
