"""A database of the version before is upgraded while its worker runs and hosts insert.

The old programs come out of the history of this repository.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from outbox import audit
from tests.factories import rows, value
from tests.helpers import Worker, environment, run_cli, start_worker
from tests.receiver import Answer

from .account import wait_until_done

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.databases import Database
    from tests.receiver import Receiver, Request

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.clone]

VERSION_2 = "2a6b838"
HEARTBEAT = 10.0  # seconds after which an old worker asks for the version at the latest
CONCURRENCY = 20
OPTIONS = ("--concurrency", str(CONCURRENCY), "--timeout", "2", "--lease", "7.5")
SUBSCRIPTIONS = {
    "plain": (),
    "flaky": ("--schedule", "0s,0.2s,0.2s,0.2s,0.2s,0.2s,0.2s,0.2s"),
    "limited": ("--max-in-flight", "3", "--rate", "500/s"),
    "ordered": ("--ordered", "skip"),
}
ENDS = """
SELECT s.url, count(*) FROM outbox.delivery d JOIN outbox.subscription s ON s.id = d.subscription_id
JOIN outbox.attempt a ON a.delivery_id = d.id AND a.outcome = 'delivered'
GROUP BY s.url
"""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs that know version 2."""
    packed = subprocess.run(  # noqa: S603 - our own history
        ["git", "archive", VERSION_2, "outbox", "worker", "cli", "schema.sql"],  # noqa: S607
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    if packed.returncode:
        pytest.skip("the history of this repository is not here")
    folder = tmp_path_factory.mktemp("version-2")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def run_old(folder: Path, url: str, *arguments: str) -> None:
    """Run the old `outbox`."""
    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "outbox.cli", *arguments],
        cwd=folder, env={**environment(url), "PYTHONPATH": str(folder)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


@contextmanager
def old_worker(folder: Path, url: str) -> Iterator[Worker]:
    """Run the old `outbox-worker`."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "outbox.worker", "--database-url", url, *OPTIONS],
        cwd=folder, env={**environment(), "PYTHONPATH": str(folder)}, stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    worker = Worker(process)
    try:
        yield worker
    finally:
        if worker.lives:
            worker.kill()


@dataclass
class Host:
    """A thread that inserts as an application does, until it is stopped."""

    url: str
    events: list[str] = field(default_factory=list)
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        insert = (
            "INSERT INTO outbox.event (type, subject, data) VALUES ('a.b', %s, '{}') RETURNING id"
        )
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not self._stop.wait(0.1):
                began = time.monotonic()
                try:
                    subject = f"user/{len(self.events) % 20}"
                    row = connection.execute(insert.encode(), [subject]).fetchone()
                except psycopg.Error as error:
                    self.failures.append(str(error))
                else:
                    assert row is not None
                    self.events.append(str(row[0]))
                self.slowest = max(self.slowest, time.monotonic() - began)


def test_from_version_2(cloned_db: Database, old: Path, receiver: Receiver) -> None:
    """No insert fails, the old worker stops with a clear line, the new one delivers the rest."""
    base = receiver.url.partition("?")[0]
    receiver.script = lambda request: Answer(
        500
        if request.path.startswith("/flaky") and int(request.header("webhook-attempt")) < 4
        else 200,
        delay=0.01,
    )
    with cloned_db.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA outbox CASCADE")
    run_old(old, cloned_db.url, "schema", "apply")
    for name, options in SUBSCRIPTIONS.items():
        run_old(
            old, cloned_db.url, "subscriptions", "add", f"{base}{name}", "--types", "*", *options
        )
    hosts = [Host(cloned_db.url) for _ in range(3)]
    with old_worker(old, cloned_db.url) as before:
        receiver.wait_for(300, timeout=60)
        applied = run_cli("schema", "apply", url=cloned_db.url)
        with start_worker(cloned_db.url, *OPTIONS) as after:
            said = before.wait_for_line("stopping: schema", timeout=HEARTBEAT + 10)
            code = before.wait()
            for host in hosts:
                host.stop()
            wait_until_done(cloned_db.engine)
            assert after.terminate() == 0

    assert applied.returncode == 0, applied.stderr
    assert "the database has version 3, this program knows only 2" in said
    assert code == 1
    assert [line for line in before.lines if "Traceback" in line] == []
    assert [host.failures for host in hosts] == [[]] * len(hosts)
    emitted = {id for host in hosts for id in host.events}
    with cloned_db.engine.connect() as connection:
        stored = {str(id) for (id,) in rows(connection, "SELECT id FROM outbox.event")}
        ends = dict(rows(connection, ENDS))
        lost = value(connection, "SELECT count(*) FROM outbox.attempt WHERE outcome = 'lost'")
    assert stored == emitted
    assert ends == {f"{base}{name}": len(emitted) for name in SUBSCRIPTIONS}
    assert lost == 0
    assert len(receiver.requests) == len(set(map(sent, receiver.requests)))
    assert audit.run(cloned_db.engine, audit.plan(cloned_db.engine)).found == {}


def sent(request: Request) -> tuple[str, str, str]:
    return request.path, request.header("webhook-id"), request.header("webhook-attempt")
