"""Those who wait for answers, and when to look for them. Nothing here looks.

A poller asks `due` for whom it is time, brings what it saw to `take`, and `tell` lets
those go on for whom it is over.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from .drivers import told
from .errors import DatabaseUnavailable, NotFound, OutboxError, SchemaMismatch
from .schema import VERSION

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence
    from concurrent.futures import Future
    from uuid import UUID

    from .answers import Seen, Waited

SHORT_PAUSE, LONG_PAUSE = 0.015, 0.1  # seconds between two looks for one
PATIENCE = 1.0  # seconds after which the pause for one is the long one
SILENCE = 3.0  # seconds without a look after which the last one says nothing


def pause(age: float) -> float:
    """Return the seconds until the next look for one who has waited for `age` seconds."""
    return SHORT_PAUSE if age < PATIENCE else LONG_PAUSE


def is_over(seen: Seen, until: str) -> bool:
    """Return whether there is nothing more to wait for."""
    if seen.waited is None or seen.waited.ended:
        return True
    return until == "answered" and seen.answered


def lasts(error: Exception) -> bool:
    """Return whether to ask again is in vain: a table or a right is missing, or it is a bug."""
    code, _ = told(error)
    if code is not None:
        return code[:2] in {"42", "3F"}
    return not isinstance(error, DBAPIError | PoolTimeout | OSError)


class Wait:
    """One who waits: until when, what was seen so far. Moments are monotonic."""

    def __init__(
        self,
        event_id: UUID,
        timeout: float,
        until: str,
        future: Future[Waited] | asyncio.Future[Waited],
    ) -> None:
        self.future = future
        self.is_over = False
        self.look_at = self._seen_at = self._began = time.monotonic()
        self._event_id = event_id
        self._seen: Seen | None = None
        self._deadline = self._began + timeout
        self._until = until
        self._failure: str | None = None

    @property
    def question(self) -> tuple[UUID, Seen | None]:
        """What to look for, and what was seen the last time."""
        return self._event_id, self._seen

    def take(self, seen: Seen, now: float) -> None:
        """Note what was seen."""
        self._seen, self._seen_at, self._failure = seen, now, None
        self.look_at = min(now + pause(now - self._began), self._deadline)
        self.is_over = is_over(seen, self._until) or now >= self._deadline

    def miss(self, reason: str, now: float) -> None:
        """Note that nothing could be seen."""
        self._failure = reason
        self.is_over = self.is_over or now >= self._deadline

    def tell(self, now: float) -> None:
        """Let it go on, if it still waits."""
        if self.future.done():
            return
        try:
            self.future.set_result(self.outcome(now))
        except OutboxError as error:
            self.future.set_exception(error)

    def outcome(self, now: float) -> Waited:
        """Return what is known when it is over, or its time is."""
        silence = now - self._seen_at
        if self._failure is not None:
            raise DatabaseUnavailable(self._failure)
        if self._seen is None or silence > SILENCE:
            raise DatabaseUnavailable(f"no answer for {silence:.1f} seconds")
        if self._seen.waited is None:
            raise NotFound("event", str(self._event_id))
        return self._seen.waited


class Waits:
    """All who wait at one engine, in its threads or in one event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: set[Wait] = set()
        self._is_polled = False
        self.task: asyncio.Task[None] | None = None  # a loop alone would let it be collected

    def add(self, wait: Wait) -> bool:
        """Add one who waits; return whether a poller has to be started."""
        with self._lock:
            self._waits.add(wait)
            start, self._is_polled = not self._is_polled, True
            return start

    def leave(self, wait: Wait) -> None:
        """Forget one who waits no more."""
        with self._lock:
            self._waits.discard(wait)

    def go_on(self) -> bool:
        """Return whether anyone waits; if not, the poller has to end."""
        with self._lock:
            self._is_polled = bool(self._waits)
            return self._is_polled

    def stop(self) -> None:
        """Note that the poller ends, whoever waits."""
        with self._lock:
            self._is_polled = False

    def unsettled(self) -> bool:
        """Return whether there is anyone for whom to look again."""
        with self._lock:
            return any(not wait.is_over for wait in self._waits)

    def due(self, now: float) -> list[Wait]:
        """Return those for whom it is time to look."""
        with self._lock:
            return [wait for wait in self._waits if not wait.is_over and wait.look_at <= now]

    def take(self, waits: Sequence[Wait], found: Sequence[Seen], now: float) -> None:
        """Note what was seen, and tell those for whom it is over.

        The last ones are left to `tell`, which comes when the connection is back in its
        pool: who waits no more may dispose of the engine.
        """
        for wait, seen in zip(waits, found, strict=True):
            wait.take(seen, now)
        if self.unsettled():
            self.tell()

    def tell(self) -> None:
        """Let all go on for whom it is over."""
        with self._lock:
            over = {wait for wait in self._waits if wait.is_over}
            self._waits -= over
        for wait in over:
            wait.tell(time.monotonic())

    def fail(self, error: Exception) -> None:
        """Note that a look failed; if that lasts, tell all."""
        with self._lock:
            waits = list(self._waits)
        for wait in waits:
            if not lasts(error):
                wait.miss(told(error)[1], time.monotonic())
            elif not wait.future.done():
                self.leave(wait)
                wait.future.set_exception(_ours(error))


def _ours(error: Exception) -> Exception:
    code, message = told(error)
    if code in {"42P01", "3F000"}:
        return SchemaMismatch(None, VERSION)
    return error if code is None else DatabaseUnavailable(message)
