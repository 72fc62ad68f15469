"""Starting, checking and stopping the worker as an operator does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text

import outbox
from outbox import Event, deliveries
from outbox.schema import VERSION
from tests.databases import Database, libpq_url
from tests.factories import subscribe, value
from tests.helpers import environment, eventually, start_worker
from tests.receiver import Answer

from .account import account, wait_until_done

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.helpers import Worker
    from tests.receiver import Receiver

    from .pg import Cluster

pytestmark = pytest.mark.system


def emit(engine: Engine, receiver: Receiver, count: int) -> None:
    """So many events for one subscription."""
    with engine.begin() as connection:
        subscribe(connection, url=receiver.url)
        outbox.emit_many(connection, [Event(type="a.b")] * count)


def run_worker(
    *arguments: str, url: str | None = None, timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run `outbox-worker` to its end."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "outbox.worker", *arguments],
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# Stopping.


def test_sigterm(committed_db: Database, receiver: Receiver) -> None:
    """It finishes and records what is in flight, gives the rest back, and exits 0."""
    receiver.script = lambda _: Answer(delay=0.7)
    emit(committed_db.engine, receiver, 20)
    with start_worker(committed_db.url, "--concurrency", "5") as worker:
        receiver.wait_for(4)  # the fifth is for another subscription
        assert worker.terminate() == 0

    assert len(receiver.requests) == 4
    assert account(committed_db.engine, receiver).states == {"delivered": 4, "pending": 16}
    with committed_db.engine.connect() as connection:
        pending = deliveries.list_deliveries(connection, state="pending")
        assert {(d.attempts, d.in_flight) for d in pending} == {(0, False)}
        assert value(connection, "SELECT stopped_at IS NOT NULL FROM outbox.worker") is True
    assert "finishing 4 requests in flight" in "\n".join(worker.lines)


def test_what_was_given_back_is_free_at_once(committed_db: Database, receiver: Receiver) -> None:
    """The next worker need not wait for a lease of the one that was stopped."""
    receiver.script = [Answer(delay=0.5)]
    emit(committed_db.engine, receiver, 10)
    with start_worker(committed_db.url, "--concurrency", "1") as worker:
        receiver.wait_for(1)
        assert worker.terminate() == 0
    with start_worker(committed_db.url):
        wait_until_done(committed_db.engine, timeout=10)

    assert account(committed_db.engine, receiver).states == {"delivered": 10}
    assert len(receiver.requests) == 10


def test_sigterm_when_the_grace_is_over(committed_db: Database, receiver: Receiver) -> None:
    """A request that is not answered within the grace is cut and stands as lost; exit 0."""
    receiver.script = [Answer(delay=30)]
    emit(committed_db.engine, receiver, 1)
    with start_worker(committed_db.url, "--grace", "0.3") as worker:
        receiver.wait_for(1)
        assert worker.terminate() == 0
    found = account(committed_db.engine, receiver)

    assert (found.states, len(found.lost)) == ({"pending": 1}, 1)


def test_second_sigterm(committed_db: Database, receiver: Receiver) -> None:
    """The second SIGTERM ends it at once; what was in flight keeps its lease."""
    receiver.script = [Answer(delay=30)]
    emit(committed_db.engine, receiver, 1)
    with start_worker(committed_db.url) as worker:
        receiver.wait_for(1)
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait_for_line("finishing 1 requests")
        began = time.monotonic()
        assert worker.terminate() == 1
        assert time.monotonic() - began < 5

    with committed_db.engine.connect() as connection:
        (delivery,) = deliveries.list_deliveries(connection)
    assert (delivery.attempts, delivery.in_flight) == (1, True)


def test_idle(committed_db: Database) -> None:
    """A worker that has nothing to do is stopped at once, and hardly works before."""
    with start_worker(committed_db.url) as worker:
        worker.wait_for_line("started")
        process = psutil.Process(worker.pid)
        before = process.cpu_times()
        time.sleep(2)
        after = process.cpu_times()
        began = time.monotonic()
        assert worker.terminate() == 0
        stopped = time.monotonic() - began

    assert stopped < 5
    assert after.user + after.system - before.user - before.system < 0.6


# Several processes.


def children(worker: Worker) -> set[int]:
    return {process.pid for process in psutil.Process(worker.pid).children()}


def two_at_work(worker: Worker) -> set[int]:
    """Wait until two processes have started, and return their ids."""
    eventually(lambda: sum("started: up to" in line for line in worker.lines) >= 2)
    return children(worker)


def test_processes(committed_db: Database, receiver: Receiver) -> None:
    """N processes are N workers, which share the work; SIGTERM stops all of them."""
    with start_worker(committed_db.url, "--processes", "2", "--concurrency", "5") as worker:
        pids = two_at_work(worker)
        emit(committed_db.engine, receiver, 300)
        wait_until_done(committed_db.engine)
        assert worker.terminate() == 0
    found = account(committed_db.engine, receiver)
    with committed_db.engine.connect() as connection:
        shares = value(connection, "SELECT count(DISTINCT worker_id) FROM outbox.attempt")

    assert (len(pids), shares, found.states) == (2, 2, {"delivered": 300})
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.slow
def test_a_killed_process_is_started_again(committed_db: Database, receiver: Receiver) -> None:
    """A process that dies is replaced; the other one goes on meanwhile."""
    with start_worker(committed_db.url, "--processes", "2") as worker:
        pids = two_at_work(worker)
        victim = min(pids)
        os.kill(victim, signal.SIGKILL)
        emit(committed_db.engine, receiver, 10)
        wait_until_done(committed_db.engine, timeout=5)
        worker.wait_for_line(f"worker process {victim} died (-9)")
        replaced = eventually(lambda: (now := children(worker)) and len(now) == 2 and now)
        eventually(lambda: sum("started: up to" in line for line in worker.lines) == 3)
        assert worker.terminate() == 0

    assert victim not in replaced
    assert pids - {victim} < replaced


@pytest.mark.slow
def test_a_killed_supervisor_takes_its_processes_along(committed_db: Database) -> None:
    """When the supervisor is gone, its processes stop by themselves, in good order."""
    with start_worker(committed_db.url, "--processes", "2") as worker:
        pids = two_at_work(worker)
        os.kill(worker.pid, signal.SIGKILL)
        eventually(lambda: not any(map(psutil.pid_exists, pids)))
        worker.wait()

    with committed_db.engine.connect() as connection:
        stopped = "SELECT count(*) FROM outbox.worker WHERE stopped_at IS NOT NULL"
        assert value(connection, stopped) == 2


def test_second_sigterm_with_processes(committed_db: Database, receiver: Receiver) -> None:
    """The supervisor passes the second SIGTERM on as well."""
    receiver.script = lambda _: Answer(delay=30)
    emit(committed_db.engine, receiver, 1)
    with start_worker(committed_db.url, "--processes", "2") as worker:
        pids = two_at_work(worker)
        receiver.wait_for(1)
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait_for_line("finishing 1 requests")
        assert worker.terminate(timeout=5) == 1

    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize("born", [1, 3])
def test_sigterm_while_starting(committed_db: Database, born: int) -> None:
    """However early the SIGTERM comes, all processes end."""
    with start_worker(committed_db.url, "--processes", "3") as worker:
        eventually(lambda: len(children(worker)) >= born)
        assert worker.terminate(timeout=10) == 0


# Checking.


def one_line(output: str) -> str:
    (line,) = output.splitlines()
    return line


def test_check(committed_db: Database) -> None:
    """--check says that all is well, and does nothing."""
    done = run_worker("--check", url=committed_db.url)

    assert (done.returncode, one_line(done.stdout), done.stderr) == (
        0,
        "ok: settings, connection and schema",
        "",
    )
    with committed_db.engine.connect() as connection:
        assert value(connection, "SELECT count(*) FROM outbox.worker") == 0


@pytest.mark.clone
@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        ("DROP SCHEMA outbox CASCADE", ["--check"], "run `outbox schema apply`"),
        (
            "UPDATE outbox.schema_version SET version = 99",
            ["--processes", "2"],
            f"has version 99, this program knows only {VERSION}",
        ),
    ],
    ids=["none", "newer"],
)
def test_other_schema(cloned_db: Database, change: str, arguments: list[str], said: str) -> None:
    """On another schema than its own it refuses to start, in one clear line."""
    with cloned_db.engine.begin() as connection:
        connection.execute(text(change))
    done = run_worker(*arguments, url=cloned_db.url)

    assert (done.returncode, done.stdout) == (1, "")
    assert said in one_line(done.stderr)


@pytest.mark.slow
@pytest.mark.clone
@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_schema_changes_under_it(cloned_db: Database, processes: str) -> None:
    """When another version is installed while it runs, it stops: once, whole, with exit code 1."""
    with start_worker(cloned_db.url, "--processes", processes) as worker:
        eventually(lambda: sum("started: up to" in s for s in worker.lines) == int(processes))
        with cloned_db.engine.begin() as connection:
            connection.execute(text("INSERT INTO outbox.schema_version (version) VALUES (99)"))
        assert worker.wait(timeout=20) == 1

    assert "install a newer outbox-webhooks" in "\n".join(worker.lines)


def test_wrong_password(own_cluster: Cluster) -> None:
    """A refused login is one line, without the password."""
    with psycopg.connect(own_cluster.url) as connection:
        connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    rules = own_cluster.folder / "data" / "pg_hba.conf"
    rules.write_text("local all guarded scram-sha-256\n" + rules.read_text())
    with psycopg.connect(own_cluster.url) as connection:
        connection.execute("SELECT pg_reload_conf()")
    where = conninfo_to_dict(own_cluster.url)
    url = libpq_url(str(where["host"]), str(where["port"]), "guarded", "postgres", "hunter2")
    done = eventually(lambda: _refused(url))

    assert (done.returncode, done.stdout) == (1, "")
    assert "password authentication failed" in one_line(done.stderr)
    assert "hunter2" not in done.stderr


def _refused(url: str) -> subprocess.CompletedProcess[str] | None:
    """The check, once the server has read its new rules."""
    done = run_worker("--check", url=url)
    return done if "permission denied" not in done.stderr else None


@pytest.mark.parametrize("arguments", [["--check"], ["--processes", "2"]], ids=" ".join)
def test_unreachable(tmp_path: Path, arguments: list[str]) -> None:
    """A database that is not there is one line, and exit code 1."""
    done = run_worker(*arguments, url=libpq_url(str(tmp_path), 5432, "ada", "app", "hunter2"))

    assert (done.returncode, done.stdout) == (1, "")
    assert one_line(done.stderr).startswith("Error: database: ")
    assert "hunter2" not in done.stderr


@pytest.mark.clone
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_database_that_takes_no_writes(cloned_db: Database, processes: str) -> None:
    """On a standby, or what behaves as one, it does not start, and says why in one line."""
    name = cloned_db.engine.url.database
    with cloned_db.engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    with start_worker(cloned_db.url, "--processes", processes) as worker:
        worker.wait_for_line("read-only transaction")
        worker.terminate()

    assert "Traceback" not in "\n".join(worker.lines), "\n".join(worker.lines)
    assert "give the url of the primary" in "\n".join(worker.lines)


BAD_SETTINGS = [
    (["--concurrency", "0"], "concurrency: must be from 1 to 10,000"),
    (["--processes", "0"], "processes: must be from 1 to 256"),
    (["--timeout", "0"], "timeout: must be from 0.1 to 300"),
    (["--timeout", "nan"], "timeout: must be from 0.1 to 300"),
    (["--lease", "20"], "lease: must be longer than timeout + 5 seconds"),
    (["--grace", "-1"], "grace: must be from 0 to 3,600"),
    (["--database-url", "mysql://ada:hunter2@db/app"], "must be postgresql://"),
    (["--database-url", "postgresql://ada:hunter2@db:x/app?y=z"], "must be postgresql://"),
    (["--concurrency", "many"], "'many' is not a valid integer"),
    (["--log-format", "xml"], "'xml' is not one of 'text', 'json'"),
    (["--nonsense"], "No such option"),
]
RUN_ALL = """
import contextlib, io, json, sys
from outbox.worker.__main__ import main
for arguments in json.load(sys.stdin):
    sys.argv, said = ["outbox-worker", *arguments], io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            print(json.dumps([end.code, said.getvalue()]))
