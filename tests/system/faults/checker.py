"""The checker: compares what hosts, receivers and database say, and names what does not fit.

It looks at nothing but the evidence, so it can be shown any. Each finding is one line that
begins with the promise that was broken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from uuid import UUID

ENDS = frozenset({"delivered", "dead", "cancelled"})


@dataclass(frozen=True)
class Seen:
    """A request at a receiver, and how it was answered (None: not at all)."""

    event: UUID
    subscription: UUID
    attempt: int
    body: bytes
    at: float
    status: int | None
    verified: bool


@dataclass(frozen=True)
class Wish:
    """A subscription: what it asks for, and whether in the order of subjects."""

    prefix: str
    tenant: str | None
    ordered: bool
    constant: bool  # neither removed nor paused for good: it gets everything
    leaves: bool = False  # it may be removed
    whole: bool = True  # it was there from the beginning


@dataclass(frozen=True)
class Evidence:
    """All that is known after a run, with the facts of the database."""

    certain: set[UUID]
    aborted: set[UUID]
    unknown: set[UUID]
    events: Mapping[UUID, tuple[str, str | None, str | None]]  # id: type, tenant, subject
    wishes: Mapping[UUID, Wish]
    deliveries: Mapping[UUID, tuple[UUID, UUID, UUID | None]]  # id: event, subscription, replay
    queued: set[UUID]  # deliveries
    not_fanned_out: set[UUID]
    attempts: Mapping[UUID, list[tuple[int, str, int | None]]]  # delivery: number, outcome, status
    seen: list[Seen]
    faults: Mapping[str, int]  # how often each was to fire, and did
    most_in_flight: int  # requests that all faults together may have cut off
    logs: list[str]
    audited: list[str]  # what the audit found


def check(evidence: Evidence) -> list[str]:
    """Return the findings, none if every promise was kept."""
    checks = (
        committed, fanned_out, ended_once, numbered, judged_once, delivered_is_2xx, accounted_for,
        repeated, same_bytes, in_order, quiet_logs, adds_up,
    )  # fmt: skip
    return [finding for each in checks for finding in each(evidence)]


def committed(evidence: Evidence) -> Iterator[str]:
    """P1: exactly what was committed exists, and was fanned out."""
    stored = set(evidence.events)
    yield from _named("P1 an event was lost", evidence.certain - stored)
    yield from _named("P1 an event that was rolled back exists", evidence.aborted & stored)
    known = evidence.certain | evidence.unknown
    yield from _named("P1 an event came from nowhere", stored - known)
    yield from _named("P2 an event was not fanned out", evidence.not_fanned_out)


def fanned_out(evidence: Evidence) -> Iterator[str]:
    """P2: one delivery for each event and subscription that matches, and one for each replay."""
    asked = Counter(evidence.deliveries.values())
    yield from _named("P2 two deliveries of one event", {p for p, n in asked.items() if n > 1})
    made = {(event, to) for event, to, replay in asked if replay is None}
    owed = {
        (event, to)
        for to, wish in evidence.wishes.items()
        for event, (type, tenant, _) in evidence.events.items()
        if type.startswith(wish.prefix) and wish.tenant in (None, tenant)
    }
    due = {(event, to) for event, to in owed if _gets_all(evidence.wishes[to])}
    yield from _named("P2 a delivery is missing", due - made)
    ours = {(event, to) for event, to in made if event in evidence.events}
    yield from _named("P2 a delivery that nobody asked for", ours - owed)


def _gets_all(wish: Wish) -> bool:
    return wish.constant and wish.whole


def ended_once(evidence: Evidence) -> Iterator[str]:
    """P3: after the run each delivery has ended, once."""
    for id in evidence.deliveries:
        ends = [outcome for _, outcome, _ in evidence.attempts.get(id, []) if outcome in ENDS]
        if len(ends) > 1:
            yield f"P3 a delivery ended {len(ends)} times: {id}"
        if (len(ends) == 1) == (id in evidence.queued):
            yield f"P3 a delivery is {'open and ended' if ends else 'neither open nor ended'}: {id}"
        elif not ends:
            yield f"P3 a delivery is still open: {id}"


def numbered(evidence: Evidence) -> Iterator[str]:
    """P6: the attempts of a delivery are numbered without a gap."""
    for id, found in evidence.attempts.items():
        numbers = {number for number, outcome, _ in found if outcome != "cancelled"}
        if numbers != set(range(1, len(numbers) + 1)):
            yield f"P6 attempts with a gap, {sorted(numbers)}: {id}"


def judged_once(evidence: Evidence) -> Iterator[str]:
    """P6: an attempt has one outcome; a late 2xx may stand beside the `lost` of its worker."""
    for id, found in evidence.attempts.items():
        verdicts: dict[int, set[str]] = defaultdict(set)
        for number, outcome, _ in found:
            if outcome not in {"late", "cancelled"}:
                verdicts[number].add(outcome)
        for number, outcomes in verdicts.items():
            if len(outcomes) > 1 and outcomes != {"lost", "delivered"}:
                yield f"P6 attempt {number} is {' and '.join(sorted(outcomes))}: {id}"


def delivered_is_2xx(evidence: Evidence) -> Iterator[str]:
    """P4: what counts as delivered was answered 2xx, and was signed."""
    answered = {
        (seen.event, seen.subscription, seen.attempt)
        for seen in evidence.seen
        if seen.status is not None and 200 <= seen.status <= 299
    }
    for id, found in evidence.attempts.items():
        event, to, _ = evidence.deliveries[id]
        for number, outcome, _ in found:
            if outcome == "delivered" and (event, to, number) not in answered:
                yield f"P4 delivered without a 2xx: {id}"
    yield from _named(
        "P10 a signature does not verify", {s.event for s in evidence.seen if not s.verified}
    )


def accounted_for(evidence: Evidence) -> Iterator[str]:
    """P6: each request has an attempt on record."""
    recorded = {
        (*evidence.deliveries[id][:2], number)
        for id, found in evidence.attempts.items()
        for number, _, _ in found
    }
    sent = {(seen.event, seen.subscription, seen.attempt) for seen in evidence.seen}
    yield from _named("P6 a request has no attempt", sent - recorded)


def extra(evidence: Evidence) -> int:
    """How many requests were answered 2xx beyond one for each delivery."""
    answered = Counter(
        (seen.event, seen.subscription)
        for seen in evidence.seen
        if seen.status is not None and 200 <= seen.status <= 299
    )
    asked = Counter((event, to) for event, to, _ in evidence.deliveries.values())
    return sum(max(0, n - asked[pair]) for pair, n in answered.items())


def repeated(evidence: Evidence) -> Iterator[str]:
    """P5: what came again after a 2xx is no more than faults cut off, and each is on record.

    On record is an attempt whose worker was gone, came too late, or stood still until its
    deadline was over, and so never saw the answer.
    """
    again = extra(evidence)
    unseen = sum(
        outcome in {"lost", "late"} or (outcome == "retry" and status is None)
        for found in evidence.attempts.values()
        for _, outcome, status in found
    )
    if again > unseen:
        yield f"P5 {again} requests were repeated, {unseen} attempts saw no answer in time"
    if again > evidence.most_in_flight:
        yield f"P5 {again} requests were repeated, {evidence.most_in_flight} were in flight"


def same_bytes(evidence: Evidence) -> Iterator[str]:
    """The same event is the same body, at every attempt, to every subscription."""
    bodies: dict[UUID, set[bytes]] = defaultdict(set)
    for seen in evidence.seen:
        bodies[seen.event].add(seen.body)
    yield from _named("P5 a body changed", {id for id, found in bodies.items() if len(found) > 1})


def in_order(evidence: Evidence) -> Iterator[str]:
    """P7: of an ordered subscription, a subject's events begin in the order of their ids."""
    for to, wish in evidence.wishes.items():
        if not wish.ordered:
            continue
        last: dict[str | None, UUID] = {}
        ended: set[UUID] = set()
        for seen in sorted((s for s in evidence.seen if s.subscription == to), key=lambda s: s.at):
            subject = evidence.events.get(seen.event, ("", None, None))[2]
            if seen.event in ended:
                continue  # again, after a fault
            before = last.get(subject)
            if before is not None and before != seen.event and before not in ended:
                yield f"P7 {seen.event} began before {before} had ended"
            last[subject] = seen.event
            if seen.status is not None and 200 <= seen.status <= 299:
                ended.add(seen.event)


LINES = 40  # of a traceback that are told


def quiet_logs(evidence: Evidence) -> Iterator[str]:
    """No worker was surprised."""
    for number, line in enumerate(evidence.logs):
        if "Traceback" in line:
            told = "\n".join(evidence.logs[max(0, number - 2) : number + LINES])
            yield f"a traceback in a log:\n{told}"


def adds_up(evidence: Evidence) -> Iterator[str]:
    """The audit finds that the projections follow from the facts."""
    for finding in evidence.audited:
        yield f"audit {finding}"


def _named(what: str, ids: Iterable[object]) -> Iterator[str]:
    """Name the first few, count the others."""
    shown = sorted(ids, key=str)
    for id in shown[:3]:
        yield f"{what}: {' to '.join(map(str, id)) if isinstance(id, tuple) else id}"
    if len(shown) > 3:
        yield f"{what}: and {len(shown) - 3:,} more"
