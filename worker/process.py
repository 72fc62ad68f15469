"""One worker process: the parts put together, from its first line in the log to its last."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg_pool import AsyncConnectionPool

from outbox.database import conninfo
from outbox.errors import DatabaseUnavailable, SchemaMismatch
from outbox.fleet import CHANNEL
from outbox.schema import VERSION as SCHEMA_VERSION
from outbox.version import __version__

from .attempt import Attempter
from .deliver import Deliverer
from .fanout import FanOut
from .faults import in_a_line
from .loop import Bell, run
from .maintenance import Maintenance
from .record import Recorder
from .replay import Replays
from .session import configure
from .store import Store, check_keys, check_schema, is_shared
from .supervisor import FUTILE
from .transport import AiohttpTransport, tls_context

if TYPE_CHECKING:
    from .rows import Recorded, Result
    from .settings import Settings

logger = logging.getLogger("outbox.worker")

CONNECTIONS = 5  # fan-out, replay, claim, record, and one for the duties
LISTEN_SECONDS = 30.0
LAST_FLUSH_SECONDS = 2.0


class Process:
    """A life: `run` returns the exit code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._target = conninfo(settings.database_url, application_name="outbox-worker")
        self._shared = False
        self._stopping = asyncio.Event()
        self._code = 0

    async def check(self) -> None:
        """Raise an OutboxError unless the database, and what else is set, can be used."""
        tls_context(self._settings.ca_file)
        try:
            async with await psycopg.AsyncConnection.connect(self._target) as connection:
                await check_schema(connection)
                await check_keys(connection, self._settings.keyring)
                self._shared = await is_shared(connection)
        except psycopg.Error as error:
            raise DatabaseUnavailable(in_a_line(error)) from error

    async def run(self) -> int:
        """Work until `stop`; return the exit code."""
        await self.check()
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(_pool(self._target, shared=self._shared))
            transport = await stack.enter_async_context(_transport(self._settings))
            store = Store(pool, shared=self._shared)
            await store.register(socket.gethostname(), os.getpid(), __version__)
            logger.info(
                "worker %d started: up to %d requests at once",
                store.owner, self._settings.concurrency,
            )  # fmt: skip
            await self._work(store, transport)
            with suppress(psycopg.Error, TimeoutError):
                async with asyncio.timeout(LAST_FLUSH_SECONDS):
                    await store.unregister()
        logger.info("worker %d stopped", store.owner)
        return self._code

    async def _work(self, store: Store, transport: AiohttpTransport) -> None:
        def recorded(lane: str, result: Result, done: Recorded) -> None:
            if done.outcome == "late":
                logger.warning("an answer came too late", extra={"delivery": result.delivery_id})
            else:
                deliverer.recorded(lane, done.due_in)

        recorder = Recorder(
            store, recorded, lambda lane: deliverer.is_limited(lane),
            lambda count: deliverer.flushed(count), soon=self._settings.concurrency // 2,
        )  # fmt: skip
        attempter = Attempter(
            transport,
            recorder,
            timeout=self._settings.timeout,
            rng=random.Random(),  # noqa: S311 - jitter
        )
        deliverer = Deliverer(store, attempter, self._settings)
        fan_out, fan_out_bell = FanOut(store, deliverer.fanned_out), Bell()
        replays, replay_bell = Replays(store, deliverer.fanned_out), Bell()
        maintenance = Maintenance(store, attempter.tally, self._outdated)
        maintenance.start()
        async with asyncio.TaskGroup() as tasks:
            recording = tasks.create_task(recorder.run())
            loops = [
                tasks.create_task(run("fan-out", fan_out.step, fan_out_bell)),
                tasks.create_task(run("replay", replays.step, replay_bell)),
                tasks.create_task(run("delivery", deliverer.step, deliverer.bell)),
            ]
            listening = tasks.create_task(self._listen(store.owner, deliverer))
            await self._stopping.wait()
            maintenance.stop()
            for bell in (fan_out_bell, replay_bell, deliverer.bell):
                bell.stop()
            await asyncio.gather(*loops)
            listening.cancel()
            end = time.monotonic() + self._settings.grace
            await deliverer.drain(self._settings.grace)
            await self._finish(recorder, recording, end)

    async def _finish(self, recorder: Recorder, recording: asyncio.Task[None], end: float) -> None:
        """Let the last results be recorded, until `end` and no longer than the database lets us."""
        recorder.close()
        try:
            async with asyncio.timeout(max(LAST_FLUSH_SECONDS, end - time.monotonic())):
                await recording
        except TimeoutError:
            logger.error("the last results could not be recorded: their leases will run out")  # noqa: TRY400
            self._code = 1

    async def _listen(self, owner: int, deliverer: Deliverer) -> None:
        """Hear of other workers' fan-outs. Behind a pooler nothing is heard: polling is left."""
        if self._shared:
            logger.info("a pooler stands before the database: settings go with each transaction")
            return
        while True:
            with suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(
                    self._target, autocommit=True
                ) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    async for notice in connection.notifies():
                        if notice.payload != str(owner):
                            deliverer.look_around()
            await asyncio.sleep(LISTEN_SECONDS)

    def stop(self) -> None:
        """Stop claiming, finish what is in flight, end; the second time end at once."""
        if self._stopping.is_set():
            logger.warning("stopped at once: what was in flight is found by its lease")
            os._exit(1)
        logger.info("stopping")
        self._stopping.set()

    def orphaned(self, pipe: int) -> None:
        """The supervisor is gone: nobody would restart or stop this process."""
        asyncio.get_running_loop().remove_reader(pipe)
        if not self._stopping.is_set():
            self.stop()

    def _outdated(self, version: int) -> None:
        if not self._stopping.is_set():
            logger.error("stopping: %s", SchemaMismatch(version, SCHEMA_VERSION))
            self._code = FUTILE
            self._stopping.set()


def _transport(settings: Settings) -> AiohttpTransport:
    return AiohttpTransport(
        connect_timeout=settings.connect_timeout,
        allow=settings.allow,
        proxy=settings.proxy,
        ca_file=settings.ca_file,
    )


def _pool(target: str, *, shared: bool = False) -> AsyncConnectionPool:
    options = {"prepare_threshold": None} if shared else {}
    return AsyncConnectionPool(
        target,
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        open=False,
        configure=None if shared else configure,
        timeout=10,
        reconnect_timeout=5,
        kwargs={"autocommit": True, **options},
    )


async def run_process(settings: Settings, pipe: int | None = None) -> int:
    """Run one process in this event loop until SIGTERM, SIGINT or the end of `pipe`."""
    process = Process(settings)
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, process.stop)
    if pipe is not None:
        loop.add_reader(pipe, process.orphaned, pipe)
    return await process.run()
