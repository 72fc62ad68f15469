"""One `outbox-worker` on two databases, as an operator runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

import outbox
from outbox import Event, deliveries
from outbox.worker.databases import databases
from tests.factories import subscribe, value
from tests.helpers import environment, eventually, start_worker
from tests.receiver import Answer, Receiver

from .account import account, wait_until_done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tests.databases import Database
    from tests.helpers import Worker

pytestmark = [pytest.mark.system, pytest.mark.clone]

NOBODY = "postgresql://ada:hunter2@127.0.0.1:1/nowhere"


class Side:
    """A database, and the only receiver that its events go to."""

    def __init__(self, database: Database, receiver: Receiver) -> None:
        self.database, self.engine, self.receiver = database, database.engine, receiver
        with self.engine.begin() as connection:
            subscribe(connection, url=receiver.url)

    def emit(self, count: int) -> None:
        with self.engine.begin() as connection:
            outbox.emit_many(connection, [Event(type="a.b")] * count)

    def ask(self, query: str) -> object:
        with self.engine.connect() as connection:
            return value(connection, query)


@pytest.fixture
def a(committed_db: Database, receiver: Receiver) -> Side:
    return Side(committed_db, receiver)


@pytest.fixture
def b(cloned_db: Database) -> Iterator[Side]:
    with Receiver() as receiver:
        yield Side(cloned_db, receiver)


def start(a: Side, b: Side, *arguments: str) -> AbstractContextManager[Worker]:
    """Run a worker on both."""
    return start_worker(a.database.url, "--database-url", b.database.url, *arguments)


def test_both_are_drained(a: Side, b: Side) -> None:
    """Two processes serve both databases to the last event, each once, and say so by name."""
    a.emit(300)
    b.emit(200)
    with start(a, b, "--processes", "2", "--concurrency", "10") as worker:
        for side in (a, b):
            wait_until_done(side.engine)
        assert worker.terminate() == 0

    assert account(a.engine, a.receiver).states == {"delivered": 300}
    assert account(b.engine, b.receiver).states == {"delivered": 200}
    names = [database.name for database in databases((a.database.url, b.database.url))]
    started = [line for line in worker.lines if "started: up to 10 requests at once" in line]
    assert sorted(line.rpartition("  database=")[2] for line in started) == sorted(names * 2)


def test_sigterm(a: Side, b: Side) -> None:
    """What is in flight to either is finished and recorded; the rest is given back; exit 0."""
    for side in (a, b):
        side.receiver.script = lambda _: Answer(delay=0.7)
        side.emit(20)
    with start(a, b, "--concurrency", "10") as worker:
        for side in (a, b):
            side.receiver.wait_for(2)
        assert worker.terminate() == 0

    assert len(a.receiver.requests) + len(b.receiver.requests) <= 10
    for side in (a, b):
        sent = len(side.receiver.requests)
        states = account(side.engine, side.receiver).states
        assert states == {"delivered": sent, "pending": 20 - sent}
        with side.engine.connect() as connection:
            pending = deliveries.list_deliveries(connection, state="pending")
        assert {(d.attempts, d.in_flight) for d in pending} == {(0, False)}


@pytest.mark.slow
def test_one_goes_away(a: Side, b: Side) -> None:
    """While a database is away the other one is served; then it goes on, without a loss.

    What was answered meanwhile is recorded when it is back, and SIGTERM ends the worker also
    while one is away.
    """
    b.receiver.script = lambda _: Answer(delay=0.3)
    b.emit(100)
    with start(a, b, "--concurrency", "20") as worker:
        b.receiver.wait_for(4)
        accept(b, a, accepts=False)
        for number in range(1, 4):
            a.emit(300)
            wait_until_done(a.engine)
            assert len(a.receiver.requests) == 300 * number
        accept(b, a, accepts=True)
        wait_until_done(b.engine)
        accept(b, a, accepts=False)
        a.emit(10)
        wait_until_done(a.engine)
        worker.terminate()
    accept(b, a, accepts=True)

    assert account(a.engine, a.receiver).states == {"delivered": 910}
    assert account(b.engine, b.receiver).states == {"delivered": 100}
    assert len(b.receiver.requests) == 100
    assert any("waits for the database" in line for line in worker.lines)


@pytest.mark.slow
def test_what_a_crash_repeats(a: Side, b: Side) -> None:
    """After kill -9 no more is repeated, in both together, than twice the concurrency."""
    for side in (a, b):
        side.receiver.script = lambda _: Answer(delay=0.02)
        side.emit(1_000)
    with start(a, b, "--concurrency", "20", "--timeout", "1", "--lease", "6.5") as worker:
        for side in (a, b):
            side.receiver.wait_for(200)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    with start(a, b, "--concurrency", "20"):
        for side in (a, b):
            wait_until_done(side.engine)
    found = [account(side.engine, side.receiver) for side in (a, b)]

    assert [each.states for each in found] == [{"delivered": 1_000}] * 2
    assert 0 < sum(each.repeated for each in found) <= 40


@pytest.mark.slow
def test_the_schema_of_one_changes(a: Side, b: Side) -> None:
    """It is left with a line that names it; the other is served on; the exit code is 1."""
    with start(a, b) as worker:
        eventually(lambda: sum("started: up to" in line for line in worker.lines) == 2)
        with b.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO outbox.schema_version (version) VALUES (99)")
        assert worker.wait_for_line("has version 99", timeout=20).endswith("_clone")
        a.emit(10)
        wait_until_done(a.engine)
        assert worker.terminate() == 1


def accept(side: Side, other: Side, *, accepts: bool) -> None:
    """Let a database take connections, or cut off all that there are; asked of `other`."""
    name = side.engine.url.database
    with psycopg.connect(other.database.url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {accepts}".encode())
        if not accepts:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )


# Checking.

RUN_ALL = """
import contextlib, io, json, os, sys
from outbox.worker.__main__ import main
for variable, arguments in json.load(sys.stdin):
    sys.argv, out, err = ["outbox-worker", *arguments], io.StringIO(), io.StringIO()
    os.environ["OUTBOX_DATABASE_URL"] = variable
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def test_check(a: Side, b: Side) -> None:
    """Each database is told of by name, and what is wrong with one is a line; no password is."""
    urls, once = (a.database.url, b.database.url), ["--check"]
    wrong = "mysql://ada:hunter2@db/app"
    runs: list[tuple[str, list[str]]] = [
        (f"{urls[0]}\n{urls[1]}\n", once),
        (f"{urls[0]} {NOBODY}", once),
        (f"{urls[0]} {urls[0]}", once),
        ("unused", ["--database-url", urls[0], "--database-url", wrong]),
        (" ".join(urls), ["--concurrency", "1"]),
        (f"{NOBODY} {NOBODY}2", []),
    ]
    done = subprocess.run(  # noqa: S603 - one process for all, as starting one takes a second
        [sys.executable, "-c", RUN_ALL], env=environment(), input=json.dumps(runs),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    names = [database.name for database in databases(urls)]
    ok = [f"ok: {name}: settings, connection and schema\n" for name in names]

    assert told[0] == [0, "".join(ok), ""]
    assert told[1][:2] == [1, ok[0]]
    assert told[1][2].startswith("Error: 127.0.0.1:1/nowhere: database: ")
    assert told[2] == [2, "", f"Error: database url: {names[0]} is given twice\n"]
    assert told[3][0] == 2
    assert told[3][2].startswith("Error: database url 2: must be postgresql://")
    assert told[4] == [2, "", "Error: concurrency: must be at least one for each database\n"]
    assert told[5][0] == 1
    assert told[5][2].startswith("Error: 127.0.0.1:1/nowhere: database: ")
    assert all(len(err.splitlines()) <= 1 for _, _, err in told)
    assert "hunter2" not in done.stdout
