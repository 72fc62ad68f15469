"""`outbox status`: once, as JSON, in a pipe, and as a live screen on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from outbox.cli import status
from outbox.cli.status import Seen, Watcher
from outbox.errors import DatabaseUnavailable
from tests.helpers import environment, eventually

from .rows import add_delivery, add_event, add_subscription

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from outbox.status import Status
    from tests.databases import Database

    from .conftest import Cli


def test_once(committed_db: Database, cli: Cli) -> None:
    """A page, all of it."""
    add_event(committed_db, fanned_out=False)

    lines = cli.out("status").splitlines()

    assert re.fullmatch(r"outbox  \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", lines[0])
    assert lines[2] == "workers      none is alive"
    assert re.fullmatch(r"to fan out   1 \(oldest [0-9.]+ m?s\)", lines[11])
    assert lines[-1] == "No subscription is failing or held, no replay runs."


def test_json(committed_db: Database, cli: Cli) -> None:
    """All that is known, with numbers and moments as such."""
    subscription = add_subscription(committed_db)
    event = add_event(committed_db)
    add_delivery(committed_db, event, subscription, due_at="2020-01-01")
    cli.out("subscriptions", "pause", str(subscription), "--reason", "they move house")

    found = cli.json("status")

    assert list(found) == ["at", "workers", "traffic", "backlog", "trouble"]
    assert found["backlog"]["held"] == {"paused": {"number": 1, "exact": True}}
    assert found["traffic"]["events"]["last_10s"] == 0.1
    assert len(found["traffic"]["events"]["history"]) == 30
    held = found["trouble"]["held"]
    assert [(each["id"], each["reason"]) for each in held] == [
        (str(subscription), "they move house")
    ]


@pytest.mark.parametrize("every", ["0.1s", "2h", "0"])
def test_wrong_intervals(bare_cli: Cli, every: str) -> None:
    """An interval has bounds, which are told before anything is looked at."""
    result = bare_cli("status", "--watch", "--every", every)

    assert (result.exit_code, result.stderr) == (2, "Error: every: must be from 0.2s to 1h\n")


def test_no_database(bare_cli: Cli) -> None:
    """A database that was never seen ends it at once, with --watch as well."""
    result = bare_cli("status", "--watch", "--database-url", "postgresql://me@127.0.0.1:1/shop")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: database: ")
    assert result.stderr.count("\n") == 1


def watched(cli: Cli, monkeypatch: pytest.MonkeyPatch, looks: int, *options: str) -> list[str]:
    """The lines of a watch in a pipe, until Ctrl-C after so many looks."""
    tell, told = status._tell, []

    def count(seen: Seen, **shape: bool) -> None:
        tell(seen, **shape)
        told.append(seen)
        if len(told) == looks:
            raise KeyboardInterrupt

    monkeypatch.setattr(status, "_tell", count)
    return cli.out("status", "--watch", "--every", "0.2s", *options).splitlines()


def test_a_line_for_each_look(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe it writes lines, and Ctrl-C ends it well."""
    lines = watched(cli, monkeypatch, 3)

    assert len(lines) == 3
    assert all(
        re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  workers 0  events ", line) for line in lines
    )


def test_json_lines(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json each look is a document on a line of its own."""
    first, second = map(json.loads, watched(cli, monkeypatch, 2, "--json"))

    assert first["at"] < second["at"]


def failing_after(looks: int) -> Callable[..., Status]:
    """A look that fails from then on."""
    real, seen = status.look, []

    def look(engine: object) -> Status:
        seen.append(engine)
        if len(seen) > looks:
            raise DatabaseUnavailable("it went away")
        return real(engine)  # type: ignore[arg-type]

    return look


@pytest.mark.parametrize("shape", [(), ("--json",)])
def test_a_database_that_goes_away(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, shape: tuple[str, ...]
) -> None:
    """It says so, and goes on."""
    monkeypatch.setattr(status, "look", failing_after(1))

    lines = watched(cli, monkeypatch, 3, *shape)

    assert len(lines) == 3
    assert all("database: it went away" in line for line in lines[1:])
    if shape:
        assert json.loads(lines[2])["error"] == "database: it went away"


def test_it_comes_back(committed_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen last stays to be shown, with how old it is; then the next look is shown."""
    away = threading.Event()
    real = status.look

    def look(engine: object) -> Status:
        if away.is_set():
            raise DatabaseUnavailable("it went away")
        return real(engine)  # type: ignore[arg-type]

    monkeypatch.setattr(status, "look", look)
    first = look(committed_db.engine)
    with Watcher(committed_db.engine, 0.01, first) as watcher:
        away.set()
        gone = eventually(lambda: watcher.seen if watcher.seen.failed else None)
        away.clear()
        back = eventually(lambda: None if watcher.seen.failed else watcher.seen)

    assert status._notice(gone, gone.at + 4) == "Not seen for 4 s: database: it went away"
    assert (status._notice(back, back.at), back.looks > gone.looks) == ("", True)


class Terminal:
    """A program on a terminal of its own, and what it has drawn so far."""

    def __init__(self, file: int, process: subprocess.Popen[bytes]) -> None:
        self.file = file
        self.process = process
        self.drawn = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press(self, key: bytes) -> None:
        os.write(self.file, key)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def modes(self) -> int:
        """The local modes: whether keys wait for Enter, and are echoed."""
        modes: int = termios.tcgetattr(self.file)[3]
        return modes & (termios.ICANON | termios.ECHO)

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        code = self.process.wait(20)
        self._reader.join(1)
        return code

    def _read(self) -> None:
        while True:
            try:
                self.drawn += os.read(self.file, 65_536)
            except OSError:  # its end is closed
                return


@contextmanager
def terminal(database: Database, **env: str) -> Iterator[Terminal]:
    """`outbox status --watch` on a terminal of 80 by 24."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "outbox.cli", "status", "--watch", "--every", "0.2s"]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**environment(database.url), "TERM": "xterm", "LANG": "C.UTF-8", **env},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:  # fmt: skip
        try:
            found = Terminal(ours, process)
            eventually(lambda: b"q to quit" in found.drawn, timeout=20)
            yield found
        finally:
            process.kill()
            os.close(theirs)
    os.close(ours)


ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?1049l"


@pytest.mark.system
@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_the_screen(committed_db: Database, key: bytes) -> None:
    """It takes the whole terminal, follows its size, and gives it back as it was."""
    with terminal(committed_db) as found:
        before = found.modes()
        found.resize(100, 30)
        eventually(lambda: re.search(rb" {45,}(\x1b\[2m)?every 0.2s", found.drawn))
        found.press(key)

        assert found.end() == 0
        assert before == 0
        assert found.modes() == termios.ICANON | termios.ECHO
    assert found.drawn.startswith(ENTERED)
    assert LEFT in found.drawn
    assert found.drawn.count(b"\x1b[?25h") >= 1
    assert b"workers" in found.drawn


@pytest.mark.system
def test_the_screen_without_colour(committed_db: Database) -> None:
    """NO_COLOR is obeyed, and SIGTERM leaves the terminal as it was, too."""
    with terminal(committed_db, NO_COLOR="1") as found:
        found.process.terminate()

        assert found.end() == 128 + signal.SIGTERM
        assert found.modes() == termios.ICANON | termios.ECHO
    assert LEFT in found.drawn
    assert not re.search(rb"\x1b\[[0-9;]*m", found.drawn)
