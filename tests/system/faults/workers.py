"""The workers of a run: started, killed, stopped, and their logs kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.helpers import Worker, environment, eventually

if TYPE_CHECKING:
    from .run import Run

CONCURRENCY = 20
LEASE = 6.2  # seconds; the shortest that outlasts a request of a second
OPTIONS = (
    "--concurrency", str(CONCURRENCY), "--timeout", "1", "--lease", str(LEASE), "--grace", "3",
    "--log-level", "info",
)  # fmt: skip
RUN = "from outbox.worker.__main__ import main; main()"


class Fleet:
    """Worker processes that reach the database through the proxy."""

    def __init__(self, run: Run, mutation: str) -> None:
        self.workers: list[Worker] = []
        self.cut_off = 0  # requests that may have been cut off, over all faults
        self._run = run
        self._mutation = mutation
        self._lines: list[str] = []

    @property
    def lines(self) -> list[str]:
        """What all workers logged."""
        return self._lines + [line for worker in self.workers for line in worker.lines]

    def start(self, number: int) -> None:
        """Let so many run."""
        self.workers = [worker for worker in self.workers if self._lives(worker)]
        while len(self.workers) < number:
            self.add()

    def ready(self) -> None:
        """Let two run that have begun to work: one that found no database has ended."""

        def begun() -> bool:
            self.start(2)
            return all(any("started" in line for line in w.lines) for w in self.workers)

        eventually(begun, 30)

    def add(self, **variables: str) -> Worker:
        """Start one more, with variables of the environment."""
        url = f"postgresql://postgres@127.0.0.1:{self._run.proxy.port}/postgres"
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", self._mutation + "\n" + RUN, "--database-url", url, *OPTIONS],
            env={**environment(), **variables}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        worker = Worker(process)
        self.workers.append(worker)
        return worker

    def one(self) -> Worker:
        """One of those that live."""
        self.start(1)
        return self._run.rng.choice(self.workers)

    def lost(self) -> None:
        """A worker is gone, or stalls, with requests in flight."""
        self.cut_off += 2 * CONCURRENCY  # under way, and answered but not recorded

    def end(self) -> None:
        """Stop all that live, gently."""
        for worker in self.workers:
            if self._lives(worker):
                os.kill(worker.pid, signal.SIGCONT)
                worker.terminate()
        self.start(0)

    def _lives(self, worker: Worker) -> bool:
        if worker.lives:
            return True
        worker.wait()
        self._lines += worker.lines
        return False
