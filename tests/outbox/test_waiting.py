"""Waiting: it ends with the deliveries or with the time, and never later."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4
from weakref import ref

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import outbox
from outbox import (
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    SchemaMismatch,
    Waited,
    waiting,
    waits,
)
from outbox.answers import Seen
from outbox.waits import Wait
from tests.cli.rows import add_attempt, add_delivery, add_event, add_subscription
from tests.databases import engine_url
from tests.helpers import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.databases import Database

SYNC = ["psycopg", "psycopg2", "pg8000"]
ASYNC = ["async psycopg", "async asyncpg"]


@pytest.fixture(params=SYNC + ASYNC)
def wait(request: pytest.FixtureRequest, committed_db: Database) -> Iterator[Callable[..., Waited]]:
    """`outbox.wait` on each driver, in a thread or in a loop of its own."""
    name = request.param.removeprefix("async ")
    url = engine_url(committed_db.url, name)
    if request.param in SYNC:
        engine = create_engine(url)
        yield lambda *args, **options: outbox.wait(engine, *args, **options)
        eventually(lambda: not pollers())
        engine.dispose()
    else:
        yield lambda *args, **options: asyncio.run(wait_in_loop(url, *args, **options))


async def wait_in_loop(url: Any, *args: Any, **options: Any) -> Waited:
    engine = create_async_engine(url)
    try:
        return await outbox.wait(engine, *args, **options)
    finally:
        await engine.dispose()


@pytest.fixture
def engine(committed_db: Database) -> Iterator[Engine]:
    """A host's engine, in whose pool everything is back at the end."""
    engine = create_engine(engine_url(committed_db.url, "psycopg"))
    yield engine
    eventually(lambda: not pollers())
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    engine.dispose()


def pollers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "outbox.wait"]


def add_open(database: Database, **queue: Any) -> tuple[UUID, UUID]:
    """An event with a delivery that is open."""
    id = add_event(database)
    queue = {"due_at": text("now()"), **queue}
    return id, add_delivery(database, id, add_subscription(database), **queue)


def end_all(database: Database) -> None:
    """Let all that is open be delivered."""
    with database.engine.begin() as connection:
        connection.execute(text(END))


END = """
WITH ended AS (DELETE FROM outbox.delivery_queue RETURNING delivery_id)
INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status)
SELECT delivery_id, 1, 'delivered', 200 FROM ended
"""


# On every driver.


def test_what_has_ended(wait: Callable[..., Waited], committed_db: Database) -> None:
    """An event whose deliveries have ended is waited for no longer."""
    id = add_event(committed_db)
    made = add_delivery(committed_db, id, add_subscription(committed_db))
    add_attempt(committed_db, made, 1, "delivered", status=200, response_body=b"\x00ok")
    waited = wait(id, 60)

    assert (waited.event_id, waited.ended, waited.delivered) == (id, True, True)
    (answer,) = waited.answers
    assert (answer.delivery_id, answer.status, answer.body) == (made, 200, b"\x00ok")


def test_the_time_is_over(wait: Callable[..., Waited], committed_db: Database) -> None:
    """When the time is over, what is known so far is told."""
    id, made = add_open(committed_db)
    began = time.monotonic()
    waited = wait(id, timeout=0.2)

    assert time.monotonic() - began >= 0.2
    assert (waited.ended, waited.fanned_out, waited.delivered) == (False, True, False)
    assert [(each.delivery_id, each.state) for each in waited.answers] == [(made, "pending")]


def test_unknown(wait: Callable[..., Waited]) -> None:
    """An event that does not exist is not waited for."""
    id = uuid4()
    with pytest.raises(NotFound) as caught:
        wait(id, 60)

    assert (caught.value.kind, caught.value.id) == ("event", str(id))


def test_it_ends_while_waiting(wait: Callable[..., Waited], committed_db: Database) -> None:
    """The answer is there soon after the last delivery has ended."""
    id, _ = add_open(committed_db)
    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(wait, id, 60)
        with pytest.raises(TimeoutError):
            waited.result(0.1)
        end_all(committed_db)

        assert waited.result(10).delivered


# What to wait for.


def test_the_first_answer(engine: Engine, committed_db: Database) -> None:
    """`until="answered"` is content with a first result, though it be a failure."""
    id, made = add_open(committed_db, attempt=1, failures=1)
    add_attempt(committed_db, made, 1, "retry", status=503, error="busy")
    waited = outbox.wait(engine, id, 60, until="answered")

    assert (waited.ended, waited.answers[0].status) == (False, 503)


