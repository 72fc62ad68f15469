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

from .answers import look
from .errors import InvalidInput
from .waits import LONG_PAUSE, SHORT_PAUSE, Wait, Waits

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from .answers import Waited

    Until = Literal["ended", "answered"]

LONGEST = 3600.0  # seconds that anyone may wait
GRACE = 0.1  # seconds after the deadline in which the poller may have the last look


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


# The waits of one engine have to find each other, and all they have in common is the
# engine. Nothing is kept for an engine that is gone, or for a loop that is; a child of a
# fork begins with none, because it has no poller.
_SHARED: WeakKeyDictionary[Engine, WeakKeyDictionary[object, Waits]] = WeakKeyDictionary()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_SHARED.clear)


def _shared(engine: Engine, by: object) -> Waits:
    return _SHARED.setdefault(engine, WeakKeyDictionary()).setdefault(by, Waits())


# In threads.


def _wait_in_thread(engine: Engine, event_id: UUID, timeout: float, until: str) -> Waited:
    waits = _shared(engine, engine)
    future: Future[Waited] = Future()
    wait = Wait(event_id, timeout, until, future)
    try:
        if waits.add(wait):
            _start(engine, waits)
        return future.result(timeout + GRACE)
    except TimeoutError:
        return wait.outcome(time.monotonic())
    finally:
        waits.leave(wait)


def _start(engine: Engine, waits: Waits) -> None:
    arguments = (engine.execution_options(isolation_level="AUTOCOMMIT"), waits)
    try:
        threading.Thread(target=_poll, args=arguments, name="outbox.wait", daemon=True).start()
    except RuntimeError:  # there are too many
        waits.stop()
        raise


def _poll(engine: Engine, waits: Waits) -> None:
    while waits.go_on():
        try:
            with engine.connect() as connection:
                while waits.unsettled():
                    began = time.monotonic()
                    if due := waits.due(began):
                        waits.take(
                            due, look(connection, [each.question for each in due]), time.monotonic()
                        )
                    if waits.unsettled():
                        time.sleep(_rest(began))
        except Exception as error:  # noqa: BLE001 - those who wait are told
            waits.fail(error)
            time.sleep(LONG_PAUSE)
        waits.tell()


def _rest(began: float) -> float:
    """Return the seconds until the next look may begin: a third of the time at least is rest."""
    return max(SHORT_PAUSE, (time.monotonic() - began) / 2)


# In an event loop: the same, awaited.


async def _wait_in_loop(engine: AsyncEngine, event_id: UUID, timeout: float, until: str) -> Waited:
    loop = asyncio.get_running_loop()
    waits, future = _shared(engine.sync_engine, loop), loop.create_future()
    wait = Wait(event_id, timeout, until, future)
    if waits.add(wait):
        quiet = engine.execution_options(isolation_level="AUTOCOMMIT")
        waits.task = loop.create_task(_poll_in_loop(quiet, waits), name="outbox.wait")
    try:
        return await asyncio.wait_for(future, timeout + GRACE)
    except TimeoutError:
        return wait.outcome(time.monotonic())
    finally:
        waits.leave(wait)


async def _poll_in_loop(engine: AsyncEngine, waits: Waits) -> None:
    try:
        while waits.go_on():
            try:
                async with engine.connect() as connection:
                    while waits.unsettled():
                        began = time.monotonic()
                        if due := waits.due(began):
                            found = await connection.run_sync(look, [each.question for each in due])
                            waits.take(due, found, time.monotonic())
                        if waits.unsettled():
                            await asyncio.sleep(_rest(began))
            except Exception as error:  # noqa: BLE001 - those who wait are told
                waits.fail(error)
                await asyncio.sleep(LONG_PAUSE)
            waits.tell()
    finally:
        waits.stop()
