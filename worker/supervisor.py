"""`--processes N`: equal workers under a small supervisor.

The supervisor passes signals on and starts a worker again that died, unless it says that
the next one would end as it did. A worker holds the
reading end of a pipe whose writing end only the supervisor has, so it stops by itself
when the supervisor is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("outbox.worker")

RESTART_SECONDS = 1.0
FUTILE = 3  # the exit code of a worker that need not be started again
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """Keeps `count` children alive, each running `work(pipe, place)`, with the code it returns.

    `place` is from 0 on; a child that is started again takes the place of the one that died.
    """

    def __init__(self, count: int, work: Callable[[int, int], int]) -> None:
        self._work = work
        self._count = count
        self._pids: dict[int, int] = {}  # the place of each
        self._stopping = False
        self._code = 0
        self._alive, self._held = os.pipe()

    def run(self) -> int:
        """Return the highest exit code once all children have ended after a signal."""
        for sign in SIGNALS:
            signal.signal(sign, self._pass_on)
        for place in range(self._count):
            self._start(place)
        while self._pids:
            self._reap()
        return self._code

    def _start(self, place: int) -> None:
        if self._stopping:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # none is lost between two handlers
        pid = os.fork()
        if pid == 0:
            self._live(place)
        self._pids[pid] = place
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _live(self, place: int) -> NoReturn:
        os.setpgid(0, 0)  # Ctrl-C reaches the supervisor alone, which passes it on once
        os.close(self._held)
        for sign in SIGNALS:
            signal.signal(sign, lambda *_: os._exit(0))  # until the work has handlers of its own
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os._exit(self._work(self._alive, place))

    def _reap(self) -> None:
        pid, status = os.wait()
        place = self._pids.pop(pid, None)
        if place is None:  # no child of ours
            return
        code = os.waitstatus_to_exitcode(status)
        if code == FUTILE and not self._stopping:
            self._pass_on(signal.SIGTERM, None)
        if self._stopping:
            self._code = max(self._code, min(abs(code), 1))
        elif code == 0:
            self._stopping = True
        else:
            logger.error("worker process %d died (%d): starting another", pid, code)
            time.sleep(RESTART_SECONDS)
            self._start(place)

    def _pass_on(self, sign: int, _frame: object) -> None:
        self._stopping = True
        for pid in self._pids:
            with suppress(ProcessLookupError):  # it ended a moment ago, and is not reaped yet
                os.kill(pid, sign)
