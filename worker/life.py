"""A process's life in one database: the parts put together, from its beginning to its end.

A process that serves several databases has a life in each, with its own connections, loops
and duties. What the lives share is the transport and the slots (`shares`), so that one
whose database is away is in nobody's way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

import psycopg
from psycopg_pool import AsyncConnectionPool

from outbox.database import reason
from outbox.errors import DatabaseUnavailable, OutboxError, SchemaMismatch
from outbox.fleet import BELL, CHANNEL
from outbox.schema import VERSION as SCHEMA_VERSION
from outbox.version import __version__

from .attempt import Attempter
from .deliver import Deliverer
from .fanout import FanOut
from .loop import Outage, run
from .maintenance import Maintenance
from .record import Recorder
from .replay import Replays
from .session import configure
from .store import Store, check_keys, check_schema, is_shared
from .supervisor import FUTILE
from .telemetry import DATABASE
from .turns import Turns
from .watch import Load, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from .databases import Database
    from .ledger import Row
    from .loop import Stepping
    from .settings import Settings
    from .shares import Share
    from .traces import Traces

logger = logging.getLogger("outbox.worker")

CONNECTIONS = 5  # fan-out, replay, claim, record, and one for the duties
LISTEN_SECONDS = 30.0
LAST_FLUSH_SECONDS = 2.0


class Life:
    """`code` is the exit code that it asks for; `changed` hears when `is_registered` changes.

    The only life of a process raises what its database says at the start. One of several,
    whose database has a name, waits for it, and ends alone where that is of no use.
    """

    def __init__(
        self, database: Database, settings: Settings, share: Share, row: Row,
        changed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.name = database.name
        self.code = 0
        self.is_registered = False
        self._target = database.target
        self._settings = settings
        self._share = share
        self._watch = Watch(row)
        self._changed = changed
        self._outage = Outage("worker")
        self._fault: OutboxError = DatabaseUnavailable("not asked yet")
        self._shared = False
        self._store: Store | None = None
        self._deliverer: Deliverer | None = None
        self._stopping = asyncio.Event()

    @property
    def load(self) -> Load:
        """What it has in hand at this moment."""
        return self._deliverer.load if self._deliverer else Load(0, 0, 0, 0, 0)

    async def fault(self, seconds: float | None = None) -> OutboxError | None:
        """Return why the database cannot be used, with its name as a note, or None."""
        try:
            with _told():
                async with asyncio.timeout(seconds):
                    await self._ask()
        except TimeoutError:
            error: OutboxError = DatabaseUnavailable(f"no answer within {seconds or 0:g} s")
        except OutboxError as found:
            error = found
        else:
            return None
        if self.name:
            error.add_note(self.name)
        return error

    async def check(self) -> None:
        """Raise psycopg.Error or an OutboxError unless the database answers as it should."""
        if self._store is None:
            raise self._fault
        await self._store.check()

    async def run(self, transport: httpx.AsyncBaseTransport, traces: Traces | None) -> None:
        """Work until `stop`."""
        if not self.name:
            with _told():  # such as a standby, which takes no writes
                await self._live(transport, traces)
            return
        DATABASE.set(self.name)
        while not self._stopping.is_set():
            try:
                await self._live(transport, traces)
            except psycopg.Error as error:
                self._fault = DatabaseUnavailable(reason(error))
                await self._wait(self._outage.begins(error))
            except OutboxError as error:
                self._end_for(error)

    def stop(self) -> None:
        """Stop claiming, finish what is in flight, end."""
        self._stopping.set()

    async def _ask(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._target) as connection:
            await check_schema(connection)
            await check_keys(connection, self._settings.keyring)
            self._shared = await is_shared(connection)

    async def _live(self, transport: httpx.AsyncBaseTransport, traces: Traces | None) -> None:
        await self._ask()
        async with _pool(self._target, shared=self._shared) as pool:
            store = Store(pool, shared=self._shared)
            await store.register(socket.gethostname(), os.getpid(), __version__)
            self._outage.ends()
            self._say(store)
            logger.info(
                "worker %d started: up to %d requests at once",
                store.owner, self._settings.concurrency,
            )  # fmt: skip
            await self.work(store, transport, traces)
            self._say(None)
            with suppress(psycopg.Error, TimeoutError):
                async with asyncio.timeout(LAST_FLUSH_SECONDS):
                    await store.unregister()
        logger.info("worker %d stopped", store.owner)

    def _say(self, store: Store | None) -> None:
        self._store, self.is_registered = store, store is not None
        self._changed()

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def work(
        self, store: Store, transport: httpx.AsyncBaseTransport, traces: Traces | None
    ) -> None:
        """Deliver, and do all the duties, until `stop`."""

        def recorded(lane: str, outcome: str, due_in: float | None) -> None:
            if outcome != "late":
                deliverer.recorded(lane, due_in)

        recorder = Recorder(
            store, recorded, lambda lane: deliverer.is_limited(lane),
            lambda count: deliverer.flushed(count), soon=self._settings.concurrency,
            watch=self._watch,
        )  # fmt: skip
        attempter = Attempter(
            transport,
            recorder,
            timeout=self._settings.timeout,
            rng=random.Random(),  # noqa: S311 - jitter
            watch=self._watch,
            traces=traces,
        )
        turns = Turns()
        self._deliverer = deliverer = Deliverer(
            store, attempter, self._settings, self._watch, self._share, turns
        )
        self._share.wake = partial(copy_context().run, deliverer.room_made)
        fan_out = FanOut(store, deliverer.fanned_out, self._watch, turns)
        replays = Replays(store, deliverer.fanned_out, self._watch, turns)
        steps: dict[str, Stepping] = {"fan-out": fan_out, "replay": replays, "delivery": deliverer}
        maintenance = Maintenance(store, self._watch.tally, self._outdated, turns.placed)
        maintenance.start()
        async with asyncio.TaskGroup() as tasks:
            recording = tasks.create_task(recorder.run())
            loops = [tasks.create_task(run(name, what)) for name, what in steps.items()]
            listening = tasks.create_task(self._listen(store, fan_out, deliverer))
            await self._stopping.wait()
            end = time.monotonic() + self._settings.grace
            maintenance.stop()
            for what in steps.values():
                what.bell.stop()
            await _ended(loops, end)
            listening.cancel()
            await deliverer.drain(max(0.0, end - time.monotonic()))
            await self._finish(recorder, recording, end)

    async def _finish(self, recorder: Recorder, recording: asyncio.Task[None], end: float) -> None:
        """Let the last results be recorded, until `end` and no longer than the database lets us."""
        recorder.close()
        try:
            async with asyncio.timeout(max(LAST_FLUSH_SECONDS, end - time.monotonic())):
                await recording
        except TimeoutError:
            logger.error("the last results could not be recorded: their leases will run out")  # noqa: TRY400
            self.code = 1

    async def _listen(self, store: Store, fan_out: FanOut, deliverer: Deliverer) -> None:
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
                            fan_out.rung()
                        elif notice.payload != str(store.owner):
                            deliverer.look_around()
            await asyncio.sleep(LISTEN_SECONDS)

    def _outdated(self, version: int) -> None:
        if not self._stopping.is_set():
            self._end_for(SchemaMismatch(version, SCHEMA_VERSION))

    def _end_for(self, error: OutboxError) -> None:
        """Stop, because to start again would be of no use."""
        logger.error("stopping: %s", error)
        self._fault = error
        self.code = FUTILE
        self.is_registered = False
        self._changed()
        self.stop()


async def _ended(loops: list[asyncio.Task[None]], end: float) -> None:
    """Let `loops` end by themselves, until `end`; one that waits for its database is cut off."""
    left = max(LAST_FLUSH_SECONDS, end - time.monotonic())
    _, hanging = await asyncio.wait(loops, timeout=left)
    for loop in hanging:
        loop.cancel()


@contextmanager
def _told() -> Iterator[None]:
    """Turn what PostgreSQL says to a worker that starts into our own error."""
    try:
        yield
    except psycopg.Error as error:
        raise DatabaseUnavailable(reason(error)) from error


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
