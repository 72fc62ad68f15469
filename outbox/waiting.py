"""Wait for what the subscriptions answer: the synchronous webhook, without giving up the log.

    with Session(engine) as session, session.begin():
        id = outbox.emit(session, Event(type="user.signing-in", data=user))
    waited = outbox.wait(engine, id, timeout=2, until="answered")
    if waited.delivered: ...

Nobody is told of a result: who waits looks, so workers and other hosts pay nothing, and
it works behind PgBouncer too. All waits of an engine share one poller, a thread of its
own or (async) a task, which asks for all of them at once on one connection. It ends when
nobody waits.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal, overload
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from .answers import look
from .drivers import told
from .errors import DatabaseUnavailable, InvalidInput, NotFound, OutboxError, SchemaMismatch
from .schema import VERSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from .answers import Seen, Waited

    Until = Literal["ended", "answered"]

LONGEST = 3600.0  # seconds that anyone may wait
SHORT_PAUSE, LONG_PAUSE = 0.015, 0.1  # seconds between two looks for one
PATIENCE = 1.0  # seconds after which the pause for one is the long one
GRACE = 0.1  # seconds after the deadline in which the poller may have the last look
SILENCE = 3.0  # seconds without a look after which the last one says nothing


@overload
def wait(engine: Engine, event_id: UUID, timeout: float = ..., *, until: Until = ...) -> Waited: ...
@overload
def wait(
    engine: AsyncEngine, event_id: UUID, timeout: float = ..., *, until: Until = ...
) -> Awaitable[Waited]: ...
def wait(
    engine: Engine | AsyncEngine, event_id: UUID, timeout: float = 5.0, *, until: Until = "ended"
) -> Waited | Awaitable[Waited]:
    """Return what each subscription answered to an event, or what is known after `timeout`.

    Call it when the transaction that emitted the event has committed; with an AsyncEngine
    the call is awaited. It goes on while deliveries are retried, until all of them have
    ended; with `until="answered"` until each has its first result, good or bad, or is held,
    so that neither a receiver that is down nor a subscription that is paused takes the
    whole time. `timeout` is in seconds, at most an hour. When it is over, `Waited.ended`
    is False and the answers say how far each delivery is; nothing is cancelled.

    It needs SELECT on the tables of the schema `outbox`, and one connection of the engine
    for all who wait at the same time. Raises NotFound if there is no such event, or its
    transaction has not committed; DatabaseUnavailable at the end of the time, if the
    database could not be asked.

        waited = outbox.wait(engine, id, timeout=2)
        codes = {answer.url: answer.status for answer in waited.answers}
    """
    _check(event_id, timeout, until)
    if isinstance(engine, Engine):
        return _wait_in_thread(engine, event_id, timeout, until)
    return _wait_in_loop(engine, event_id, timeout, until)


def _check(event_id: UUID, timeout: float, until: str) -> None:
    if not isinstance(event_id, UUID):
        raise InvalidInput("event_id", "must be a UUID, as emit returns it")
    if not (isinstance(timeout, int | float) and 0 < timeout <= LONGEST):
        raise InvalidInput("timeout", f"must be above 0 and at most {LONGEST:,.0f} seconds")
    if until not in {"ended", "answered"}:
        raise InvalidInput("until", "must be ended or answered")


# Decisions.


def pause(age: float) -> float:
    """Return the seconds until the next look for one who has waited for `age` seconds."""
    return SHORT_PAUSE if age < PATIENCE else LONG_PAUSE


def is_over(seen: Seen, until: str) -> bool:
    """Return whether there is nothing more to wait for."""
    if seen.waited is None or seen.waited.ended:
        return True
    return until == "answered" and seen.answered


def lasts(error: Exception) -> bool:
    """Return whether to ask again is in vain: a table or a right is missing, or it is a bug."""
    code, _ = told(error)
    if code is not None:
        return code[:2] in {"42", "3F"}
    return not isinstance(error, DBAPIError | PoolTimeout | OSError)


# One who waits, and all of them.


class _Wait:
    """One who waits: until when, what was seen so far. Moments are monotonic."""

    def __init__(
        self,
        event_id: UUID,
        timeout: float,
        until: str,
        future: Future[Waited] | asyncio.Future[Waited],
    ) -> None:
        self.event_id = event_id
        self.future = future
        self.seen: Seen | None = None
        self.is_over = False
        self.look_at = self._seen_at = self._began = time.monotonic()
        self._deadline = self._began + timeout
        self._until = until
        self._failure: str | None = None

    def take(self, seen: Seen, now: float) -> None:
        """Note what was seen."""
        self.seen, self._seen_at, self._failure = seen, now, None
        self.look_at = min(now + pause(now - self._began), self._deadline)
        self.is_over = is_over(seen, self._until) or now >= self._deadline

    def miss(self, reason: str, now: float) -> None:
        """Note that nothing could be seen."""
        self._failure = reason
        self.is_over = self.is_over or now >= self._deadline

    def tell(self, now: float) -> None:
        """Let it go on, if it still waits."""
        if self.future.done():
            return
        try:
            self.future.set_result(self.outcome(now))
        except OutboxError as error:
            self.future.set_exception(error)

    def outcome(self, now: float) -> Waited:
        """Return what is known when it is over, or its time is."""
        silence = now - self._seen_at
        if self._failure is not None:
            raise DatabaseUnavailable(self._failure)
        if self.seen is None or silence > SILENCE:
            raise DatabaseUnavailable(f"no answer for {silence:.1f} seconds")
        if self.seen.waited is None:
            raise NotFound("event", str(self.event_id))
        return self.seen.waited


class _Waits:
    """All who wait at one engine, in its threads or in one event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: set[_Wait] = set()
        self._is_polled = False
        self.task: asyncio.Task[None] | None = None  # a loop alone would let it be collected

    def add(self, wait: _Wait) -> bool:
        """Add one who waits; return whether a poller has to be started."""
        with self._lock:
            self._waits.add(wait)
            start, self._is_polled = not self._is_polled, True
            return start

    def leave(self, wait: _Wait) -> None:
        """Forget one who waits no more."""
        with self._lock:
            self._waits.discard(wait)

    def go_on(self) -> bool:
        """Return whether anyone waits; if not, the poller has to end."""
        with self._lock:
            self._is_polled = bool(self._waits)
            return self._is_polled

    def stop(self) -> None:
        """Note that the poller ends, whoever waits."""
        with self._lock:
            self._is_polled = False

    def unsettled(self) -> bool:
        """Return whether there is anyone for whom to look again."""
        with self._lock:
            return any(not wait.is_over for wait in self._waits)

    def due(self, now: float) -> list[_Wait]:
        """Return those for whom it is time to look."""
        with self._lock:
            return [wait for wait in self._waits if not wait.is_over and wait.look_at <= now]

    def take(self, waits: Sequence[_Wait], found: Sequence[Seen], now: float) -> None:
        """Note what was seen, and tell those for whom it is over.

        The last ones are left to `tell`, which comes when the connection is back in its
        pool: who waits no more may dispose of the engine.
        """
        for wait, seen in zip(waits, found, strict=True):
            wait.take(seen, now)
        if self.unsettled():
            self.tell()

    def tell(self) -> None:
        """Let all go on for whom it is over."""
        with self._lock:
            over = {wait for wait in self._waits if wait.is_over}
            self._waits -= over
        for wait in over:
            wait.tell(time.monotonic())

    def fail(self, error: Exception) -> None:
        """Note that a look failed; if that lasts, tell all."""
        with self._lock:
            waits = list(self._waits)
        for wait in waits:
            if not lasts(error):
                wait.miss(told(error)[1], time.monotonic())
            elif not wait.future.done():
                self.leave(wait)
                wait.future.set_exception(_ours(error))


