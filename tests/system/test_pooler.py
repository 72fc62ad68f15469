"""Everything works behind PgBouncer in transaction mode, with the settings it comes with."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import create_engine

import outbox
from outbox import Event
from tests.cli.conftest import Cli
from tests.databases import engine_url
from tests.factories import rows, subscribe, value
from tests.helpers import eventually, start_worker
from tests.receiver import Answer

from .account import account, wait_until_done
from .pooler import PROGRAM, pooled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests.databases import Database
    from tests.receiver import Receiver

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.clone,
    pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed"),
]

HOSTS = 4
EVENTS = 100  # of each host
WORKER = ("--concurrency", "50")
SCANS = """
SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_user_tables
WHERE schemaname = 'outbox' AND relname ~ '^(event|delivery|attempt)'
"""
LEFT_BEHIND = """
SELECT (SELECT string_agg(name, ' ') FROM pg_settings WHERE source = 'session'
        AND name NOT IN ('application_name', 'client_encoding', 'TimeZone', 'DateStyle')),
    (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_listening_channels())
"""


@pytest.fixture
def url(cloned_db: Database) -> Iterator[str]:
    with pooled(cloned_db.url) as url:
        yield url


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """As hosts are told to make it."""
    made = create_engine(engine_url(url, "psycopg"), connect_args={"prepare_threshold": None})
    yield made
    made.dispose()


def test_two_workers(cloned_db: Database, engine: Engine, url: str, receiver: Receiver) -> None:
    """Each event is delivered once, over indexes, and hosts find their sessions untouched."""
    with cloned_db.engine.begin() as connection:
        subscribe(connection, url=receiver.url)
        connection.exec_driver_sql("ANALYZE")  # tables are so small that to scan them is cheap
    found: list[Any] = []

    def host() -> None:
        for n in range(EVENTS):
            with engine.begin() as connection:
                outbox.emit(connection, Event(type="a.b", data={"n": n}))
                if n % 10 == 0:
                    found.append(rows(connection, LEFT_BEHIND)[0])

    with cloned_db.engine.connect() as connection:
        scans = value(connection, SCANS)
    with start_worker(url, *WORKER) as one, start_worker(url, *WORKER) as other:
        for worker in (one, other):
            worker.wait_for_line("a pooler stands before the database")
        hosts = [threading.Thread(target=host) for _ in range(HOSTS)]
        for thread in hosts:
            thread.start()
        for thread in hosts:
            thread.join(60)
        receiver.wait_for(HOSTS * EVENTS, timeout=60)
        assert {one.terminate(), other.terminate()} == {0}
    with cloned_db.engine.connect() as connection:
        eventually(
            lambda: (
                value(connection, "SELECT count(*) FROM outbox.worker WHERE stopped_at IS NOT NULL")
                == 2
            )
        )
        read = value(connection, SCANS) - scans

    wait_until_done(cloned_db.engine)
    drawn = account(cloned_db.engine, receiver)
    assert drawn.states == {"delivered": HOSTS * EVENTS}
    assert len(drawn.requests) == HOSTS * EVENTS
    assert set(found) == {(None, 0, 0)}
    assert read == 0
    told = [line for worker in (one, other) for line in worker.lines]
    assert [line for line in told if " error " in line or "waits for" in line] == []


def test_hosts_wait(engine: Engine, url: str, receiver: Receiver) -> None:
    """A host learns what the receiver answered."""
    with engine.begin() as connection:
        subscribe(connection, url=receiver.url)
    with start_worker(url, *WORKER):
        with engine.begin() as connection:
            id = outbox.emit(connection, Event(type="a.b"))
        waited = outbox.wait(engine, id, timeout=20)

    assert [answer.status for answer in waited.answers] == [200]


def test_the_command_line(cloned_db: Database, url: str, receiver: Receiver) -> None:
    """Operators do through the pooler what they do without one."""
    run = Cli(url).json
    receiver.script = lambda request: Answer(500 if request.path.startswith("/down") else 200)
    base = receiver.url.partition("?")[0]
    run("subscriptions", "add", f"{base}up", "--types", "user.*")
    down = run("subscriptions", "add", f"{base}down", "--types", "user.*", "--schedule", "0s")
    with psycopg.connect(cloned_db.url) as connection:
        connection.execute("CREATE TABLE public.users (id int PRIMARY KEY, name text)")
    captured = run("capture", "add", "public.users", "--type", "user")
    with start_worker(url, *WORKER):
        with psycopg.connect(url, prepare_threshold=None) as connection:
            for id in range(20):
                connection.execute("INSERT INTO users VALUES (%s, 'ada')", [id])
        receiver.wait_for(40)
        wait_until_done(cloned_db.engine)
        receiver.script = []
        retried = run("deliveries", "retry", "--state", "dead", "--yes")
        replayed = run("replay", "--subscription", down["id"], "--yes")
        receiver.wait_for(80)
        wait_until_done(cloned_db.engine)
        status = run("status")
        doctor = json.loads(Cli(url)("doctor", "--json").stdout)
        audit = run("audit")
    run("capture", "remove", captured["id"], "--yes")

    assert (retried["made"], replayed["made"], audit["found"]) == (20, 20, {})
    assert status["traffic"]["outcomes"] == {"delivered": 60, "dead": 20}
    errors = {each["name"] for each in doctor["checks"] if each["verdict"] == "error"}
    assert errors <= {"fsync", "full_page_writes"}  # of the server of the tests
