"""One worker process: the parts put together, from its first line in the log to its last."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import time
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg_pool import AsyncConnectionPool

from outbox.database import conninfo, reason
from outbox.errors import DatabaseUnavailable, SchemaMismatch
from outbox.fleet import BELL, CHANNEL
from outbox.schema import VERSION as SCHEMA_VERSION
from outbox.version import __version__

from .attempt import Attempter
from .deliver import Deliverer
from .fanout import FanOut
from .loop import Bell, run
from .maintenance import Maintenance
from .monitor import Monitor, alone
from .record import Recorder
from .replay import Replays
from .session import configure
from .store import Store, check_keys, check_schema, is_shared
from .supervisor import FUTILE
from .traces import configured as traces_configured
from .traces import flush as flush_traces
from .transport import AiohttpTransport, tls_context
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .monitor import Post
    from .rows import Recorded, Result
    from .settings import Settings
    from .traces import Traces

logger = logging.getLogger("outbox.worker")

CONNECTIONS = 5  # fan-out, replay, claim, record, and one for the duties
LISTEN_SECONDS = 30.0
LAST_FLUSH_SECONDS = 2.0
BEAT_SECONDS = 1.0  # between two times that it says that it lives, when that is asked for


class Process:
    """A life, at its `post` among those of its worker: `run` returns the exit code."""

    def __init__(self, settings: Settings, post: Post | None = None) -> None:
        self._settings = settings
        self._post = post or alone()
        self._watch = Watch(self._post.row)
        self._traces: Traces | None = None
        self._target = conninfo(settings.database_url, application_name="outbox-worker")
        self._shared = False
        self._stopping = asyncio.Event()
        self._code = 0

    async def check(self) -> None:
        """Raise an OutboxError unless the database, and what else is set, can be used."""
        tls_context(self._settings.ca_file)
        with _told():
            async with await psycopg.AsyncConnection.connect(self._target) as connection:
                await check_schema(connection)
                await check_keys(connection, self._settings.keyring)
                self._shared = await is_shared(connection)

    async def run(self) -> int:
        """Work until `stop`; return the exit code."""
        await self.check()
        self._traces = traces_configured()
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(_pool(self._target, shared=self._shared))
            transport = await stack.enter_async_context(_transport(self._settings))
            store = Store(pool, shared=self._shared)
            await self._answer(stack, store)
            with _told():  # such as a standby, which takes no writes
                await store.register(socket.gethostname(), os.getpid(), __version__)
            self._post.row.ready(True)
            logger.info(
                "worker %d started: up to %d requests at once",
                store.owner, self._settings.concurrency,
            )  # fmt: skip
            await self._work(store, transport)
            with suppress(psycopg.Error, TimeoutError):
                async with asyncio.timeout(LAST_FLUSH_SECONDS):
                    await store.unregister()
        if self._traces is not None:
            await asyncio.to_thread(flush_traces)
        logger.info("worker %d stopped", store.owner)
        return self._code

    async def _answer(self, stack: AsyncExitStack, store: Store) -> None:
        """Answer those who ask how it goes, if there is a port for it."""
        self._watch.started(time.monotonic())
        if self._post.listener is not None:
            monitor = Monitor(self._post, store, self._settings.database_url)
            await stack.enter_async_context(monitor.serving(self._post.listener))

    async def _work(self, store: Store, transport: AiohttpTransport) -> None:
        def rung() -> None:
            pause = fan_out.pause(time.monotonic())
            asyncio.get_running_loop().call_later(pause, fan_out_bell.ring)

        def recorded(lane: str, _: Result, done: Recorded) -> None:
            if done.outcome != "late":
                deliverer.recorded(lane, done.due_in)

        recorder = Recorder(
            store, recorded, lambda lane: deliverer.is_limited(lane),
            lambda count: deliverer.flushed(count), soon=self._settings.concurrency // 2,
            watch=self._watch,
        )  # fmt: skip
        attempter = Attempter(
            transport,
            recorder,
            timeout=self._settings.timeout,
            rng=random.Random(),  # noqa: S311 - jitter
            watch=self._watch,
            traces=self._traces,
        )
        deliverer = Deliverer(store, attempter, self._settings, self._watch)
        fan_out, fan_out_bell = FanOut(store, deliverer.fanned_out, self._watch), Bell()
        replays, replay_bell = Replays(store, deliverer.fanned_out, self._watch), Bell()
        maintenance = Maintenance(store, self._watch.tally, self._outdated)
        maintenance.start()
        async with asyncio.TaskGroup() as tasks:
            recording = tasks.create_task(recorder.run())
            loops = [
                tasks.create_task(run("fan-out", fan_out.step, fan_out_bell)),
                tasks.create_task(run("replay", replays.step, replay_bell)),
                tasks.create_task(run("delivery", deliverer.step, deliverer.bell)),
            ]
            listening = tasks.create_task(self._listen(store.owner, deliverer, rung))
            beating = tasks.create_task(self._beat(deliverer))
            await self._stopping.wait()
            maintenance.stop()
            for bell in (fan_out_bell, replay_bell, deliverer.bell):
                bell.stop()
            await asyncio.gather(*loops)
            listening.cancel()
            end = time.monotonic() + self._settings.grace
            await deliverer.drain(self._settings.grace)
            await self._finish(recorder, recording, end)
            beating.cancel()

    async def _beat(self, deliverer: Deliverer) -> None:
        """Say again and again that the loop turns, and what is in hand, if anybody may ask."""
        while self._post.listener is not None:
            self._watch.holds(deliverer.load, time.monotonic())
            await asyncio.sleep(BEAT_SECONDS)

    async def _finish(self, recorder: Recorder, recording: asyncio.Task[None], end: float) -> None:
        """Let the last results be recorded, until `end` and no longer than the database lets us."""
        recorder.close()
        try:
            async with asyncio.timeout(max(LAST_FLUSH_SECONDS, end - time.monotonic())):
                await recording
        except TimeoutError:
            logger.error("the last results could not be recorded: their leases will run out")  # noqa: TRY400
            self._code = 1

    async def _listen(self, owner: int, deliverer: Deliverer, rung: Callable[[], None]) -> None:
        """Hear of hosts' events and of other workers' fan-outs. Behind a pooler polling is left."""
        if self._shared:
            logger.info("a pooler stands before the database: settings go with each transaction")
            return
        while True:
            with suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(
                    self._target, autocommit=True
                ) as connection:
                    for channel in (CHANNEL, BELL):
                        await connection.execute(f"LISTEN {channel}")
                    async for notice in connection.notifies():
                        if notice.channel == BELL:
                            rung()
                        elif notice.payload != str(owner):
                            deliverer.look_around()
            await asyncio.sleep(LISTEN_SECONDS)

    def stop(self) -> None:
        """Stop claiming, finish what is in flight, end; the second time end at once."""
        if self._stopping.is_set():
            logger.warning("stopped at once: what was in flight is found by its lease")
            os._exit(1)
        logger.info("stopping")
        self._end()

    def _end(self) -> None:
        self._post.row.ready(False)
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
            self._end()


@contextmanager
def _told() -> Iterator[None]:
    """Turn what PostgreSQL says to a worker that starts into our own error."""
    try:
        yield
    except psycopg.Error as error:
        raise DatabaseUnavailable(reason(error)) from error


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


async def run_process(settings: Settings, post: Post | None = None, pipe: int | None = None) -> int:
    """Run one process in this event loop until SIGTERM, SIGINT or the end of `pipe`."""
    process = Process(settings, post)
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, process.stop)
    if pipe is not None:
        loop.add_reader(pipe, process.orphaned, pipe)
    return await process.run()
