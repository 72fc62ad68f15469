"""The tools of the tests are tested too: a fixture that leaks makes every test a liar."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import aiohttp
import httpx
import pytest
from sqlalchemy import Connection, func, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from outbox import Event, emit
from outbox.tables import event

from .databases import Database, clone, empty, engine_at, engine_url
from .helpers import Worker, eventually
from .receiver import Answer, Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_postgresql.executors import NoopExecutor


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(event)).scalar_one()


@pytest.mark.parametrize("_", [1, 2])
def test_db_rolls_back(db: Connection, _: int) -> None:
    """What one test writes through `db`, the next one does not see."""
    emit(db, Event(type="a.b"))

    assert count(db) == 1


def test_committed_db_is_emptied(committed_db: Database) -> None:
    """Emptying a database deletes facts too, which refuse it to everyone else."""
    with committed_db.engine.begin() as connection:
        emit(connection, Event(type="a.b"))
    empty(committed_db)

    with committed_db.engine.connect() as connection:
        assert count(connection) == 0


@pytest.mark.clone
def test_cloned_db_stands_alone(cloned_db: Database, db: Connection) -> None:
    """A clone has the schema, and what is committed in it stays in it."""
    with cloned_db.engine.begin() as connection:
        emit(connection, Event(type="a.b"))

    assert count(db) == 0


@pytest.mark.clone
def test_clone_is_dropped(template: NoopExecutor, db: Connection) -> None:
    """A clone is dropped although something is still connected to it."""
    with clone(template, "outbox_test_dropped") as database:
        left = database.engine.connect()
        left.execute(text("SELECT 1"))
    left.invalidate()
    left.close()

    found = db.execute(text("SELECT 1 FROM pg_database WHERE datname = 'outbox_test_dropped'"))
    assert found.all() == []


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_drivers(committed_db: Database, driver: str) -> None:
    """Every driver reaches the same database."""
    with engine_at(committed_db.url, driver).connect() as connection:
        assert count(connection) == 0


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_async_drivers(committed_db: Database, driver: str) -> None:
    """So does every driver for asyncio."""

    async def look() -> int:
        engine = create_async_engine(engine_url(committed_db.url, driver))
        async with engine.connect() as connection:
            found = await connection.run_sync(count)
        await engine.dispose()
        return found

    assert asyncio.run(look()) == 0


def at(receiver: Receiver, path: str = "/") -> str:
    """An URL without the canary: these clients of our own log what they ask for."""
    return f"http://127.0.0.1:{receiver.port}{path}"


def test_receiver_plays_a_list(receiver: Receiver) -> None:
    """A script is played answer by answer; after it everything is 200."""
    receiver.script = [500, Answer(429, headers={"retry-after": "7"}, body=b"slow down")]
    with httpx.Client() as client:
        replies = [client.post(at(receiver, "/x?y=1"), content=b"hello") for _ in range(3)]

    assert [reply.status_code for reply in replies] == [500, 429, 200]
    assert (replies[1].headers["retry-after"], replies[1].content) == ("7", b"slow down")


def test_receiver_records(receiver: Receiver) -> None:
    """A request is recorded as it was sent: path with query, each header, exact body."""
    httpx.put(at(receiver, "/x?y=1"), content=b"\x00\xff", headers=[("A", "1"), ("A", "2")])
    (request,) = receiver.wait_for(1)

    assert (request.method, request.path, request.body) == ("PUT", "/x?y=1", b"\x00\xff")
    assert [value for name, value in request.headers if name == "A"] == ["1", "2"]
    assert request.header("content-length") == "2"


def test_receiver_plays_a_function(receiver: Receiver) -> None:
    """A script may be a function of the request; raw bytes end the connection."""
    receiver.script = lambda request: Answer(raw=b"") if request.body == b"bad" else 204
    good = httpx.post(at(receiver), content=b"good")

    assert good.status_code == 204
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(at(receiver), content=b"bad")


def test_receiver_delays(receiver: Receiver) -> None:
    """A delayed answer comes after its delay, and does not hold up other connections."""
    receiver.script = lambda request: Answer(delay=30 if request.body == b"slow" else 0)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(at(receiver), content=b"slow", timeout=0.1)

    assert httpx.post(at(receiver), content=b"fast").status_code == 200


def test_receiver_keeps_up(receiver: Receiver) -> None:
    """Two hundred kept-alive connections at once are served, and nothing gets lost."""

    async def post(session: aiohttp.ClientSession) -> None:
        for _ in range(10):
            async with session.post(at(receiver), data=b"x") as reply:
                assert reply.status == 200

    async def storm() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as session:
            await asyncio.gather(*(post(session) for _ in range(200)))

    asyncio.run(storm())

    assert len(receiver.requests) == 2000


def test_eventually() -> None:
    """It returns the first true value, and fails with the last one."""
    values = iter([0, 0, 7])

    assert eventually(lambda: next(values)) == 7
    with pytest.raises(AssertionError, match="still 0"):
        eventually(lambda: 0, timeout=0.05)


@pytest.fixture
def chatty() -> Iterator[Worker]:
    script = "import sys; print('one', 'two', file=sys.stderr, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(  # noqa: S603 - a constant
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield Worker(process)


def test_worker_lines(chatty: Worker) -> None:
    """Lines of a running process can be waited for; what it did say stands in the failure."""
    assert chatty.wait_for_line("two") == "one two"
    with pytest.raises(AssertionError, match="one two"):
        chatty.wait_for_line("three", timeout=0.05)
    assert chatty.terminate() == -15
