"""Recording: results are written in batches, each exactly once, whatever the database does.

A result waits a moment for others, so that a busy worker writes hundreds with one
statement. When the answer of the database is lost, the batch is written again with a
guard: what the first run recorded is not recorded twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import psycopg

from . import crash
from .loop import Bell, Outage
from .rows import Gone
from .settings import FLUSH_SECONDS, FLUSH_SIZE
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .rows import Recorded, Result
    from .store import Store

logger = logging.getLogger("outbox.worker")


class Recorder:
    """Takes results from `put`; `recorded` hears of each its lane, what it came to, and in how
    many seconds it is due again, if it is.

    `limited` tells whether a lane has limits by now: claims made before it had any count
    as well, and their ends let others go. `flushed` hears how many were written at once;
    when `soon` of them wait, they are written without waiting for more.
    """

    def __init__(
        self,
        store: Store,
        recorded: Callable[[str, str, float | None], None],
        limited: Callable[[str], bool] = lambda _: False,
        flushed: Callable[[int], None] = lambda _: None,
        soon: int = FLUSH_SIZE,
        watch: Watch | None = None,
    ) -> None:
        self._store = store
        self._recorded = recorded
        self._limited = limited
        self._flushed = flushed
        self._watch = watch or Watch()
        self._soon = max(1, min(soon, FLUSH_SIZE))
        self._idle = False
        self._waiting: list[tuple[str, Result]] = []
        self._gone: dict[str, Gone] = {}
        self._bell = Bell()

    def put(self, lane: str, result: Result, *, disable: str | None = None) -> None:
        """Record `result` of `lane` soon; with it disable the subscription, for a reason."""
        if not result.limited and self._limited(lane):
            result = result._replace(limited=True)
        self._waiting.append((lane, result))
        if disable is not None:
            known = self._gone.get(lane)
            heard = known is not None and known.tell
            self._gone[lane] = Gone(disable, tell=heard or not result.operational)
        if self._idle or len(self._waiting) == self._soon:
            self._bell.ring()

    async def run(self) -> None:
        """Write until `close`, and then what is left."""
        while not (self._bell.stopping and not self._waiting):
            if not self._waiting:
                self._idle = True
                await self._bell.wait(None)
                self._idle = False
            if len(self._waiting) < self._soon and not self._bell.stopping:
                await self._bell.wait(FLUSH_SECONDS)
            if self._waiting:
                await self._flush()

    def close(self) -> None:
        """Let `run` end once everything is written."""
        self._bell.stop()

    async def _flush(self) -> None:
        batch, self._waiting = _next_batch(self._waiting)
        gone, self._gone = self._gone, {}
        began = time.monotonic()
        said = await self._write([result for _, result in batch], gone)
        self._watch.flushed(len(batch), time.monotonic() - began)
        for lane, result in batch:
            done = said.get(result.delivery_id)
            outcome = result.outcome if done is None else done.outcome
            self._watch.recorded(result, outcome)
            self._recorded(lane, outcome, None if done is None else done.due_in)
        self._flushed(len(batch))

    async def _write(self, batch: list[Result], gone: dict[str, Gone]) -> dict[str, Recorded]:
        outage = Outage("recording")
        again = False
        while True:
            try:
                crash.at("record")
                rows = await self._store.record(batch, again=again, gone=gone)
                crash.at("recorded")
            except psycopg.Error as error:
                again = True
                await asyncio.sleep(outage.begins(error))
            else:
                outage.ends()
                return {row.delivery_id: row for row in rows}


def _next_batch(
    waiting: list[tuple[str, Result]],
) -> tuple[list[tuple[str, Result]], list[tuple[str, Result]]]:
    """Return what is written at once, and the rest.

    Of a delivery one result at a time: a process that stood still may have two, of a claim
    that it lost and of its next, and the first decides what the second is.
    """
    seen: set[str] = set()
    batch: list[tuple[str, Result]] = []
    rest: list[tuple[str, Result]] = []
    for each in waiting:
        id = each[1].delivery_id
        (batch if id not in seen and len(batch) < FLUSH_SIZE else rest).append(each)
        seen.add(id)
    return batch, rest