def test_a_paused_subscription_takes_no_time(engine: Engine, committed_db: Database) -> None:
    """`until="answered"` does not wait for what is held."""
    id, _ = add_open(committed_db)
    with committed_db.engine.begin() as connection:
        connection.execute(text("UPDATE outbox.subscription SET state = 'paused'"))
    waited = outbox.wait(engine, id, 60, until="answered")

    assert [(each.state, each.held) for each in waited.answers] == [("pending", "paused")]


def test_an_uncommitted_event(engine: Engine, committed_db: Database) -> None:
    """An event is there once its transaction has committed, and not before."""
    with committed_db.engine.begin() as connection:
        id = outbox.emit(connection, outbox.Event(type="a"))
        with pytest.raises(NotFound):
            outbox.wait(engine, id)

    assert not outbox.wait(engine, id, 0.05).fanned_out


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("event_id", ("0190163d-8694-739b-aea5-966c26f8ad91",)),
        ("timeout", (uuid4(), 0)),
        ("timeout", (uuid4(), -1)),
        ("timeout", (uuid4(), float("nan"))),
        ("timeout", (uuid4(), 3601)),
        ("timeout", (uuid4(), "5")),
        ("until", (uuid4(), 5, "delivered")),
    ],
)
def test_wrong_use(field: str, arguments: tuple[Any, ...]) -> None:
    """A mistake is told before anything is asked."""
    id, timeout, until = (*arguments, 5, "ended")[:3] if len(arguments) < 3 else arguments
    engine = create_engine("postgresql+psycopg://nowhere.invalid/")
    with pytest.raises(InvalidInput) as caught:
        outbox.wait(engine, id, timeout, until=until)

    assert caught.value.field == field


@pytest.mark.parametrize(("age", "seconds"), [(0.0, 0.015), (0.99, 0.015), (1.0, 0.1), (60.0, 0.1)])
def test_pause(age: float, seconds: float) -> None:
    """Who has waited for a second is not in a hurry any more."""
    assert waits.pause(age) == seconds


@pytest.mark.parametrize("until", ["ended", "answered"])
def test_is_over(until: str) -> None:
    """It is over with the end, or if there is no such event; an answer may do."""
    some = Waited(uuid4(), ended=False, fanned_out=True, answers=())
    end = Waited(uuid4(), ended=True, fanned_out=True, answers=())

    assert waits.is_over(Seen(None), until)
    assert waits.is_over(Seen(end, answered=True), until)
    assert not waits.is_over(Seen(some), until)
    assert waits.is_over(Seen(some, answered=True), until) == (until == "answered")


# Together.


def test_many_share_one_poller(engine: Engine, committed_db: Database) -> None:
    """Many who wait cost one thread, one connection and one statement at a time."""
    made = [add_open(committed_db)[0] for _ in range(20)]
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    with ThreadPoolExecutor(20) as pool:
        running = [pool.submit(outbox.wait, engine, id, 60) for id in made]
        eventually(lambda: len(sent) >= 2)
        assert len(pollers()) == 1
        assert engine.pool.checkedout() == 1  # type: ignore[attr-defined]
        end_all(committed_db)
        found = [wait.result(20) for wait in running]

    assert [each.event_id for each in found] == made
    assert all(each.delivered for each in found)
    assert len(set(sent)) == 1  # the same text for any number of them


def test_the_loop_shares_one_task(committed_db: Database) -> None:
    """Likewise in a loop, where who is cancelled is forgotten and others wait on."""
    made = [add_open(committed_db)[0] for _ in range(5)]

    async def main() -> list[Waited]:
        engine = create_async_engine(engine_url(committed_db.url, "psycopg"))
        running = [asyncio.create_task(wait(engine, id)) for id in made]
        await asyncio.sleep(0.1)
        tasks = [task for task in asyncio.all_tasks() if task.get_name() == "outbox.wait"]
        assert (len(tasks), engine.pool.checkedout()) == (1, 1)  # type: ignore[attr-defined]
        running[0].cancel()
        await asyncio.to_thread(end_all, committed_db)
        found = await asyncio.gather(*running[1:])
        await asyncio.wait(tasks, timeout=10)
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        await engine.dispose()
        return found

    async def wait(engine: AsyncEngine, id: UUID) -> Waited:
        return await outbox.wait(engine, id, 60)

    assert [each.event_id for each in asyncio.run(main())] == made[1:]


