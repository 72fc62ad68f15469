"""Crash points: places where a test lets a worker die or stand still. Off unless asked for.

    OUTBOX_CRASH_AT=claimed        kill -9 at the first passage
    OUTBOX_CRASH_AT=recorded:20    at the twentieth
    OUTBOX_CRASH_AT=answered:stop  stand still (SIGSTOP), as a machine that sleeps does

    fan-out  │ fanned-out   the statement of a fan-out
    claim    │ claimed      the statement of a claim
    send     │ half         half of a request has left
             │ headers      of an answer are there, its body is not
             │ answered     the answer is there
    record   │ recorded     the statement of a record
    replay   │ replayed     the slice of a replay

Read once, when the process begins, so that a passage costs nothing where none is asked for.
"""

from __future__ import annotations

import os
import signal

POINTS = (
    "fan-out", "fanned-out", "claim", "claimed", "send", "half", "headers", "answered",
    "record", "recorded", "replay", "replayed",
)  # fmt: skip

WHERE, *_HOW = os.environ.get("OUTBOX_CRASH_AT", "").split(":")
_SIGN = signal.SIGSTOP if "stop" in _HOW else signal.SIGKILL
_left = [next((int(part) for part in _HOW if part.isdigit()), 1)]


def at(point: str) -> None:
    """End or stop this process, if `point` is where that was asked for."""
    if point == WHERE:
        _left[0] -= 1
        if _left[0] == 0:
            os.kill(os.getpid(), _SIGN)
