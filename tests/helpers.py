"""What tests do often: wait until something is so, run our programs as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar

from . import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def eventually(check: Callable[[], T | Literal[False] | None], timeout: float = 10.0) -> T:
    """Return the first true value of `check`; AssertionError with the last one after `timeout`."""
    deadline = time.monotonic() + timeout
    while not (value := check()):
        assert time.monotonic() < deadline, f"after {timeout} s it is still {value!r}"
        time.sleep(0.02)
    return value


def happens(check: Callable[[], bool], timeout: float = 15.0) -> bool:
    """Whether `check` comes to be true within `timeout`."""
    try:
        return eventually(check, timeout)
    except AssertionError:
        return False


class Worker:
    """A running `outbox-worker`; its log is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._changed = threading.Condition()
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for_line(self, text: str, timeout: float = 15.0) -> str:
        """Wait for a line with `text` in it and return it."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._line(text), timeout)
            assert found, f"no line with {text!r} within {timeout} s in:\n" + "\n".join(self.lines)
            return found

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until it ends and return its exit code."""
        code = self._process.wait(timeout)
        self._reader.join()
        if self._process.stderr:
            self._process.stderr.close()
        return code

    @property
    def lives(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def terminate(self, timeout: float = 30.0) -> int:
        """Ask it to stop and return its exit code."""
        self._process.terminate()
        return self.wait(timeout)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()
        self.wait()

    def _line(self, text: str) -> str | None:
        return next((line for line in self.lines if text in line), None)

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                logs.lines.append(self.lines[-1])
                self._changed.notify_all()


@contextmanager
def start_worker(url: str, *arguments: str) -> Iterator[Worker]:
    """Run `outbox-worker` on a database; it is stopped at the end if it still runs."""
    command = [sys.executable, "-m", "outbox.worker", "--database-url", url]
    command += ["--log-level", "debug", *arguments]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        worker = Worker(process)
        try:
            yield worker
        finally:
            _end(process)
            worker.wait()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


def run_cli(
    *arguments: str, url: str | None = None, stdin: str = "", timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `outbox` as a process to its end."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "outbox.cli", *arguments],
        env=environment(url),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def environment(url: str | None = None) -> dict[str, str]:
    """The environment without settings of whoever runs the tests; receivers are on loopback."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OUTBOX_") and name not in {"COLUMNS", "LINES"}
    }
    clean["OUTBOX_ALLOW"] = "127.0.0.0/8"
    return clean if url is None else {**clean, "OUTBOX_DATABASE_URL": url}
