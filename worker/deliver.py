"""Delivery: keep the slots of a process full of what is due.

    lanes that are due ──▶ claim ──▶ wait for a slot ──▶ attempt

A few more are claimed than have a slot, so that no slot waits for a commit, and no lane
gets so much that the others find no slot. A request starts only while its lease outlasts
its answer; what could not start in time is given back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

import psycopg

from . import crash
from .breaker import Breaker, hurts
from .claim import Lanes, quotas
from .faults import in_a_line
from .loop import Bell
from .recipients import Recipients
from .rows import LimitedClaims
from .slots import Slots
from .turns import Turns
from .watch import Load, Watch

if TYPE_CHECKING:
    from .attempt import Attempter
    from .claim import Claim
    from .outcome import Judgement, Reply
    from .rows import FannedOut
    from .settings import Settings
    from .shares import Share
    from .store import Store

logger = logging.getLogger("outbox.worker")

SHORTEST_CLAIM = 0.01  # seconds between claims while little is free
PATIENCE = 2.0  # seconds that a claim waits for a slot: pauses and edits must count soon
MOMENT = 0.001  # seconds in which slots that fall free are filled together
ENOUGH = 8  # requests in flight for which that is worth it
SWEEP_SECONDS = 1.0
SWEEP_LANES = 1_000
SWEEP_SLICE = 0.02  # seconds between two slices of one sweep
FULL_SECONDS = 0.1  # until a full lane is asked again: another worker may have made room
BUSY_SECONDS = 0.02  # until a lane is asked again that another worker has in hand
FIRST_LANE = "00000000-0000-0000-0000-000000000000"


class Deliverer:
    """The loop's step and what it must remember: lanes, claims, tasks.

    `share` is its share of the slots, when its process serves other databases as well.
    """

    def __init__(
        self, store: Store, attempter: Attempter, settings: Settings,
        watch: Watch | None = None, share: Share | None = None, turns: Turns | None = None,
    ) -> None:  # fmt: skip
        self.bell = Bell()
        self._store = store
        self._attempter = attempter
        self._settings = settings
        self._watch = watch or Watch()
        self._recipients = Recipients(store, settings.keyring)
        self._lanes = Lanes()
        self._limited: set[str] = set()  # lanes with limits that hold for the fleet
        self._breaker = Breaker()
        self._turns = turns or Turns()
        self._much = settings.concurrency  # so much room is claimed at once
        self._slots = Slots(settings.concurrency, share)
        self._patience = min(PATIENCE, settings.start_window)
        self._tasks: dict[asyncio.Task[None], Claim] = {}
        self._filling: asyncio.TimerHandle | None = None
        self._claimed_at = 0.0
        self._crowded = False
        self._sweep_from = FIRST_LANE
        self._sweep_at = 0.0

    # What others tell.

    def fanned_out(self, made: FannedOut) -> None:
        """Lanes that just got deliveries."""
        now = time.monotonic()
        self._limited.difference_update(made.lanes)
        self._limited.update(made.limited)
        for lane in (*made.lanes, *made.limited):
            self._lanes.mark(lane, now, now=now)
        self.bell.ring()

    def look_around(self) -> None:
        """Another process made deliveries: sweep the lanes now."""
        self._sweep_at = 0.0
        self.bell.ring()

    def recorded(self, lane: str, due_in: float | None) -> None:
        """A delivery of `lane` ended, or is due again in `due_in` seconds."""
        if lane in self._limited:
            due_in = 0.0  # there is room for its next
        if due_in is None:
            return
        now = time.monotonic()
        self._lanes.mark(lane, now + due_in, now=now)
        self.bell.ring()

    def flushed(self, count: int) -> None:
        """So many results are in the database: what waited for that may be sent."""
        self._slots.share.recorded(count)
        self.room_made()

    def room_made(self) -> None:
        """There may be slots again, after results were recorded or another database let go."""
        self._fill()
        if self._crowded and self._limited:  # who has limits claims no more than it may start
            self.bell.ring()

    def is_limited(self, lane: str) -> bool:
        """Return whether `lane` has limits, as far as this process has heard."""
        return lane in self._limited

    @property
    def load(self) -> Load:
        """What it has in hand at this moment."""
        return Load(
            self._slots.running, self._slots.free, self._slots.waiting,
            self._slots.share.unrecorded, self._breaker.open,
        )  # fmt: skip

    # The loop.

    async def step(self) -> float:
        """Sweep if it is time, claim what fits; return the seconds to wait."""
        now = time.monotonic()
        if now >= self._sweep_at:
            await self._give_back(self._slots.late(now))
            await self._sweep(now)
        pause = self._pause(now)
        if pause > 0:
            return pause
        room, held = self._slots.room, self._slots.held
        lanes = self._lanes.due(now, room + len(held))  # those that hold may have their fill
        wanted = quotas(lanes, room, held, self._breaker.window)
        limited = {lane: wanted.pop(lane) for lane in list(wanted) if lane in self._limited}
        if limited:
            limited = _within(limited, self._slots.free)
        self._crowded = not wanted and not limited
        if self._crowded:
            return self._until_sweep(now)
        if limited:
            await self._claim_limited(limited)
        if wanted:
            await self._claim(wanted)
        return 0.0

    def _pause(self, now: float) -> float:
        """Seconds until a claim makes sense; a ring cuts them short, and asks again."""
        room, due = self._slots.room, self._lanes.next_due()
        if room <= 0 or due is None:
            return self._until_sweep(now)
        wait = due - now
        if room < self._much:
            wait = max(wait, self._claimed_at + SHORTEST_CLAIM - now)
        return min(wait, self._until_sweep(now))

    def _until_sweep(self, now: float) -> float:
        return max(0.001, self._sweep_at - now)

    async def _sweep(self, now: float) -> None:
        lanes = await self._store.sweep(self._sweep_from, SWEEP_LANES)
        for lane in lanes:
            (self._limited.add if lane.limited else self._limited.discard)(lane.subscription_id)
            if lane.due_in is not None:
                self._lanes.mark(lane.subscription_id, now + lane.due_in, now=now)
        whole = len(lanes) < SWEEP_LANES
        self._sweep_from = FIRST_LANE if whole else lanes[-1].subscription_id
        self._sweep_at = now + (self._until_next() if whole else SWEEP_SLICE)

    def _until_next(self) -> float:
        """Return the seconds between two sweeps: who has nothing to do takes turns with others."""
        idle = self._lanes.next_due() is None and not self._slots.held
        return self._turns.wait(SWEEP_SECONDS) if idle else SWEEP_SECONDS

    async def _claim(self, wanted: dict[str, int]) -> None:
        since = self._claimed_at = time.monotonic()
        crash.at("claim")
        claims, _ = await asyncio.gather(
            self._store.claim(wanted, self._settings.lease), self._recipients.foresee(wanted)
        )
        self._watch.claimed(claims, time.monotonic() - since)
        if claims:
            crash.at("claimed")
        self._ask_again(wanted, LimitedClaims(claims), since)
        await self._recipients.load(claims)
        await self._begin(claims, since)

    async def _claim_limited(self, wanted: dict[str, int]) -> None:
        """Claim what limits leave, and start it at once: a rate counts when requests leave."""
        since = self._claimed_at = time.monotonic()
        for lane, quota in wanted.items():
            self._slots.reserve(lane, quota)
        started: Counter[str] = Counter()
        try:
            found = await self._store.claim_limited(wanted, self._settings.lease)
            self._watch.claimed(found.claims, time.monotonic() - since)
            self._ask_again(wanted, found, since)
            await self._recipients.load(found.claims)
            in_time = time.monotonic() - since <= self._settings.start_window
            if self.bell.stopping or not in_time:
                await self._give_back(found.claims)
            else:
                for claim in found.claims:
                    self._start(claim)
                    started[claim.subscription_id] += 1
        finally:
            for lane, quota in wanted.items():
                for _ in range(quota - started[lane]):
                    self._slots.finished(lane)

    def _ask_again(self, wanted: dict[str, int], found: LimitedClaims, since: float) -> None:
        """Say when each lane that was claimed from at `since` is to be claimed from again."""
        got = Counter(claim.subscription_id for claim in found.claims)
        for lane, quota in wanted.items():
            if lane in found.busy:
                self._lanes.defer(lane, since + BUSY_SECONDS)
            elif lane in found.waits:
                self._lanes.hold(lane, since + found.waits[lane], now=since)
            elif lane in found.full:
                self._lanes.defer(lane, since + FULL_SECONDS)
            elif got[lane] < quota:
                self._lanes.exhausted(lane, since=since)
            else:
                self._lanes.served(lane, now=since)

    async def _begin(self, claims: list[Claim], since: float) -> None:
        until = since + self._patience
        self._sweep_at = min(self._sweep_at, since + SWEEP_SECONDS)
        in_time = time.monotonic() <= until and not self.bell.stopping
        usable: list[Claim] = []
        refused: list[Claim] = []
        for claim in claims:
            (usable if in_time and self._recipients.get(claim) else refused).append(claim)
        self._slots.add(usable, until)
        self._fill()
        await self._give_back(refused)

    def _fill_soon(self) -> None:
        """Fill once for all that end within a moment: requests that leave together cost less.

        There is time for it while others are in flight.
        """
        if self._filling is None:
            moment = MOMENT if self._slots.running >= ENOUGH else 0.0
            self._filling = asyncio.get_running_loop().call_later(moment, self._fill)

    def _fill(self) -> None:
        """Start what waits, as far as there are slots."""
        if self._filling is not None:
            self._filling.cancel()
            self._filling = None
        if not self.bell.stopping:
            for claim in self._slots.start(time.monotonic()):
                self._start(claim)

    def _start(self, claim: Claim) -> None:
        if claim.took_over:
            logger.warning(
                "took over a delivery: the worker of attempt %d is gone",
                claim.attempt - 1,
                extra={"delivery": claim.delivery_id},
            )
        task = asyncio.create_task(self._deliver(claim, time.monotonic()))
        self._tasks[task] = claim
        task.add_done_callback(self._finished)

    async def _deliver(self, claim: Claim, began: float) -> None:
        ready = self._recipients.get(claim)
        if ready is None:  # it became unusable while this claim waited
            await self._give_back([claim])
            return
        reply, judgement = await self._attempter.attempt(claim, ready)
        self._slots.share.answered()
        pause = self._pause_of(claim.subscription_id, reply, judgement, began)
        if pause > 0:
            now = time.monotonic()
            self._lanes.hold(claim.subscription_id, now + pause, now=now)
            await self._give_back(self._slots.drop([claim.subscription_id]))

    def _pause_of(self, lane: str, reply: Reply, judgement: Judgement, began: float) -> float:
        """Return the seconds to leave a lane alone after this reply."""
        if not judgement.counts:  # nothing was asked, or it is our fault: no news of the receiver
            return 0.0
        if not hurts(reply):
            self._breaker.answered(lane)
            return 0.0
        pause = self._breaker.failed(lane, began=began, now=time.monotonic())
        if pause:
            logger.info("subscription %s does not answer: a probe in %.0f s", lane, pause)
        return max(pause, judgement.throttle or 0.0)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._slots.finished(self._tasks.pop(task).subscription_id)
        self._fill_soon()
        if self._crowded or self._slots.room in {1, self._much}:
            self.bell.ring()

    async def _give_back(self, claims: list[Claim], *, cut: bool = False) -> None:
        """Release, once: a lease that could not be released runs out by itself."""
        if not claims:
            return
        try:
            await self._store.release(claims, cut=cut)
        except psycopg.Error as error:
            logger.warning("%d claims could not be released: %s", len(claims), in_a_line(error))

    # The end.

    async def drain(self, grace: float) -> None:
        """Give back what waits, let what is in flight finish within `grace` seconds, cut it off."""
        await self._give_back(self._slots.drop())
        if self._tasks:
            logger.info("finishing %d requests in flight", len(self._tasks))
            await asyncio.wait(set(self._tasks), timeout=grace)
        if self._tasks:
            logger.warning("%d requests are cut off: the grace is over", len(self._tasks))
            cut = dict(self._tasks)
            for task in cut:
                task.cancel()
            await asyncio.gather(*cut, return_exceptions=True)
            await self._give_back(list(cut.values()), cut=True)


def _within(wanted: dict[str, int], free: int) -> dict[str, int]:
    """Return `wanted` with no more than `free` in all, those first that come first."""
    kept = {}
    for lane, count in wanted.items():
        kept[lane] = min(count, free)
        free -= kept[lane]
    return {lane: count for lane, count in kept.items() if count > 0}
