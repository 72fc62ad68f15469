"""What a process tells of its work, all in one place: lines in its log, and numbers.

The parts say what they did; nothing here can fail them, and a delivery costs a few
additions.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .ledger import Ledger
from .series import (
    CLAIMED,
    CLAIMS,
    DELIVERIES,
    EVENTS,
    FAN_OUTS,
    LATENCY,
    MADE,
    OPEN,
    PROCESSES,
    RECORDED,
    RECORDS,
    REQUESTS,
    SLOTS,
    STARTS,
    UNRECORDED,
    WAITING,
    error_class,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .claim import Claim
    from .ledger import Row
    from .outcome import Judgement, Reply
    from .rows import FannedOut, Result

logger = logging.getLogger("outbox.worker")

LONG_AFTER = 3_600.0  # seconds from an event to a delivery of it that only a replay can have made


class Load(NamedTuple):
    """What a process has in hand: see the series of the same names."""

    in_use: int
    free: int
    waiting: int
    unrecorded: int
    open: int


def together(loads: Sequence[Load], slots: int) -> Load:
    """Return what a process with so many slots has in hand, of all its databases."""
    in_use, _, waiting, unrecorded, open = map(sum, zip(*loads, strict=True))
    return Load(in_use, slots - in_use, waiting, unrecorded, open)


class Watch:
    """What one process did, told line by line and counted in `row`; `tally` is for its report."""

    def __init__(self, row: Row | None = None) -> None:
        self.tally: Counter[str] = Counter()
        self._row = row or Ledger(1).rows[0]

    def started(self, now: float) -> None:
        """A process begins at `now` of the monotonic clock: not registered yet."""
        self._row.add(STARTS)
        self._row.ready(False)
        self._row.live(now)

    def attempted(
        self, claim: Claim, reply: Reply, judgement: Judgement, *, ended_at: float, seconds: float
    ) -> None:
        """An attempt took so many `seconds` and ended at `ended_at`, in Unix seconds."""
        self.tally[judgement.outcome] += 1
        if reply.status is not None or reply.error_class is not None:
            self._row.observe(REQUESTS, seconds)
        if judgement.outcome == "delivered":
            self._row.observe(LATENCY, latency(claim, ended_at))
        else:
            _tell(claim, reply, judgement, seconds)

    def recorded(self, result: Result, outcome: str) -> None:
        """An attempt is on record with `outcome`, which may be `late`."""
        label = (outcome, error_class(result.status, result.error_class))
        self._row.add(DELIVERIES, label)
        if outcome == "late":
            logger.warning("an answer came too late", extra={"delivery": result.delivery_id})

    def lost(self, count: int) -> None:
        """So many attempts are on record as lost."""
        self._row.add(DELIVERIES, ("lost", ""), count)

    def flushed(self, count: int, seconds: float) -> None:
        """A batch of so many results is recorded."""
        self._row.observe(RECORDS, seconds)
        self._row.observe(RECORDED, count)

    def claimed(self, claims: Sequence[Claim], seconds: float) -> None:
        """A claim brought `claims`."""
        self._row.observe(CLAIMS, seconds)
        if claims:
            self._row.observe(CLAIMED, len(claims))
            self.lost(sum(claim.took_over for claim in claims))

    def fanned_out(self, done: FannedOut, seconds: float) -> None:
        """A fan-out did what it says."""
        if done.events:
            self._row.observe(FAN_OUTS, seconds)
            self._row.add(EVENTS, amount=done.events)
            self._row.add(MADE, ("fan_out",), done.deliveries)

    def replayed(self, deliveries: int) -> None:
        """A slice of a replay made so many."""
        self._row.add(MADE, ("replay",), deliveries)

    def holds(self, load: Load, now: float) -> None:
        """The process lives at `now` of the monotonic clock, with so much in hand."""
        self._row.put(PROCESSES, 1.0)
        self._row.put(SLOTS, load.in_use, ("in_use",))
        self._row.put(SLOTS, load.free, ("free",))
        self._row.put(WAITING, load.waiting)
        self._row.put(UNRECORDED, load.unrecorded)
        self._row.put(OPEN, load.open)
        self._row.live(now)


def latency(claim: Claim, ended_at: float) -> float:
    """Return the seconds from the event of a claim to `ended_at`, in Unix seconds.

    From when it was stored, as its id tells (UUIDv7), or was due, if that is later. A
    delivery that was made long after that is of a replay: its time begins with its own id.
    """
    begins = _moment(claim.event_id)
    if claim.scheduled is not None and claim.scheduled > begins:
        begins = claim.scheduled
    if ended_at > begins + LONG_AFTER:
        made = _moment(claim.delivery_id)
        begins = made if made > begins + LONG_AFTER else begins
    return max(0.0, ended_at - begins)


def _moment(id: str) -> float:
    return int(id[:8] + id[9:13], 16) / 1000


def _tell(claim: Claim, reply: Reply, judgement: Judgement, seconds: float) -> None:
    dead = judgement.outcome == "dead"
    logger.log(
        logging.WARNING if dead or reply.error_class == "blocked" else logging.INFO,
        "%s after attempt %d: %s",
        "dead" if dead else f"retry in {judgement.delay:.0f} s",
        claim.attempt,
        judgement.reason,
        extra={
            "delivery": claim.delivery_id,
            "subscription": claim.subscription_id,
            "status": reply.status,
            "ms": round(seconds * 1000),
        },
    )
    if judgement.disable:
        id, reason = claim.subscription_id, judgement.disable
        logger.warning("disabled subscription %s: %s", id, reason)
