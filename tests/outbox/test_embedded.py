"""`embedded:PATH` with real processes: joining, leaving, crashing."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import pq

from outbox import embedded
from outbox.errors import EmbeddedUnavailable
from tests.helpers import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

system = pytest.mark.system

# Joins, says where, and stays until stdin is closed; with "fork", a fork stays in its place.
JOIN = """
import os, sys
from outbox import embedded
print(embedded.resolve(sys.argv[1]), flush=True)
if "fork" not in sys.argv or os.fork() == 0:
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A folder that is set up once, because that takes a second."""
    outer = Path(tempfile.mkdtemp(prefix="outbox-test-"))
    yield outer / "pg"
    shutil.rmtree(outer)


@pytest.fixture
def folder(made: Path) -> Iterator[Path]:
    """The folder, when nothing runs in it; whatever a test does, all must have stopped after it."""
    yield made
    eventually(lambda: not is_kept(made))


def is_kept(folder: Path) -> bool:
    """Whether there is a keeper: it goes when the server has stopped."""
    if not (folder / "keeper").exists():
        return False
    with (folder / "keeper").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def answers(url: str) -> bool:
    return pq.PGconn.ping(url.encode()) == pq.Ping.OK


@contextmanager
def joined(folder: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Another process that has joined, in which any warning is an error."""
    command = [sys.executable, "-W", "error", "-c", JOIN, f"embedded:{folder}", *arguments]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip(), process
        process.stdin.close()


def test_other_urls_stay() -> None:
    """The URL of a server is not touched."""
    assert embedded.resolve("postgresql://u@h/d") == "postgresql://u@h/d"


@system
def test_shared(folder: Path) -> None:
    """Two processes get the same server, and it runs until both have left."""
    with joined(folder) as (url, _):
        with joined(folder) as (other_url, _):
            assert other_url == url
        assert answers(url)
    eventually(lambda: not answers(url))


@system
def test_killed(folder: Path) -> None:
    """Nobody left is nobody left, also after `kill -9`."""
    with joined(folder) as (url, process):
        process.kill()
    eventually(lambda: not answers(url))


@pytest.mark.slow
@system
def test_killed_beside_another(folder: Path) -> None:
    """A process that is killed does not take the server from another."""
    with joined(folder) as (url, _):
        with joined(folder) as (_, process):
            process.kill()
        eventually(lambda: is_kept(folder))

        assert answers(url)


@system
def test_fork(folder: Path) -> None:
    """A fork of a process that joined is there like any other."""
    with joined(folder, "fork") as (url, process):
        assert process.wait() == 0
        assert answers(url)


@pytest.mark.slow
@system
def test_server_killed(folder: Path) -> None:
    """A server that crashed is started by the next one to join, at the same URL."""
    with joined(folder) as (url, _):
        os.kill(int((folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        eventually(lambda: not answers(url))
        with joined(folder) as (other_url, _):
            assert other_url == url
        assert answers(url)


@pytest.mark.slow
@system
def test_stale_process_id(folder: Path) -> None:
    """A crash may leave behind a process id that is another program's by now."""
    with joined(folder):
        pass
    eventually(lambda: not is_kept(folder))
    (folder / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}/data\n0\n5432\n..\n")

    with joined(folder) as (url, _):
        assert answers(url)


@system
def test_leave(folder: Path) -> None:
    """The last one to leave finds it stopped; what was written is there the next time."""
    for found in ([], ["kept"]):
        with psycopg.connect(embedded.resolve(f"embedded:{folder}")) as connection:
            tables = connection.execute("SELECT relname FROM pg_class WHERE relname = 'kept'")
            assert [name for (name,) in tables] == found
            connection.execute("CREATE TABLE IF NOT EXISTS kept ()")
        embedded.leave(f"embedded:{folder}")

        assert not (folder / ".s.PGSQL.5432").exists()


@system
def test_settings(folder: Path) -> None:
    """Whoever wants to tune it writes settings.conf; what is wrong with it is said."""
    settings = folder / "settings.conf"
    settings.write_text("max_connections = many")
    with pytest.raises(EmbeddedUnavailable, match=r"settings\.conf.* contains errors"):
        embedded.resolve(f"embedded:{folder}")
    settings.write_text("max_connections = 42")

    with psycopg.connect(embedded.resolve(f"embedded:{folder}")) as connection:
        assert connection.execute("SHOW max_connections").fetchone() == ("42",)
    embedded.leave(f"embedded:{folder}")
    settings.unlink()


@pytest.mark.slow
@system
def test_deep_path(made: Path) -> None:
    """A path too long for a socket is reached through a short link."""
    deep = made.parent.joinpath(*["a-folder-in-a-folder"] * 6, "it's $HOME")
    deep.parent.mkdir(parents=True)
    with joined(deep) as (url, _):
        assert answers(url)
        assert len(url) < 100
    eventually(lambda: not is_kept(deep))
    embedded._socket_folder(deep).unlink()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "no folder given"),
        ("missing/pg", "there is no folder"),
        ("file", "File exists"),
        ("full", "holds other files"),
    ],
)
def test_bad_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, reason: str) -> None:
    """A path that cannot be used is refused, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(EmbeddedUnavailable, match=reason):
        embedded.resolve(f"embedded:{path}")

    assert len(list(tmp_path.rglob("*"))) == 3


def test_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra it says what to install, and makes nothing."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedUnavailable, match=r"pip install 'outbox-webhooks\[embedded\]'"):
        embedded.resolve(f"embedded:{tmp_path}/pg")

    assert list(tmp_path.iterdir()) == []
