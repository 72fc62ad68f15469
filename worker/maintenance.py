"""Standing duties beside the delivery: heartbeat, partitions, retention, leftovers, failing ones.

APScheduler keeps the time. Its defaults drop a run that comes a second late and stop a
schedule whose job hangs, so each job is bounded, late runs are made up for once, and a
database that is away is only noted: the next run comes anyway.
"""

from __future__ import annotations

import asyncio
import logging
from functools import wraps
from typing import TYPE_CHECKING, Any

import psycopg
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from outbox.retention import FACTS, PAUSE
from outbox.schema import VERSION

from .faults import in_a_line

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable
    from datetime import date, datetime

    from .store import Store

logger = logging.getLogger("outbox.worker")

JOB_SECONDS = 30  # a job that takes longer is ended
TRIES = 5  # for the short lock of a day that is to be dropped


class Maintenance:
    """The jobs of one process; `outdated` is called when the schema's version has changed.

    `placed` hears of the place that the process has in the row of so many.
    """

    def __init__(
        self,
        store: Store,
        tally: Counter[str],
        outdated: Callable[[int], None],
        placed: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._store = store
        self._tally = tally
        self._outdated = outdated
        self._placed = placed
        self._scheduler = AsyncIOScheduler(
            timezone="UTC",
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Begin; the partitions are made at once."""
        for job, seconds in (
            (self.heartbeat, 10),
            (self.report, 10),
            (self.cancel_removed, 60),
            (self.promote_forgotten, 60),
            (self.disable_failing, 60),
            (self.make_partitions, 3_600),
            (self.prune, 3_600),
        ):
            self._scheduler.add_job(_bounded(job), "interval", seconds=seconds)
        self._scheduler.add_job(_bounded(self.make_partitions))
        self._scheduler.start()

    def stop(self) -> None:
        """End, without waiting for a job under way."""
        self._scheduler.shutdown(wait=False)

    async def heartbeat(self) -> None:
        """Say that this process lives; see whether the schema is still ours.

        A standby that took over may not have heard of it, and would give its id to another.
        """
        beat = await self._store.heartbeat()
        if beat.version != VERSION:
            self._outdated(beat.version)
        elif not beat.known:
            former, now = self._store.owner, await self._store.register_again()
            logger.warning("the database does not know worker %d: it is worker %d now", former, now)
        self._placed(beat.place, beat.workers)

    async def make_partitions(self) -> None:
        """Make the partitions of the days ahead; bring home what lies in the DEFAULT ones."""
        made = await self._store.make_partitions()
        if made:
            logger.info("made %d partitions ahead", made)
        for fact in FACTS:
            while moved := await self._store.drain_default(fact):
                logger.info("moved %d rows of %s_default into a partition", moved, fact)

    async def prune(self) -> None:
        """Drop the days that are past their retention; what is held or busy waits for next time."""
        past = await self._store.days_past()
        dropped = [day for day, looked_at in past if await self._drop(day, looked_at)]
        if dropped:
            keys = await self._store.prune_keys()
            logger.info("pruned %d days up to %s, %d keys", len(dropped), dropped[-1], keys)

    async def _drop(self, day: date, looked_at: datetime) -> bool:
        for fact in FACTS:
            for _ in range(TRIES):
                try:
                    if not await self._store.drop_day(fact, day, looked_at):
                        return False
                    break
                except psycopg.errors.LockNotAvailable:
                    await asyncio.sleep(PAUSE)
            else:
                return False
        return True

    async def cancel_removed(self) -> None:
        """Cancel what a fan-out made for a subscription while it was removed."""
        cancelled = await self._store.cancel_removed()
        if cancelled:
            logger.info("cancelled %d deliveries of removed subscriptions", cancelled)

    async def promote_forgotten(self) -> None:
        """Let the next of subjects go whose head was not followed."""
        promoted = await self._store.promote_forgotten()
        if promoted:
            logger.warning("%d subjects of ordered subscriptions stood still and go on", promoted)

    async def disable_failing(self) -> None:
        """Disable the subscriptions that had nothing but failures for too long."""
        for id, reason in await self._store.disable_failing():
            logger.warning("disabled subscription %s: %s", id, reason)

    async def report(self) -> None:
        """Log what attempts came to since the last report, if there were any."""
        if self._tally:
            counts = ", ".join(f"{count:,} {outcome}" for outcome, count in self._tally.items())
            logger.info("in the last 10 s: %s", counts)
            self._tally.clear()


def _bounded(job: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[Any]]:
    @wraps(job)
    async def run() -> None:
        try:
            async with asyncio.timeout(JOB_SECONDS):
                await job()
        except (psycopg.Error, TimeoutError) as error:
            logger.warning("%s is put off: %s", job.__name__, in_a_line(error))
        except asyncio.CancelledError:  # the process stops; APScheduler would log a traceback
            logger.debug("%s was under way when the worker stopped", job.__name__)

    return run
