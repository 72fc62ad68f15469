"""What the demo starts, and stops again, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from outbox import database, embedded, schema

from .program import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from sqlalchemy import Engine

T = TypeVar("T")

LOOPBACK = "127.0.0.0/8"  # where the receivers are; it is not allowed by itself
PATIENCE = 8.0  # seconds for the worker to finish


class Stage:
    """Starts things one by one, and stops them all in the end, last first.

    Ctrl-C, SIGTERM and a terminal that goes away are only noted when they come, and obeyed
    by the next `start` or `pause`: an exception in the middle of a start or a stop would
    leave something behind.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._interrupted = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._stack.__exit__(*error)
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def start(self, thing: AbstractContextManager[T]) -> T:
        """Enter `thing`, to be left in the end; raise KeyboardInterrupt if that came."""
        try:
            return self._stack.enter_context(thing)
        finally:
            self._obey()  # rather than what the interruption did to the start

    def pause(self, seconds: float) -> None:
        """Sleep; raise KeyboardInterrupt if that came."""
        time.sleep(seconds)
        self._obey()

    def _note(self, *_: object) -> None:
        self._interrupted = True

    def _obey(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def postgresql(folder: str) -> Iterator[tuple[str, Engine]]:
    """Run a PostgreSQL in `folder`; yield its URL and an engine on it, with the schema."""
    url = f"embedded:{folder}/postgresql"
    with ExitStack() as stack:
        stack.callback(embedded.leave, url)
        engine = database.engine(url, application_name="outbox demo")
        stack.callback(engine.dispose)
        with engine.begin() as connection:
            schema.apply(connection)
        yield url, engine


class Worker:
    """The real `outbox-worker`, in a process of its own that writes its log to a file."""

    def __init__(self, url: str, folder: str) -> None:
        self._url = url
        self._log = Path(folder, "worker.log")

    def __enter__(self) -> Self:
        # -P: a folder `outbox` in the place where the demo runs is not taken for the package
        command = [sys.executable, "-P", "-m", "outbox.worker"]
        command += ["--database-url", self._url, "--allow", LOOPBACK]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, env=_environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def check(self) -> None:
        """Raise unless it runs."""
        if (code := self._process.poll()) is not None:
            raise Failure(f"the worker ended with exit code {code}: {self._last_line()}")

    def finish(self) -> None:
        """Let it finish as in production, by SIGTERM; raise unless it exits with 0."""
        self.check()
        self._stop()
        if code := self._process.returncode:
            raise Failure(f"the worker stopped with exit code {code}: {self._last_line()}")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"


def _environment() -> dict[str, str]:
    """The worker runs with its defaults, whatever is set for another one."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OUTBOX_")}
