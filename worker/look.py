"""What waits in the databases, looked at for the metrics: only when they are asked for.

One process of a worker looks, in threads and with the bounds of `outbox status`, and
what it saw stands for all of them until it is `OLD`. Of several databases those that
answer are told as one.
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

from .series import BACKLOG, DATABASE, DATABASES, HOLDS, OLDEST, SEEN, WORKERS, label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Engine

    from outbox.backlog import Backlog

    from .ledger import Row
    from .series import Label, Series

    Numbers = Mapping[tuple[Series, Label], float]

logger = logging.getLogger("outbox.worker")

OLD = 15.0  # seconds
PATIENCE = 3.0  # seconds that whoever asks may have to wait for a look
AGAIN = 1.0  # seconds until the next look after one that failed


class Look:
    """Keeps the row of what is seen of the database at `url`, or at several, fresh."""

    def __init__(self, url: str | tuple[str, ...], row: Row) -> None:
        self._urls = (url,) if isinstance(url, str) else url
        self._row = row

    async def refresh(self) -> None:
        """Look again if the last look is old; one that is under way is not waited for."""
        now = time.monotonic()
        if now < self._row.alive_at + OLD:
            return
        self._row.live(now)
        found = await asyncio.gather(*map(_numbers, self._urls))
        seen = [numbers for numbers in found if numbers is not None]
        self._row.forget(*SEEN)
        _put(self._row, together(seen))
        down = len(found) - len(seen)
        self._row.put(DATABASE, float(not down))
        self._row.put(DATABASES, len(seen), ("up",))
        self._row.put(DATABASES, down, ("down",))
        if not seen:
            self._row.live(now + AGAIN - OLD)


async def _numbers(url: str) -> Numbers | None:
    try:
        async with asyncio.timeout(PATIENCE):
            return numbers(*await asyncio.to_thread(_look, url))
    except (SQLAlchemyError, psycopg.Error, OutboxError, TimeoutError) as error:
        logger.debug("no look at the backlog: %s", type(error).__name__)
        return None


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


def numbers(backlog: Backlog, workers: int) -> Numbers:
    """Return what was seen of a database as numbers of series."""
    held = {reason: backlog.held.get(reason, Count(0)).number for reason in HELD}
    return {
        (BACKLOG, ("event", "due")): backlog.not_fanned_out.number,
        (BACKLOG, ("event", "scheduled")): backlog.scheduled.number,
        (BACKLOG, ("event", "set_aside")): backlog.set_aside.number,
        (BACKLOG, ("delivery", "due")): backlog.due.number,
        (BACKLOG, ("delivery", "in_flight")): backlog.in_flight.number,
        (BACKLOG, ("delivery", "waiting")): backlog.waiting.number,
        (BACKLOG, ("delivery", "held")): sum(held.values()),
        **{(HOLDS, (label(reason),)): number for reason, number in held.items()},
        (OLDEST, ("event",)): backlog.oldest_event or 0.0,
        (OLDEST, ("delivery",)): backlog.oldest_due or 0.0,
        (WORKERS, ()): workers,
    }


def together(seen: Sequence[Numbers]) -> Numbers:
    """Return the numbers of several databases as one: what waits in all, the oldest of all.

    A worker lives in each of them, so the most that live in one are all that live.
    """
    return {
        place: (max if place[0] in (OLDEST, WORKERS) else sum)(each[place] for each in seen)
        for place in (seen[0] if seen else ())
    }


def note(row: Row, backlog: Backlog, workers: int) -> None:
    """Write what was seen of the only database into `row`."""
    _put(row, numbers(backlog, workers))
    row.put(DATABASE, 1.0)


def _put(row: Row, numbers: Numbers) -> None:
    for (series, value), number in numbers.items():
        row.put(series, number, value)
