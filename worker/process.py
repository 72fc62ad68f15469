"""One worker process: what it shares over its databases, and the life that it has in each.

                ┌── life: connections, loops, duties ──▶ database A
transport, ─────┤
slots           └── life: connections, loops, duties ──▶ database B
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from outbox.errors import DatabaseUnavailable, OutboxError

from .databases import databases
from .life import Life
from .monitor import Monitor, alone
from .shares import Shares
from .supervisor import FUTILE
from .traces import configured as traces_configured
from .traces import flush as flush_traces
from .transport import HttpTransport, tls_context
from .watch import Watch, together

if TYPE_CHECKING:
    from collections.abc import Collection

    from .monitor import Post
    from .settings import Settings

logger = logging.getLogger("outbox.worker")

BEAT_SECONDS = 1.0  # between two times that it says that it lives, when that is asked for
START_SECONDS = 3.0  # that the start waits for one of several databases


class Process:
    """At its `post` among those of its worker: `run` returns the exit code."""

    def __init__(self, settings: Settings, post: Post | None = None) -> None:
        self._settings = settings
        self._post = post or alone()
        self._watch = Watch(self._post.row)
        self._stopping = asyncio.Event()
        shares = Shares(settings.concurrency)
        self.lives = [
            Life(database, settings, shares.join(), self._post.row, self._tell)
            for database in databases(settings.database_urls)
        ]

    async def faults(self, seconds: float | None = None) -> dict[str, OutboxError | None]:
        """Return why databases cannot be used, or None, by their names, within so many seconds.

        Raises InvalidInput for what else is set wrong.
        """
        tls_context(self._settings.ca_file)
        found = await asyncio.gather(*(life.fault(seconds) for life in self.lives))
        return dict(zip((life.name for life in self.lives), found, strict=True))

    async def check(self) -> None:
        """Raise an OutboxError unless a worker can start: one of several may be away."""
        several = len(self.lives) > 1
        found = await self.faults(START_SECONDS if several else None)
        fault = decisive(found.values())
        if fault is not None:
            raise fault

    async def run(self) -> int:
        """Work until `stop`; return the exit code."""
        self._watch.started(time.monotonic())
        traces = traces_configured()
        async with AsyncExitStack() as stack:
            transport = await stack.enter_async_context(_transport(self._settings))
            await self._answer(stack)
            beating = asyncio.create_task(self._beat())
            stack.callback(beating.cancel)
            await asyncio.gather(*(life.run(transport, traces) for life in self.lives))
        if traces is not None:
            await asyncio.to_thread(flush_traces)
        return exit_code([life.code for life in self.lives])

    async def _answer(self, stack: AsyncExitStack) -> None:
        """Answer those who ask how it goes, if there is a port for it."""
        if self._post.listener is not None:
            checks = {life.name: life for life in self.lives}
            monitor = Monitor(self._post, checks, self._settings.database_url)
            await stack.enter_async_context(monitor.serving(self._post.listener))

    async def _beat(self) -> None:
        """Say again and again that the loop turns, and what is in hand, if anybody may ask."""
        while self._post.listener is not None:
            load = together([life.load for life in self.lives], self._settings.concurrency)
            self._watch.holds(load, time.monotonic())
            await asyncio.sleep(BEAT_SECONDS)

    def _tell(self) -> None:
        """Say whether it works, as far as all databases go."""
        registered = all(life.is_registered for life in self.lives)
        self._post.row.ready(registered and not self._stopping.is_set())

    def stop(self) -> None:
        """Stop claiming, finish what is in flight, end; the second time end at once."""
        if self._stopping.is_set():
            logger.warning("stopped at once: what was in flight is found by its lease")
            os._exit(1)
        logger.info("stopping")
        self._stopping.set()
        self._tell()
        for life in self.lives:
            life.stop()

    def orphaned(self, pipe: int) -> None:
        """The supervisor is gone: nobody would restart or stop this process."""
        asyncio.get_running_loop().remove_reader(pipe)
        if not self._stopping.is_set():
            self.stop()


def decisive(faults: Collection[OutboxError | None]) -> OutboxError | None:
    """Return the fault that lets a worker not start: a wrong setting, or that all are away."""
    found = [fault for fault in faults if fault is not None]
    wrong = [fault for fault in found if not isinstance(fault, DatabaseUnavailable)]
    if wrong:
        return wrong[0]
    return found[0] if len(found) == len(faults) else None


def exit_code(codes: Collection[int]) -> int:
    """Return the code of a process, of those of its lives: futile is what is so for all."""
    if all(code == FUTILE for code in codes):
        return FUTILE
    return int(any(codes))


def _transport(settings: Settings) -> HttpTransport:
    return HttpTransport(
        connect_timeout=settings.connect_timeout,
        allow=settings.allow,
        proxy=settings.proxy,
        ca_file=settings.ca_file,
    )


async def run_process(settings: Settings, post: Post | None = None, pipe: int | None = None) -> int:
    """Run one process in this event loop until SIGTERM, SIGINT or the end of `pipe`."""
    process = Process(settings, post)
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, process.stop)
    if pipe is not None:
        loop.add_reader(pipe, process.orphaned, pipe)
    return await process.run()