def test_one_engine_in_two_loops(committed_db: Database) -> None:
    """Each loop has its own poller."""
    id = add_event(committed_db)
    engine = create_async_engine(engine_url(committed_db.url, "asyncpg"), poolclass=NullPool)

    async def main() -> Waited:
        return await outbox.wait(engine, id)

    assert [asyncio.run(main()).ended for _ in range(2)] == [True, True]


def test_nothing_is_kept(committed_db: Database) -> None:
    """An engine that is gone leaves nothing behind."""
    engine = create_engine(engine_url(committed_db.url, "psycopg"))
    outbox.wait(engine, add_event(committed_db))
    eventually(lambda: not pollers())
    engine.dispose()
    gone = ref(engine)
    del engine
    gc.collect()

    assert gone() is None


def test_fork(engine: Engine) -> None:
    """A child has no poller, and does not believe that it has one."""
    assert waiting._shared(engine, engine).add(Wait(uuid4(), 60, "ended", Future()))
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads of others
        pid = os.fork()
    if pid == 0:
        wait = Wait(uuid4(), 60, "ended", Future())
        os.write(writing, b"yes" if waiting._shared(engine, engine).add(wait) else b"no")
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with closing(os.fdopen(reading)) as told:
        assert told.read() == "yes"


# A database that is not well.


def test_no_server(engine: Engine) -> None:
    """Where nothing answers, it ends with the time, and says so."""
    nowhere = create_engine("postgresql+psycopg://127.0.0.1:1/none")
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="refused"):
        outbox.wait(nowhere, uuid4(), 0.3)

    assert time.monotonic() - began >= 0.3


def test_no_server_in_a_loop() -> None:
    """Likewise in a loop, on a driver that speaks of a socket's error."""

    async def main() -> None:
        nowhere = create_async_engine("postgresql+asyncpg://127.0.0.1:1/none")
        with pytest.raises(DatabaseUnavailable):
            await outbox.wait(nowhere, uuid4(), 0.2)

    asyncio.run(main())


def test_it_does_not_answer(engine: Engine, committed_db: Database) -> None:
    """Where the answer does not come, it ends with the time all the same."""
    id = add_event(committed_db)
    with committed_db.engine.begin() as connection:
        connection.execute(text("LOCK TABLE outbox.event_queue IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(DatabaseUnavailable, match=r"no answer for \d\.\d seconds"):
            outbox.wait(engine, id, 0.2)


def test_the_connection_is_lost(engine: Engine, committed_db: Database) -> None:
    """A lost connection is replaced; whoever waits does not notice."""
    id, _ = add_open(committed_db)
    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(outbox.wait, engine, id, 60)
        eventually(lambda: terminate(committed_db))
        end_all(committed_db)

        assert waited.result(20).delivered


def test_the_database_goes_away(committed_db: Database) -> None:
    """When it went away while somebody waits, the end of the time says so."""
    is_gone = threading.Event()
    engine = create_engine(engine_url(committed_db.url, "psycopg"))

    @event.listens_for(engine, "do_connect")
    def connect(*_: Any) -> None:
        if is_gone.is_set():
            raise OSError("it is gone")

    id, _ = add_open(committed_db)
    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(outbox.wait, engine, id, 1)
        eventually(lambda: engine.pool.checkedout() == 1)  # type: ignore[attr-defined]
        is_gone.set()
        eventually(lambda: terminate(committed_db))

        with pytest.raises(DatabaseUnavailable, match="it is gone"):
            waited.result(20)
    eventually(lambda: not pollers())
    engine.dispose()


def terminate(database: Database) -> bool:
    """End the poller's connection; return whether there was one that had looked."""
    query = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%asked%'
    """
    with database.engine.connect() as connection:
        return bool(connection.execute(text(query)).all())


def test_no_schema(server: Any, committed_db: Database) -> None:
    """Where the schema is missing, it says so at once."""
    url = engine_url(committed_db.url, "psycopg").set(database=server.maintenance_dbname)
    engine = create_engine(url)
    with pytest.raises(SchemaMismatch):
        outbox.wait(engine, uuid4(), 60)
    eventually(lambda: not pollers())
    engine.dispose()


class _Told(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("told")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "lasts"),
    [
        (ProgrammingError("", {}, _Told("42501")), True),
        (OperationalError("", {}, _Told("57P01")), False),
        (OperationalError("", {}, _Told(None)), False),
        (_Told("42P01"), True),
        (ConnectionRefusedError(), False),
        (TypeError(), True),
    ],
)
def test_lasts(error: Exception, lasts: bool) -> None:
    """Nobody waits for a right to be granted, or for our own bug; a connection may come back."""
    assert waits.lasts(error) == lasts
