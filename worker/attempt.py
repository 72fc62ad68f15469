"""One attempt: build the request, send it, judge the answer, hand the result on.

Nothing here fails: a fault of our own is a result too, held against nobody.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from outbox.request import build

from . import crash
from .answers import kept
from .deadline import Deadlines
from .outcome import Judgement, Reply, age, judge, stillborn
from .rows import Result
from .send import send
from .watch import Watch

if TYPE_CHECKING:
    from random import Random

    import httpx

    from .claim import Claim
    from .recipients import Ready
    from .record import Recorder
    from .traces import Traces

logger = logging.getLogger("outbox.worker")


class Attempter:
    """Makes attempts; `watch` hears what they come to, `traces` has a span of each."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        recorder: Recorder,
        *,
        timeout: float,
        rng: Random,
        watch: Watch | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._transport = transport
        self._recorder = recorder
        self._timeout = timeout
        self._rng = rng
        self._watch = watch or Watch()
        self._traces = traces
        self._deadlines = Deadlines()

    async def attempt(self, claim: Claim, ready: Ready) -> tuple[Reply, Judgement]:
        """Make the attempt of `claim`, hand its result to the recorder, return what came of it."""
        if self._traces is None:
            return await self._attempt(claim, ready)
        with self._traces.attempt(claim, ready.target) as attempted:
            reply, judgement = await self._attempt(attempted.claim, ready)
            attempted.ended(reply, judgement)
        return reply, judgement

    async def _attempt(self, claim: Claim, ready: Ready) -> tuple[Reply, Judgement]:
        now, start = datetime.now(UTC), time.monotonic()  # noqa: TID251 - the edge
        reply, judgement = await self._try(claim, ready, now)
        seconds = time.monotonic() - start
        began = now.timestamp()
        self._watch.attempted(claim, reply, judgement, ended_at=began + seconds, seconds=seconds)
        self._recorder.put(
            claim.subscription_id,
            Result(
                delivery_id=claim.delivery_id,
                attempt=claim.attempt,
                outcome=judgement.outcome,
                counts=judgement.counts,
                delay=judgement.delay,
                revision=ready.revision,
                started_at=began,
                duration_ms=round(seconds * 1000),
                status=reply.status,
                error_class=reply.error_class,
                error=judgement.reason,
                response_headers=kept(reply.headers) if reply.headers else None,
                response_body=reply.body or None,
                limited=claim.limited,
                operational=claim.operational,
                **reply.phases._asdict(),
            ),
            disable=judgement.disable,
        )
        return reply, judgement

    async def _try(self, claim: Claim, ready: Ready, now: datetime) -> tuple[Reply, Judgement]:
        old = age(claim.delivery_id, ready.max_age, now=now)
        dead = stillborn(claim.attempt - 1 - claim.failures, old)
        if dead is not None:
            return dead
        reply = await self._send(claim, ready, int(now.timestamp()))
        return reply, judge(
            reply, failures=claim.failures, schedule=ready.schedule, now=now, rng=self._rng,
            age=old,
        )  # fmt: skip

    async def _send(self, claim: Claim, ready: Ready, timestamp: int) -> Reply:
        try:
            outgoing = build(ready.target, claim, attempt=claim.attempt, timestamp=timestamp)
            timeout = min(ready.timeout or self._timeout, self._timeout)  # the lease outlasts it
            crash.at("send")
            return await send(self._transport, outgoing, self._deadlines.within(timeout))
        except Exception as error:  # whatever it is, the delivery must not be lost with it
            logger.exception("delivery %s: a fault of the worker itself", claim.delivery_id)
            return Reply(None, (), b"", "internal", type(error).__name__)
