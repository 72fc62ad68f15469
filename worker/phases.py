"""How long each phase of a request took, and in which it was when it failed.

A phase that did not happen has no time: on a kept connection there is only the answer.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

Phase = Literal["dns", "connect", "tls", "first_byte", "body"]

WORDS: dict[Phase, str] = {
    "dns": "resolving the name",
    "connect": "connecting",
    "tls": "in the TLS handshake",
    "first_byte": "waiting for the answer",
    "body": "reading the body",
}


class Phases(NamedTuple):
    """Milliseconds; None for a phase that did not happen.

    `first_byte_ms` ends when the headers of the answer are there.
    """

    dns_ms: int | None = None
    connect_ms: int | None = None
    tls_ms: int | None = None
    first_byte_ms: int | None = None
    body_ms: int | None = None


NO_PHASES = Phases()


class Stopwatch:
    """Runs through the phases of one request; `phase` is the one it is in."""

    __slots__ = ("_idle", "_since", "_spent", "phase")

    def __init__(self, phase: Phase = "first_byte") -> None:
        self.phase: Phase = phase
        self._idle = False
        self._since = time.monotonic()
        self._spent: dict[Phase, float] = {}

    def reset(self) -> None:
        """Forget the first phase: it did not begin, for a connection has to be made first."""
        self._idle = True

    def enter(self, phase: Phase) -> None:
        """End the phase it is in and begin another."""
        now = time.monotonic()
        if not self._idle:
            self._spent[self.phase] = self._spent.get(self.phase, 0.0) + now - self._since
        self._idle = False
        self.phase, self._since = phase, now

    def stop(self) -> Phases:
        """End the phase it is in and return how long each took."""
        self.enter(self.phase)
        times = map(self._spent.get, WORDS)
        return Phases(*[None if t is None else round(1000 * t) for t in times])
