"""The programs that take part, each as a process of its own, and the CPU time they use.

Whatever is started here is ended here: asked first, killed when it does not listen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import IO, TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0  # seconds for a program to end


class Stuck(Exception):
    """Something took longer than its deadline, or ended before its work was done."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the receiver saw; `first` and `last` are moments of the monotonic clock."""

    requests: int
    distinct: int
    bytes: int
    first: float
    last: float

    @property
    def rate(self) -> float:
        """Requests a second, from the first to the last."""
        return self.requests / (self.last - self.first) if self.requests > 1 else 0.0


class Receiver:
    """The receiver's process, and what it tells."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        self.pid = process.pid
        self._port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self._port}/hooks"

    def seen(self) -> Seen:
        """Return what came since the last `forget`."""
        return Seen(**self._ask("GET"))

    def answers(self, *, forget: bool = False) -> dict[str, float]:
        """Return when the first byte of each id came first, as moments of the monotonic clock.

        With `forget` it forgets these ids, and nothing comes in between.
        """
        told = self._ask("DELETE" if forget else "GET", "/answers")
        return {id: float(moment) for id, moment in told.items()}

    def forget(self) -> None:
        """Let it count from nothing."""
        self._ask("DELETE")

    def _ask(self, method: str, path: str = "/") -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            told: dict[str, Any] = json.loads(connection.getresponse().read())
            return told
        finally:
            connection.close()


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run a receiver."""
    with _running("benchmarks.receiver", stdout=subprocess.PIPE) as process:
        yield Receiver(process)


@contextmanager
def worker(
    *urls: str,
    processes: int,
    concurrency: int,
    timeout: float = 20,
    lease: float = 0,
    log_level: str = "warning",
) -> Iterator[subprocess.Popen[str]]:
    """Run `outbox-worker` on the databases `urls`; a `lease` of 0 is what the worker makes it."""
    options = {
        "processes": processes,
        "concurrency": concurrency,
        "timeout": timeout,
        "lease": lease,
        "allow": "127.0.0.0/8",
        "log-level": log_level,
    }
    databases = [f"--database-url={url}" for url in urls]
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with _running("outbox.worker", *databases, *arguments) as process:
        yield process


def raw_client(
    url: str, *, requests: int, fan_out: int, concurrency: int, deadline: float
) -> float:
    """Run the raw client to its end; return the CPU seconds that its requests took."""
    options = {"requests": requests, "fan-out": fan_out, "concurrency": concurrency}
    arguments = (f"--{name}={value}" for name, value in options.items())
    with _running("benchmarks.raw_client", url, *arguments, stdout=subprocess.PIPE) as process:
        wait_until(lambda: process.poll() is not None, time.monotonic() + deadline)
        return float(output_of(process))


def bare_requests(url: str, *, requests: int, rate: float) -> dict[str, float]:
    """Let the raw client post one at a time, at a rate; return how long they took to arrive."""
    arguments = (url, f"--requests={requests}", f"--rate={rate}")
    with _running("benchmarks.raw_client", *arguments, stdout=subprocess.PIPE) as process:
        return dict(json.loads(output_of(process)))


@contextmanager
def cli(url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `outbox` on the database `url`; `output_of` is what it printed."""
    options = ("outbox.cli", f"--database-url={url}", *arguments)
    with _running(*options, stdout=subprocess.PIPE) as process:
        yield process


def output_of(process: subprocess.Popen[str]) -> str:
    """Return all that a program printed, once it has ended well."""
    text = _output(process).read()
    if process.wait(PATIENCE):
        raise Stuck("a command failed")
    return text


@contextmanager
def _running(
    module: str, *arguments: str, stdout: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OUTBOX_")}
    process = subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, "-m", module, *arguments], stdout=stdout, text=True, env=clean
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _output(process: subprocess.Popen[str]) -> IO[str]:
    if process.stdout is None:
        raise ValueError("its output is not ours")
    return process.stdout


def wait_until(check: Callable[[], bool], deadline: float, *, every: float = 0.05) -> None:
    """Return as soon as `check` holds; raises Stuck at `deadline`, a monotonic moment."""
    while not check():
        if time.monotonic() > deadline:
            raise Stuck("the deadline is over")
        time.sleep(every)


def cpu_seconds(pid: int | None) -> float | None:
    """Return the CPU time that a process and all it ever started used; None without one."""
    if pid is None:
        return None
    process = psutil.Process(pid)
    return sum(_used(each) for each in (process, *process.children(recursive=True)))


def _used(process: psutil.Process) -> float:
    """Return its own time, and that of its children that have ended."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0
