"""Replay: past events become deliveries again, slice by slice, behind live traffic.

Any worker may take the next slice of a replay, in one transaction: it locks the replay's
row, looks at a bounded number of events behind the cursor, makes as many deliveries as the
rate and the lanes allow (`feed`), and moves the cursor. Whatever dies in between, the next
slice begins where the last one ended.

    lock ──▶ those set apart ──▶ all others ──▶ deliver again ──▶ move the cursors

Whoever is furthest behind comes first, so who was set apart catches up and joins the others.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from . import crash
from .faults import in_a_line, is_data
from .feed import FIRST, LAST, before, filled, passed, room, until_filled, walk
from .loop import Bell
from .rows import FannedOut
from .turns import Turns
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from psycopg import AsyncConnection

    from .feed import Pair, Walk
    from .rows import Fullness, RunningReplay
    from .store import Store

logger = logging.getLogger("outbox.worker")

IDLE = 1.0  # seconds between two looks for replays
BUSY = 0.1  # seconds until a replay is asked for again that another worker has in hand
SHORTEST = 0.01  # seconds between two slices, which leave the database to others
LIMIT = 500  # pairs of one slice
FIRST_SCAN, LARGEST_SCAN = 8, 1_000  # events that one slice looks at


@dataclass(slots=True)
class Pace:
    """What a process remembers of a replay: how many events to look at, how long to wait."""

    scan: int = FIRST_SCAN
    scan_apart: int = FIRST_SCAN
    poll: float = SHORTEST

    def wait(self, *, moved: bool) -> float:
        """Return the seconds until the next slice, after one that `moved` something or not."""
        self.poll = SHORTEST if moved else min(IDLE, self.poll * 1.5)
        return self.poll


class Replays:
    """The loop's step: a slice of each replay that runs, in turn."""

    def __init__(
        self, store: Store, made: Callable[[FannedOut], None],
        watch: Watch | None = None, turns: Turns | None = None,
    ) -> None:  # fmt: skip
        self.bell = Bell()
        self._store = store
        self._watch = watch or Watch()
        self._made = made
        self._turns = turns or Turns()
        self._paces: dict[str, Pace] = {}

    async def step(self) -> float:
        """Make one slice of each running replay; return the seconds to wait."""
        ids = await self._store.running_replays()
        self._paces = {id: self._paces.get(id) or Pace() for id in ids}
        if not ids:
            return self._turns.wait(IDLE)
        return min([await self._turn(id) for id in ids])

    async def _turn(self, id: str) -> float:
        """Make a slice; a replay whose data cannot be worked on fails, the others go on."""
        try:
            return await self._slice(id)
        except psycopg.Error as error:
            if not is_data(error):
                raise
            told = in_a_line(error)
        await self._store.fail_replay(id, told)
        logger.error("replay %s failed: %s", id, told)
        return IDLE

    async def _slice(self, id: str) -> float:
        async with self._store.transaction() as connection:
            replay = await self._store.lock_replay(connection, id)
            if replay is None:
                return BUSY
            rate = replay.rate
            tokens = filled(replay.tokens, rate, replay.seconds) if rate else float(LIMIT)
            if rate and tokens < 1:
                return until_filled(tokens, rate)
            crash.at("replay")
            slice = Slice(self._store, connection, id, replay, self._paces[id], int(tokens))
            await slice.run(tokens)
        if slice.made:
            crash.at("replayed")
            self._watch.replayed(len(slice.made))
            self._made(slice.told())
            await self._store.wake()
        if slice.is_done:
            logger.info("replay %s is done", id)
        wait = self._paces[id].wait(moved=slice.has_moved)
        return max(wait, until_filled(tokens - len(slice.made), rate)) if rate else wait


