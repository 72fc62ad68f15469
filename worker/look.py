"""What waits in the database, looked at for the metrics: only when they are asked for.

One process of a worker looks, in a thread and with the bounds of `outbox status`, and
what it saw stands for all of them until it is `OLD`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from outbox import fleet, status
from outbox.backlog import HELD, Count
from outbox.backlog import look as backlog_of
from outbox.database import engine
from outbox.errors import OutboxError

from .series import BACKLOG, DATABASE, HOLDS, OLDEST, SEEN, WORKERS, label

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from outbox.backlog import Backlog

    from .ledger import Row

logger = logging.getLogger("outbox.worker")

OLD = 15.0  # seconds
PATIENCE = 3.0  # seconds that whoever asks may have to wait for a look
AGAIN = 1.0  # seconds until the next look after one that failed


class Look:
    """Keeps the row of what is seen of the database at `url` fresh."""

    def __init__(self, url: str, row: Row) -> None:
        self._url = url
        self._row = row

    async def refresh(self) -> None:
        """Look again if the last look is old; one that is under way is not waited for."""
        now = time.monotonic()
        if now < self._row.alive_at + OLD:
            return
        self._row.live(now)
        try:
            async with asyncio.timeout(PATIENCE):
                backlog, workers = await asyncio.to_thread(_look, self._url)
        except (SQLAlchemyError, psycopg.Error, OutboxError, TimeoutError) as error:
            logger.debug("no look at the backlog: %s", type(error).__name__)
            self._row.forget(*SEEN)
            self._row.put(DATABASE, 0.0)
            self._row.live(now + AGAIN - OLD)
        else:
            note(self._row, backlog, workers)


def _look(url: str) -> tuple[Backlog, int]:
    source = engine(url, application_name="outbox-worker")
    try:
        return _seen(source)
    finally:
        source.dispose()


def _seen(source: Engine) -> tuple[Backlog, int]:
    with source.begin() as connection:
        status.restrain(connection)
        backlog, _ = backlog_of(connection)
        return backlog, len(fleet.alive(connection))


def note(row: Row, backlog: Backlog, workers: int) -> None:
    """Write what was seen into `row`."""
    held = {reason: backlog.held.get(reason, Count(0)).number for reason in HELD}
    numbers = {
        ("event", "due"): backlog.not_fanned_out.number,
        ("event", "scheduled"): backlog.scheduled.number,
        ("event", "set_aside"): backlog.set_aside.number,
        ("delivery", "due"): backlog.due.number,
        ("delivery", "in_flight"): backlog.in_flight.number,
        ("delivery", "waiting"): backlog.waiting.number,
        ("delivery", "held"): sum(held.values()),
    }
    for what, number in numbers.items():
        row.put(BACKLOG, number, what)
    for reason, number in held.items():
        row.put(HOLDS, number, (label(reason),))
    row.put(OLDEST, backlog.oldest_event or 0.0, ("event",))
    row.put(OLDEST, backlog.oldest_due or 0.0, ("delivery",))
    row.put(WORKERS, workers)
    row.put(DATABASE, 1.0)
