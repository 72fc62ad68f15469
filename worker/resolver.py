"""Names to addresses, so that a name that hangs delays no other.

`getaddrinfo` knows what the system knows (/etc/hosts, search lists), but it blocks and has
no deadline. So it runs in threads of our own: never in the event loop's executor, which
has only a handful and serves others too. A name is looked up once at a time, whoever asks
meanwhile waits for the same answer, and a thread that hangs holds one name only. Answers
are kept for moments: how long DNS would let us keep them, `getaddrinfo` does not tell.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import httpx

from .failures import DnsError

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 64  # each begun when it is first needed
WAITING = 1_000  # names that may wait for a thread
FOUND_SECONDS = 10.0
FAILED_SECONDS = 2.0
KEPT = 10_000

Answer = tuple[str, ...] | OSError | ValueError


class Lookup:
    """A name that is being looked up, or was until a moment ago."""

    __slots__ = ("answer", "begun", "host", "until")

    def __init__(self, host: str, answer: asyncio.Future[Answer]) -> None:
        self.host = host
        self.answer = answer
        self.begun = False
        self.until = float("inf")


class Resolver:
    """Looks names up with `lookup`, which is called as `socket.getaddrinfo` is."""

    def __init__(self, lookup: Callable[..., list[Any]] = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._loop = asyncio.get_running_loop()
        self._lookups: dict[str, Lookup] = {}
        self._queue: SimpleQueue[Lookup | None] = SimpleQueue()
        self._threads = 0
        self._open = 0

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return all addresses of `host`, in the order to try them.

        Waits for as long as the caller does. Raises DnsError, or PoolTimeout when too many
        names are waiting here already.
        """
        lookup = self._lookups.get(host)
        if lookup is None or lookup.until <= self._loop.time():
            lookup = self._begin(host)
        answer = await asyncio.shield(lookup.answer)
        if isinstance(answer, Exception):
            raise DnsError(_in_words(answer)) from answer
        return answer

    def is_waiting(self, host: str) -> bool:
        """Return whether the name `host` still waits for a thread."""
        lookup = self._lookups.get(host)
        return lookup is not None and not lookup.begun

    def close(self) -> None:
        """Let the threads end; one that hangs ends with its lookup, or with the process."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _begin(self, host: str) -> Lookup:
        if self._open >= THREADS + WAITING:
            raise httpx.PoolTimeout("too many names are waiting to be resolved")
        if len(self._lookups) >= KEPT:
            self._forget()
        lookup = self._lookups[host] = Lookup(host, self._loop.create_future())
        self._open += 1
        if self._open > self._threads < THREADS:
            self._threads += 1
            threading.Thread(target=self._work, name="outbox-dns", daemon=True).start()
        self._queue.put(lookup)
        return lookup

    def _forget(self) -> None:
        self._lookups = {
            host: each for host, each in self._lookups.items() if not each.answer.done()
        }

    def _work(self) -> None:
        while lookup := self._queue.get():
            lookup.begun = True
            answer = self._ask(lookup.host)
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._end, lookup, answer)

    def _ask(self, host: str) -> Answer:
        try:
            found = self._lookup(host, None, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            return error
        return tuple(dict.fromkeys(str(address[0]) for *_, address in found))

    def _end(self, lookup: Lookup, answer: Answer) -> None:
        self._open -= 1
        seconds = FOUND_SECONDS if isinstance(answer, tuple) else FAILED_SECONDS
        lookup.until = self._loop.time() + seconds
        lookup.answer.set_result(answer)


def _in_words(error: Exception) -> str:
    return error.strerror or "not found" if isinstance(error, OSError) else "not a name of DNS"