class Slice:
    """One slice of one replay, in a transaction that has its row locked."""

    def __init__(
        self, store: Store, connection: AsyncConnection[Any], id: str, replay: RunningReplay,
        pace: Pace, allowed: int,
    ) -> None:  # fmt: skip
        self.made: list[Pair] = []
        self.has_moved = replay.is_new
        self._store = store
        self._connection = connection
        self._id = id
        self._replay = replay
        self._pace = pace
        self._allowed = min(allowed, LIMIT)
        self._cursor: Pair = (replay.after_event, replay.after_subscription)
        self._apart: dict[str, str] = {}  # lanes set apart, and behind which event each goes on
        self._was_apart: dict[str, str] = {}
        self._lanes: dict[str, Fullness] = {}

    @property
    def is_done(self) -> bool:
        """Whether everyone has come to the last event."""
        return self._cursor == (self._replay.last_event, LAST) and not self._apart

    def told(self) -> FannedOut:
        """Return what was made, as a fan-out would tell it."""
        lanes = {lane for _, lane in self.made if self._lanes[lane].is_active}
        limited = {lane for lane in lanes if self._lanes[lane].limited}
        return FannedOut(0, len(self.made), sorted(lanes - limited), sorted(limited))

    async def run(self, tokens: float) -> None:
        """Make the deliveries and move the cursors."""
        if self._replay.is_new:  # what a fan-out that began earlier does not bring is seen then
            await self._store.lock_fan_out(self._connection)
        await self._bring_apart()
        await self._bring_others()
        made = 0
        if self.made:
            made = await self._store.deliver_again(self._connection, self._id, self.made)
        if self.has_moved:
            await self._move(made, tokens)

    async def _bring_apart(self) -> None:
        """Let those set apart that have room go on, together, from the one furthest behind."""
        lanes = await self._store.replay_lanes(self._connection, self._id)
        self._was_apart = {lane.subscription_id: lane.after_event for lane in lanes}
        self._apart = dict(self._was_apart)
        self._let_join(lane.subscription_id for lane in lanes if lane.state == "removed")
        rooms = await self._rooms(
            [each.subscription_id for each in lanes if each.state == "active"]
        )
        others = self._cursor[0] if self._cursor[1] == LAST else before(self._cursor[0])
        ready = {
            lane: after for lane, after in self._apart.items() if rooms.get(lane) and after < others
        }
        if ready:
            pairs, reached = await self._next((min(ready.values()), FIRST), others, ready)
            found = walk(pairs, self._allowed, rooms, waits=False)
            end = _end(found, pairs, reached)
            self._pace.scan_apart = _next_scan(self._pace.scan_apart, found, pairs)
            self._take(found)
            for lane, after in ready.items():
                self._apart[lane] = passed(lane, after, found, end)
            self.has_moved |= any(self._apart[lane] != after for lane, after in ready.items())
        if self._cursor[1] == LAST:
            self._let_join(lane for lane, after in self._apart.items() if after >= others)

    async def _bring_others(self) -> None:
        """Go on behind the cursor; who takes no more is set apart."""
        at_end = self._cursor == (self._replay.last_event, LAST)
        if at_end or len(self.made) >= self._allowed:
            return
        pairs, reached = await self._next(self._cursor, self._replay.last_event, None)
        rooms = await self._rooms({lane for _, lane in pairs})
        alone = self._replay.subscription_id is not None
        found = walk(pairs, self._allowed - len(self.made), rooms, waits=alone)
        end = _end(found, pairs, reached)
        self._pace.scan = _next_scan(self._pace.scan, found, pairs)
        self._take(found)
        self._apart |= {lane: before(event) for lane, event in found.full.items()}
        if end is not None:
            self.has_moved |= end != self._cursor
            self._cursor = end

    async def _next(
        self, cursor: Pair, last_event: str, ready: Mapping[str, str] | None
    ) -> tuple[list[Pair], str]:
        """Return the next pairs behind `cursor`, of those `ready` or of all that are not apart."""
        return await self._store.replay_pairs(
            self._connection, self._replay, cursor, last_event, limit=LIMIT,
            scan=self._pace.scan if ready is None else self._pace.scan_apart,
            apart=ready is not None, lanes=self._apart if ready is None else ready,
        )  # fmt: skip

    async def _rooms(self, lanes: Iterable[str]) -> dict[str, int]:
        found = await self._store.rooms(self._connection, lanes) if lanes else []
        self._lanes |= {each.subscription_id: each for each in found}
        taken = Counter(lane for _, lane in self.made)  # by one that has just joined
        return {each.subscription_id: room(each) - taken[each.subscription_id] for each in found}

    def _let_join(self, lanes: Iterable[str]) -> None:
        for lane in list(lanes):
            del self._apart[lane]
            self.has_moved = True

    def _take(self, found: Walk) -> None:
        self.made += found.made
        self.has_moved |= bool(found.made)

    async def _move(self, made: int, tokens: float) -> None:
        before, now = self._was_apart, self._apart
        await self._store.move_replay(
            self._connection, self._id, self._cursor, made=made, tokens=tokens - made,
            apart={lane: after for lane, after in now.items() if before.get(lane) != after},
            joined=sorted(before.keys() - now.keys()), at=self._replay.at, done=self.is_done,
        )  # fmt: skip


def _end(found: Walk, pairs: list[Pair], reached: str) -> Pair | None:
    """Return the last pair that is decided on; with all of them, the end of what was looked at."""
    whole = not found.stopped and len(pairs) < LIMIT
    return (reached, LAST) if whole else found.end


def _next_scan(scan: int, found: Walk, pairs: list[Pair]) -> int:
    """Return how many events to look at next: half as many where half had been enough."""
    if not found.stopped and len(pairs) < LIMIT:
        return min(LARGEST_SCAN, scan * 2)
    used = len({event for event, _ in found.made})
    return max(1, scan // 2) if 0 < used <= scan // 2 else scan
