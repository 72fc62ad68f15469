"""OUTBOX_SECRET_KEY, as the programs that are run know it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from outbox.keyring import Keyring, new_key
from tests.factories import subscribe, value
from tests.helpers import environment, start_worker

if TYPE_CHECKING:
    from tests.databases import Database

IN_CLEAR = "Secrets are stored in clear: OUTBOX_SECRET_KEY is not set."

pytestmark = pytest.mark.system


def check(url: str, key: str) -> subprocess.CompletedProcess[str]:
    """Run `outbox-worker --check` with a key."""
    return subprocess.run(
        [sys.executable, "-m", "outbox.worker", "--check"],
        env={**environment(url), "OUTBOX_SECRET_KEY": key},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("processes", ["1", "3"])
def test_workers_say_that_secrets_are_in_clear(committed_db: Database, processes: str) -> None:
    """Without a key a worker says so once, however many processes it has."""
    with start_worker(committed_db.url, "--processes", processes) as worker:
        worker.wait_for_line("started")
        worker.terminate()

    assert len([line for line in worker.lines if line.endswith(IN_CLEAR)]) == 1


def test_a_good_key(committed_db: Database) -> None:
    """With a key there is nothing to say."""
    done = check(committed_db.url, new_key())

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("key", ["", new_key()], ids=["none", "another"])
def test_a_key_that_is_lacking(committed_db: Database, key: str) -> None:
    """A worker that could not open a live secret does not start: one line, exit 2."""
    with committed_db.engine.begin() as connection:
        subscribe(connection, keyring=Keyring.read(new_key()))
        key_id = value(connection, "SELECT key_id FROM outbox.secret")
    done = check(committed_db.url, key)

    assert done.returncode == 2
    assert done.stderr == (
        f"Error: OUTBOX_SECRET_KEY: lacks the key {key_id} that secrets are sealed with\n"
    )


def test_a_malformed_key(committed_db: Database) -> None:
    """A key of another form stops the worker before it starts: one line, exit 2, no key."""
    done = check(committed_db.url, "hunter2-hunter2")

    assert done.returncode == 2
    assert done.stderr.startswith("Error: OUTBOX_SECRET_KEY: must be 32 random bytes in base64")
    assert (done.stderr.count("\n"), "hunter2" in done.stderr) == (1, False)
