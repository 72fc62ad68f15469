"""Deadlines of requests: as `asyncio.timeout`, with one timer for all that have as long.

Nearly every request is over long before its deadline, and a timer of its own, set and
cancelled, would cost it more than its signature does. Those that have the same seconds
expire in the order in which they began, so the first of them is all that a timer needs
to know.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Deadlines:
    """Those of the requests in one event loop.

    with deadlines.within(20):
        await ...  # raises TimeoutError after 20 seconds
    """

    def __init__(self) -> None:
        self._begun: dict[float, dict[Deadline, None]] = {}

    def within(self, seconds: float) -> Deadline:
        """Return the deadline of what is about to begin."""
        return Deadline(self, seconds)

    def add(self, deadline: Deadline) -> None:
        """Let `deadline` expire when it is time."""
        begun = self._begun.get(deadline.seconds)
        if begun is None:
            begun = self._begun[deadline.seconds] = {}
            self._look_at(deadline)
        begun[deadline] = None

    def discard(self, deadline: Deadline) -> None:
        """Forget `deadline`."""
        begun = self._begun.get(deadline.seconds)
        if begun:
            begun.pop(deadline, None)

    def _look_at(self, first: Deadline) -> None:
        asyncio.get_running_loop().call_at(first.at, self._expire, first.seconds)

    def _expire(self, seconds: float) -> None:
        begun, now = self._begun[seconds], asyncio.get_running_loop().time()
        for deadline in list(begun):
            if deadline.at > now:
                self._look_at(deadline)
                return
            del begun[deadline]
            deadline.expire()
        del self._begun[seconds]


class Deadline:
    """What must be over in so many seconds, in the task that enters it."""

    __slots__ = ("_all", "_cancelling", "_expired", "_task", "at", "seconds")

    def __init__(self, all: Deadlines, seconds: float) -> None:
        self.seconds = seconds
        self.at = 0.0  # of the event loop's clock
        self._all = all
        self._expired = False

    def expire(self) -> None:
        """Interrupt the task."""
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        self._task = task
        self._cancelling = task.cancelling()
        self.at = task.get_loop().time() + self.seconds
        self._all.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._all.discard(self)
        if not self._expired:
            return
        mine = self._task.uncancel() <= self._cancelling  # and nobody else interrupted it
        if mine and kind is asyncio.CancelledError:
            raise TimeoutError from error