def _ours(error: Exception) -> Exception:
    code, message = told(error)
    if code in {"42P01", "3F000"}:
        return SchemaMismatch(None, VERSION)
    return error if code is None else DatabaseUnavailable(message)


def _questions(due: Sequence[_Wait]) -> list[tuple[UUID, Seen | None]]:
    return [(wait.event_id, wait.seen) for wait in due]


# The waits of one engine have to find each other, and all they have in common is the
# engine. Nothing is kept for an engine that is gone, or for a loop that is; a child of a
# fork begins with none, because it has no poller.
_SHARED: WeakKeyDictionary[Engine, WeakKeyDictionary[object, _Waits]] = WeakKeyDictionary()
os.register_at_fork(after_in_child=_SHARED.clear)


def _shared(engine: Engine, by: object) -> _Waits:
    return _SHARED.setdefault(engine, WeakKeyDictionary()).setdefault(by, _Waits())


# In threads.


def _wait_in_thread(engine: Engine, event_id: UUID, timeout: float, until: str) -> Waited:
    waits = _shared(engine, engine)
    future: Future[Waited] = Future()
    wait = _Wait(event_id, timeout, until, future)
    try:
        if waits.add(wait):
            _start(engine, waits)
        return future.result(timeout + GRACE)
    except TimeoutError:
        return wait.outcome(time.monotonic())
    finally:
        waits.leave(wait)


def _start(engine: Engine, waits: _Waits) -> None:
    arguments = (engine.execution_options(isolation_level="AUTOCOMMIT"), waits)
    try:
        threading.Thread(target=_poll, args=arguments, name="outbox.wait", daemon=True).start()
    except RuntimeError:  # there are too many
        waits.stop()
        raise


def _poll(engine: Engine, waits: _Waits) -> None:
    while waits.go_on():
        try:
            with engine.connect() as connection:
                while waits.unsettled():
                    began = time.monotonic()
                    if due := waits.due(began):
                        waits.take(due, look(connection, _questions(due)), time.monotonic())
                    if waits.unsettled():
                        time.sleep(_rest(began))
        except Exception as error:  # noqa: BLE001 - those who wait are told
            waits.fail(error)
            time.sleep(LONG_PAUSE)
        waits.tell()


def _rest(began: float) -> float:
    """Return the seconds until the next look may begin: never more work than rest."""
    return max(SHORT_PAUSE, time.monotonic() - began)


# In an event loop: the same, awaited.


async def _wait_in_loop(engine: AsyncEngine, event_id: UUID, timeout: float, until: str) -> Waited:
    loop = asyncio.get_running_loop()
    waits, future = _shared(engine.sync_engine, loop), loop.create_future()
    wait = _Wait(event_id, timeout, until, future)
    if waits.add(wait):
        quiet = engine.execution_options(isolation_level="AUTOCOMMIT")
        waits.task = loop.create_task(_poll_in_loop(quiet, waits), name="outbox.wait")
    try:
        return await asyncio.wait_for(future, timeout + GRACE)
    except TimeoutError:
        return wait.outcome(time.monotonic())
    finally:
        waits.leave(wait)


async def _poll_in_loop(engine: AsyncEngine, waits: _Waits) -> None:
    try:
        while waits.go_on():
            try:
                async with engine.connect() as connection:
                    while waits.unsettled():
                        began = time.monotonic()
                        if due := waits.due(began):
                            found = await connection.run_sync(look, _questions(due))
                            waits.take(due, found, time.monotonic())
                        if waits.unsettled():
                            await asyncio.sleep(_rest(began))
            except Exception as error:  # noqa: BLE001 - those who wait are told
                waits.fail(error)
                await asyncio.sleep(LONG_PAUSE)
            waits.tell()
    finally:
        waits.stop()
