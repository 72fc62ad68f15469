"""Recording: results are written in batches, each exactly once, whatever the database does.

A result waits a moment for others, so that a busy worker writes hundreds with one
statement. When the answer of the database is lost, the batch is written again with a
guard: what the first run recorded is not recorded twice.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import psycopg

from . import crash
from .loop import Bell, Outage
from .rows import Gone
from .settings import FLUSH_SECONDS, FLUSH_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from .rows import Recorded, Result
    from .store import Store

logger = logging.getLogger("outbox.worker")


class Recorder:
    """Takes results from `put`; `recorded` hears what became of each.

    `limited` tells whether a lane has limits by now: claims made before it had any count
    as well, and their ends let others go.
    """

    def __init__(
        self,
        store: Store,
        recorded: Callable[[str, Result, Recorded], None],
        limited: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._store = store
        self._recorded = recorded
        self._limited = limited
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
        if len(self._waiting) in {1, FLUSH_SIZE}:
            self._bell.ring()

    async def run(self) -> None:
        """Write until `close`, and then what is left."""
        while not (self._bell.stopping and not self._waiting):
            if not self._waiting:
                await self._bell.wait(None)
            elif len(self._waiting) < FLUSH_SIZE and not self._bell.stopping:
                await asyncio.sleep(FLUSH_SECONDS)
            if self._waiting:
                await self._flush()

    def close(self) -> None:
        """Let `run` end once everything is written."""
        self._bell.stop()

    async def _flush(self) -> None:
        batch, self._waiting = self._waiting[:FLUSH_SIZE], self._waiting[FLUSH_SIZE:]
        gone, self._gone = self._gone, {}
        outcomes = await self._write([result for _, result in batch], gone)
        for lane, result in batch:
            outcome = outcomes.get((result.delivery_id, result.attempt))
            if outcome is not None:
                self._recorded(lane, result, outcome)

    async def _write(
        self, batch: list[Result], gone: dict[str, Gone]
    ) -> dict[tuple[str, int], Recorded]:
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
                return {(row.delivery_id, row.attempt): row for row in rows}
