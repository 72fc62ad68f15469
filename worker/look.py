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
from outbox.backlog import HELD, Backlog, Count
from outbox.backlog import look as backlog_of
from outbox.database import engine
from outbox.errors import OutboxError

from .series import BACKLOG, DATABASE, DATABASES, HOLDS, OLDEST, SEEN, WORKERS, label

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Engine

    from .ledger import Row

    Seen = tuple[Backlog, int]  # what waits, and how many workers live

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
        looks = await asyncio.gather(*map(_seen_at, self._urls))
        seen = [each for each in looks if each is not None]
        if seen:
            note(self._row, *together(seen))
        else:
            self._row.forget(*SEEN)
            self._row.live(now + AGAIN - OLD)
        down = len(looks) - len(seen)
        self._row.put(DATABASE, 0.0 if down else 1.0)
        self._row.put(DATABASES, len(seen), ("up",))
        self._row.put(DATABASES, down, ("down",))


async def _seen_at(url: str) -> Seen | None:
    try:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.to_thread(_look, url)
    except (SQLAlchemyError, psycopg.Error, OutboxError, TimeoutError) as error:
        logger.debug("no look at the backlog: %s", type(error).__name__)
        return None


def _look(url: str) -> Seen:
    source = engine(url, application_name="outbox-worker")
    try:
        return _seen(source)
    finally:
        source.dispose()


def _seen(source: Engine) -> Seen:
    with source.begin() as connection:
        status.restrain(connection)
        backlog, _ = backlog_of(connection)
        return backlog, len(fleet.alive(connection))


def together(seen: Sequence[Seen]) -> Seen:
    """Return what was seen of several databases as if they were one.

    A worker lives in each of them, so the most that live in one are all that live.
    """
    backlogs = [backlog for backlog, _ in seen]
    return Backlog(
        not_fanned_out=_sum(each.not_fanned_out for each in backlogs),
        oldest_event=_oldest(each.oldest_event for each in backlogs),
        scheduled=_sum(each.scheduled for each in backlogs),
        set_aside=_sum(each.set_aside for each in backlogs),
        due=_sum(each.due for each in backlogs),
        oldest_due=_oldest(each.oldest_due for each in backlogs),
        in_flight=_sum(each.in_flight for each in backlogs),
        waiting=_sum(each.waiting for each in backlogs),
        held={
            reason: _sum(each.held.get(reason, Count(0)) for each in backlogs) for reason in HELD
        },
    ), max(workers for _, workers in seen)


def _sum(counts: Iterable[Count]) -> Count:
    found = list(counts)
    return Count(sum(each.number for each in found), all(each.exact for each in found))


def _oldest(ages: Iterable[float | None]) -> float | None:
    return max((age for age in ages if age is not None), default=None)


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
