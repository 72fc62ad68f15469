"""One process on several databases: each gets its own, and none is in another's way."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from outbox.backlog import Backlog, Count
from outbox.schema import VERSION
from outbox.worker import process as module
from outbox.worker.databases import databases
from outbox.worker.deliver import Deliverer
from outbox.worker.ledger import Ledger
from outbox.worker.life import _pool
from outbox.worker.look import Look, together
from outbox.worker.monitor import Monitor, Post
from outbox.worker.process import Process
from outbox.worker.settings import Settings
from outbox.worker.store import Store
from outbox.worker.telemetry import DATABASE, _placed
from tests.factories import emit_many, event, rows, subscribe, value

from .conftest import until
from .test_metrics import page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from outbox.worker.life import Life
    from outbox.worker.monitor import Checked
    from outbox.worker.rows import FannedOut
    from tests.databases import Database

    Handler = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]

pytestmark = pytest.mark.clone

NOBODY = "postgresql://ada:hunter2@127.0.0.1:1/nowhere"
IS_DONE = """
SELECT NOT EXISTS (SELECT FROM outbox.event_queue)
    AND NOT EXISTS (SELECT FROM outbox.delivery_queue)
"""


def fill(database: Database, events: int, *urls: str) -> None:
    """Subscribe each url to all events, and emit so many."""
    with database.engine.begin() as connection:
        for url in urls:
            subscribe(connection, url=url)
        emit_many(connection, [event()] * events)


def emit(database: Database) -> None:
    with database.engine.begin() as connection:
        emit_many(connection, [event()])


async def arrives(database: Database, seen: Counter[str]) -> None:
    """Emit an event to `b` and wait for it."""
    before = seen["b"]
    emit(database)
    await until(lambda: seen["b"] > before)


def ask(database: Database, query: str) -> Any:
    with database.engine.connect() as connection:
        return value(connection, query)


def outcomes(database: Database) -> dict[str, int]:
    with database.engine.connect() as connection:
        return dict(rows(connection, "SELECT outcome, count(*) FROM outbox.attempt GROUP BY 1"))


def accept(database: Database, accepts: bool) -> None:
    """Let a database take connections, or cut off all that there are."""
    name, where = database.engine.url.database, database.url.replace("_clone?", "_shared?")
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {accepts}".encode())
        if not accepts:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )


class Work:
    """A process at work, whose transport is played."""

    def __init__(self, process: Process, running: asyncio.Task[int]) -> None:
        self.process = process
        self._running = running

    @property
    def lives(self) -> list[Life]:
        return self.process.lives

    @property
    def is_ready(self) -> bool:
        return self.process._post.row.is_ready

    async def stop(self) -> int:
        if not self.process._stopping.is_set():
            self.process.stop()
        return await self._running


@asynccontextmanager
async def working_on(
    monkeypatch: pytest.MonkeyPatch, handler: Handler, *urls: str, **settings: Any
) -> AsyncIterator[Work]:
    """Run a process on the databases at `urls`; it is stopped at the end."""
    monkeypatch.setattr(
        module,
        "_transport",
        lambda _: httpx.MockTransport(handler),  # type: ignore[arg-type]
    )
    process = Process(Settings(**{"database_url": urls, "concurrency": 10, **settings}))
    work = Work(process, asyncio.create_task(process.run()))
    try:
        yield work
    finally:
        await work.stop()


def well(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200)


@pytest.fixture
def a(committed_db: Database) -> Database:
    return committed_db


@pytest.fixture
def b(cloned_db: Database) -> Database:
    return cloned_db


def test_both_are_served(a: Database, b: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event arrives once, from its own database to its own subscription, and is recorded."""
    seen: Counter[str] = Counter()

    def answer(request: httpx.Request) -> httpx.Response:
        seen[request.url.path] += 1
        return httpx.Response(200)

    async def run() -> int:
        async with working_on(monkeypatch, answer, a.url, b.url) as work:
            await until(lambda: work.is_ready)
            await until(lambda: ask(a, IS_DONE) and ask(b, IS_DONE))
            assert [life.is_registered for life in work.lives] == [True, True]
            return await work.stop()

    fill(a, 300, "http://r/a")
    fill(b, 200, "http://r/b")

    assert asyncio.run(run()) == 0
    assert seen == {"/a": 300, "/b": 200}
    assert (outcomes(a), outcomes(b)) == ({"delivered": 300}, {"delivered": 200})
    for database in (a, b):
        assert ask(database, "SELECT stopped_at IS NOT NULL FROM outbox.worker") is True


# Fairness.