"""


def test_bad_settings() -> None:
    """A setting that makes no sense is told in a line, and the exit code is 2."""
    done = subprocess.run(  # noqa: S603 - one process for all, as starting one takes a second
        [sys.executable, "-c", RUN_ALL],
        env=environment("postgresql://ada@127.0.0.1:1/app"),
        input=json.dumps([arguments for arguments, _ in BAD_SETTINGS]),
        capture_output=True,
        text=True,
        check=True,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]

    assert [code for code, _ in told] == [2] * len(BAD_SETTINGS)
    for (_, expected), (_, said) in zip(BAD_SETTINGS, told, strict=True):
        assert expected in said.splitlines()[-1]
    assert "hunter2" not in done.stdout
    assert done.stderr == ""


def test_without_a_database() -> None:
    """Without a database URL it says which setting is missing."""
    done = run_worker("--check")

    assert (done.returncode, "'--database-url'" in done.stderr.splitlines()[-1]) == (2, True)


# The log.


def test_json_lines(committed_db: Database, receiver: Receiver) -> None:
    """With --log-format json every line is one object, whatever a receiver answers."""
    receiver.script = [500, Answer(302, headers={"location": 'x"\u00ff\\'}), 410]
    with committed_db.engine.begin() as connection:
        subscribe(connection, url=receiver.url + "?token=hidden", schedule=[0, 0.05, 0.05])
        outbox.emit(connection, Event(type="a.b"))
    with start_worker(committed_db.url, "--log-format", "json", "--log-level", "debug") as worker:
        receiver.wait_for(3)
        wait_until_done(committed_db.engine)
        assert worker.terminate() == 0
    lines = [json.loads(line) for line in worker.lines]

    assert all({"at", "level", "message", "pid"} <= line.keys() for line in lines)
    assert {line["level"] for line in lines} >= {"info", "warning"}
    assert [line["status"] for line in lines if "status" in line] == [500, 302, 410]
    assert "hidden" not in "\n".join(worker.lines)
    assert "whsec_" not in "\n".join(worker.lines)


def test_text_lines(committed_db: Database, receiver: Receiver) -> None:
    """The log tells in plain language what an operator would want to know."""
    emit(committed_db.engine, receiver, 1)
    receiver.script = [410]
    with start_worker(committed_db.url) as worker:
        wait_until_done(committed_db.engine)
        assert worker.terminate() == 0

    said = [line.split("  ", 1)[-1].strip() for line in worker.lines]
    assert said[0].startswith("Secrets are stored in clear")
    assert said[1].startswith("worker ")
    assert any(line.startswith("dead after attempt 1: HTTP 410") for line in said)
    assert any(line.startswith("disabled subscription ") for line in said)
    assert said[-1].endswith(" stopped")
