"""Faults of receivers. The history stays exact: what was not answered has no status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.helpers import happens
from tests.receiver import Answer

if TYPE_CHECKING:
    from .run import Run

LONG = 0.3  # seconds until every answer under way has left
HANGS = Answer(delay=30.0)
CUT = Answer(raw=b"HTTP/1.1 2")  # no status came
HALF = Answer(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")  # one did


def refuse(run: Run) -> bool:
    """The receivers are gone, connections are refused, and they come back."""
    before = run.ask(REFUSED)
    run.mood = HANGS
    time.sleep(LONG)
    run.fleet.lost()
    refused = run.restart_receiver(lambda: run.ask(REFUSED) > before)
    run.mood = None
    return refused


def reset(run: Run) -> bool:
    """Connections are reset before the status of an answer is there."""
    return _moody(run, CUT, 1.0)


def truncate(run: Run) -> bool:
    """Connections are reset in the middle of an answer, when its status is known."""
    return _moody(run, HALF, 1.0)


def hang(run: Run) -> bool:
    """No answer comes at all."""
    run.fleet.lost()
    return _moody(run, HANGS, 2.5)


def _moody(run: Run, mood: Answer, seconds: float) -> bool:
    before = run.moody
    run.mood = mood
    time.sleep(seconds)
    came = happens(lambda: run.moody > before)
    run.mood = None
    return came


REFUSED = "SELECT count(*) FROM outbox.attempt WHERE error_class = 'connect'"