def test_one_that_hangs_leaves_slots(
    a: Database, b: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 deliveries whose receivers hang let a trickle of another database pass at once.

    None of them has ended when the last of the trickle arrives.
    """
    begun: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    answered = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        side = request.url.host
        begun[side] += 1
        if side == "a":
            await answered.wait()
        ended[side] += 1
        return httpx.Response(200)

    async def run() -> None:
        async with working_on(monkeypatch, answer, a.url, b.url) as work:
            await until(lambda: begun["a"] == 8)
            await until(lambda: ask(a, "SELECT count(*) FROM outbox.delivery") == 10_000)
            for _ in range(10):
                await arrives(b, ended)
            assert (begun["a"], ended["a"]) == (8, 0)
            assert (work.lives[0].load.in_use, work.lives[1].load.in_use) == (8, 0)
            work.process.stop()
            answered.set()

    fill(a, 1_000, *(f"http://a/{number}" for number in range(10)))
    fill(b, 0, "http://b/")
    asyncio.run(run())


def test_a_backlog_does_not_delay_others(
    a: Database, b: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a large backlog that flows, a delivery waits for a few claims of the other at most."""
    begun: Counter[str] = Counter()
    made = 0  # so many of the backlog had begun when a delivery of the trickle was made
    waited: list[int] = []
    tell = Deliverer.fanned_out

    def fanned_out(deliverer: Deliverer, done: FannedOut) -> None:
        nonlocal made
        if done.deliveries == 1:
            made = begun["a"]
        tell(deliverer, done)

    async def answer(request: httpx.Request) -> httpx.Response:
        begun[request.url.host] += 1
        if request.url.host == "b":
            waited.append(begun["a"] - made)
        await asyncio.sleep(0.002)
        return httpx.Response(200)

    async def run() -> None:
        async with working_on(monkeypatch, answer, a.url, b.url):
            await until(lambda: begun["a"] > 100)
            for _ in range(5):
                await arrives(b, begun)

    monkeypatch.setattr(Deliverer, "fanned_out", fanned_out)
    fill(a, 1_000, *(f"http://a/{number}" for number in range(10)))
    fill(b, 0, "http://b/")
    asyncio.run(run())

    assert len(waited) == 5
    assert max(waited) < 100  # of 10,000: ten times as many as are in flight


# One of them is away, or wrong.


def test_away_at_the_start(
    a: Database, b: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are served at once; it is served when it comes; one line says each."""
    caplog.set_level(logging.INFO, "outbox.worker")

    async def run() -> None:
        async with working_on(monkeypatch, well, a.url, b.url) as work:
            await until(lambda: ask(a, IS_DONE))
            assert not work.is_ready
            await until(lambda: "waits for the database" in caplog.text)
            accept(b, accepts=True)
            await until(lambda: work.is_ready)
            await until(lambda: ask(b, IS_DONE))

    fill(a, 50, "http://r/a")
    fill(b, 50, "http://r/b")
    accept(b, accepts=False)
    try:
        asyncio.run(run())
    finally:
        accept(b, accepts=True)

    assert (outcomes(a), outcomes(b)) == ({"delivered": 50}, {"delivered": 50})
    assert caplog.text.count("worker waits for the database") == 1


def test_outdated(
    a: Database, b: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the schema of one changes, that one is left, the others go on, the exit code is 1."""

    async def run() -> int:
        async with working_on(monkeypatch, well, a.url, b.url) as work:
            await until(lambda: work.is_ready)
            work.lives[1]._outdated(99)
            fill(a, 20, "http://r/a")
            await until(lambda: ask(a, IS_DONE) and outcomes(a))
            assert not work.is_ready
            told = await Monitor(Post(Ledger(1)), work.lives[1], b.url).readyz()
            assert b"has version 99" in told.body
            return await work.stop()

    assert asyncio.run(run()) == 1
    assert outcomes(a) == {"delivered": 20}
    assert f"has version 99, this program knows only {VERSION}" in caplog.text
    assert ask(b, "SELECT stopped_at IS NOT NULL FROM outbox.worker") is True


def test_away_and_then_wrong(
    a: Database, b: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that comes with another schema is left, as if it had changed while it was served."""

    async def run() -> int:
        async with working_on(monkeypatch, well, a.url, b.url) as work:
            await until(lambda: "waits for the database" in caplog.text)
            accept(b, accepts=True)
            await until(lambda: "has version 99" in caplog.text)
            fill(a, 5, "http://r/a")
            await until(lambda: outcomes(a) == {"delivered": 5})
            return await work.stop()

    with b.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO outbox.schema_version (version) VALUES (99)")
    accept(b, accepts=False)
    try:
        assert asyncio.run(run()) == 1
    finally:
        accept(b, accepts=True)


def test_what_lets_it_not_start(a: Database, b: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that is wrong is told by name; one that is away is no reason, unless all are."""

    async def fault(*urls: str) -> str | None:
        try:
            await Process(Settings(database_url=urls)).check()
        except Exception as error:  # noqa: BLE001 - what it is stands in the text
            return ": ".join([*error.__notes__, str(error)])
        return None

    monkeypatch.setattr(module, "START_SECONDS", 10.0)
    away = "127.0.0.1:1/nowhere: database: "
    with b.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO outbox.schema_version (version) VALUES (99)")

    assert asyncio.run(fault(a.url, NOBODY)) is None
    assert str(asyncio.run(fault(NOBODY, f"{NOBODY}2"))).startswith(away)
    told = str(asyncio.run(fault(a.url, NOBODY, b.url)))
    assert told.startswith(f"{databases((a.url, b.url))[1].name}: schema: ")
    assert "has version 99" in told
    assert "hunter2" not in told


# What is told of them.


def test_lines_name_the_database(
    a: Database, b: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every line of a database's life names it, also of requests that another made room for."""
    caplog.set_level(logging.INFO, "outbox.worker")
    caplog.handler.addFilter(_placed)

    async def fail(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.01)
        return httpx.Response(400, content=request.url.host.encode())

    async def run() -> None:
        async with working_on(monkeypatch, fail, a.url, b.url, concurrency=4):
            await until(lambda: len(outcomes(a)) and len(outcomes(b)))
            await until(lambda: sum(outcomes(a).values()) == sum(outcomes(b).values()) == 40)
            assert DATABASE.get() == ""

    fill(a, 40, "http://a/")
    fill(b, 40, "http://b/")
    try:
        asyncio.run(run())
    finally:
        caplog.handler.removeFilter(_placed)
    named: dict[str, set[str]] = {}
    for record in caplog.records:
        if hasattr(record, "subscription"):
            named.setdefault(record.subscription, set()).add(getattr(record, "database", ""))

    ids = [ask(database, "SELECT id FROM outbox.subscription") for database in (a, b)]
    assert [len(named[str(id)]) for id in ids] == [1, 1]
    assert named[str(ids[0])] != named[str(ids[1])]


def backlog(number: int, oldest: float | None, **held: int) -> Backlog:
    counts = {reason: Count(count) for reason, count in held.items()}
    count = Count(number, exact=number < 10)
    return Backlog(count, oldest, count, count, count, oldest, count, count, counts)


def test_several_are_seen_as_one() -> None:
    """What waits is added up; the oldest is the oldest of all; workers live in each database."""
    one, other = backlog(3, None, paused=1), backlog(40, 60.0, paused=2, blocked=5)
    seen, workers = together([(one, 2), (other, 1)])

    assert workers == 2
    assert (seen.due, seen.in_flight) == (Count(43, exact=False), Count(43, exact=False))
    assert (seen.oldest_event, seen.oldest_due) == (60.0, 60.0)
    assert {reason: count.number for reason, count in seen.held.items() if count.number} == {
        "paused": 3, "blocked": 5,
    }  # fmt: skip
    assert together([(one, 2)])[0].oldest_due is None


def test_a_look_at_several(a: Database, b: Database) -> None:
    """The backlog is that of the databases that answer, and it is told how many do not."""
    fill(a, 3, "http://r/a")
    fill(b, 4, "http://r/b")
    ledger, partly = Ledger(1), Ledger(1)
    asyncio.run(Look((a.url, b.url), ledger.whole).refresh())
    asyncio.run(Look((a.url, NOBODY), partly.whole).refresh())
    found, less = page(ledger), page(partly)

    assert found["outbox_backlog[event][due]"] == 7
    assert (found["outbox_database_up"], found["outbox_databases[down]"]) == (1, 0)
    assert less["outbox_backlog[event][due]"] == 3
    assert less["outbox_database_up"] == 0
    assert (less["outbox_databases[up]"], less["outbox_databases[down]"]) == (1, 1)


def test_readyz_names_the_database(a: Database) -> None:
    """A database that does not answer is told by its name, and the others are not."""

    class Away:
        async def check(self) -> None:
            raise psycopg.OperationalError("connection refused")

    async def run() -> bytes:
        async with _pool(a.url) as pool:
            post = Post(Ledger(1))
            post.row.ready(True)
            checks: dict[str, Checked] = {"db1/app": Store(pool), "db2/app": Away()}
            return (await Monitor(post, checks, (a.url, NOBODY)).readyz()).body

    assert asyncio.run(run()) == b"db2/app: database: connection refused\n"
