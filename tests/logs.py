"""What is logged while the tests run, at any level, and what must never stand in it.

The tests put a canary into the queries of URLs and into the data of events; a fixture looks
at the lines after each of them. Records are kept when they are handled, not by a handler,
which a test may remove; lines of worker processes are added as they are read.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from outbox.worker.telemetry import TextFormatter

if TYPE_CHECKING:
    from collections.abc import Iterable

CANARY = "canary-8f2e51"
SECRET = re.compile(rf"{CANARY}|wh(sec|sk)_[A-Za-z0-9+/=]{{8}}")
TALKATIVE = ("outbox", "aiohttp", "apscheduler", "asyncio", "httpx", "httpcore", "psycopg")

lines: list[str] = []  # since they were last taken


def listen() -> None:
    """Keep what is logged from now on, by our programs and by what they are made of."""
    handle, formatter = logging.Logger.handle, TextFormatter()

    def kept(logger: logging.Logger, record: logging.LogRecord) -> None:
        lines.append(f"{record.name} {formatter.format(record)}")
        handle(logger, record)

    logging.Logger.handle = kept  # type: ignore[assignment,method-assign]
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.DEBUG)


def take() -> list[str]:
    """The lines since the last time; they are forgotten."""
    count = len(lines)  # threads may add to them meanwhile
    taken = lines[:count]
    del lines[:count]
    return taken


def told(found: Iterable[str]) -> list[str]:
    """The lines that tell a secret, a body, or the query of a URL."""
    return [line for line in found if SECRET.search(line)]
