"""Every order in which two workers and a person can come to one delivery.

A worker claims it and does something with its claim; leases run out; a person steps in.
All orders of these steps that keep the order of each are played, each on a delivery of its
own and many side by side; then what is open is delivered, and everything must add up.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from outbox import audit, cancels, repairs, subscriptions
from outbox.delivery_filter import DeliveryFilter
from outbox.repairs import Done
from tests.factories import BY, subscribe

from .conftest import LEASE, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from outbox.worker.claim import Claim
    from outbox.worker.store import Store

    from .conftest import Fleet

Step = tuple[str, str]  # who, what
Order = tuple[Step, ...]
ENDS = ("delivered", "retry", "dead", "release", "cut")
OUTCOMES = {"delivered", "retry", "dead"}


def orders(*scripts: Sequence[Step]) -> Iterator[Order]:
    """All ways to mix scripts, each in its own order.

    >>> len([*orders([("a", "claim"), ("a", "dead")], [("b", "claim")])])
    3
    """
    left = [script for script in scripts if script]
    if not left:
        yield ()
    for number, (first, *rest) in enumerate(left):
        for order in orders(*left[:number], rest, *left[number + 1 :]):
            yield first, *order


def test_orders() -> None:
    """As many as there are ways to draw the steps: (n + m)! / (n! m!)."""
    a, b = [("a", "1"), ("a", "2")], [("b", "1"), ("b", "2")]

    assert sorted(orders(a, [("b", "x")])) == sorted(
        [(*a, ("b", "x")), (a[0], ("b", "x"), a[1]), (("b", "x"), *a)]
    )
    assert len(set(orders(a, b, [("time", "expire")]))) == 30
    assert list(orders()) == [()]


@dataclass
class Play:
    """One order, on the delivery of `event` to a lane of its own.

    `claims` are what each worker has taken, oldest first.
    """

    lane: str
    event: UUID
    order: Order
    claims: dict[str, list[Claim]] = field(default_factory=lambda: defaultdict(list))
    valid: str | None = None  # whose claim has neither ended nor run out
    said: list[tuple[int, str]] = field(default_factory=list)  # attempts that were recorded

    def take(self, who: str, found: Sequence[Claim]) -> None:
        assert not (found and self.valid), f"claimed by two at once: {self.order}"
        self.claims[who] += found
        self.valid = who if found else self.valid

    def lose(self, who: str) -> None:
        self.valid = None if self.valid == who else self.valid


@dataclass
class Stage:
    """Plays side by side: the first step of them all, then the second, and so on.

    Plays whose next step is the same take it together, as a worker does with many lanes.
    """

    fleet: Fleet
    plays: Sequence[Play]

    def run(self) -> None:
        for number in range(max(len(each.order) for each in self.plays)):
            together: dict[Step, list[Play]] = defaultdict(list)
            for each in self.plays:
                for step in each.order[number : number + 1]:
                    together[step].append(each)
            for (who, what), plays in together.items():
                self.step(who, what, plays)

    def step(self, who: str, what: str, plays: Sequence[Play]) -> None:
        if what == "claim":
            self.claim(who, plays)
        elif who in "ab":
            self.end(who, what, [each for each in plays if each.claims[who]])
        elif what == "expire":
            expire(self.fleet, plays)
        elif what == "remove":
            self.remove(plays)
        else:
            self.repair(what, {each.event for each in plays})
        if what in {"expire", "cancel", "remove"}:
            for each in plays:
                each.valid = None

    # Workers.

    def claim(self, who: str, plays: Sequence[Play]) -> None:
        found: dict[str, list[Claim]] = defaultdict(list)
        for claim in claimed(self.fleet, getattr(self.fleet, who), plays):
            found[claim.subscription_id].append(claim)
        for each in plays:
            each.take(who, found[each.lane])

    def end(self, who: str, what: str, plays: Sequence[Play]) -> None:
        store, claims = getattr(self.fleet, who), [each.claims[who][-1] for each in plays]
        if claims and what in OUTCOMES:
            self.fleet.record(store, *(result(c, what, limited=c.limited) for c in claims))
        elif claims:
            self.fleet.run(store.release(claims, cut=what == "cut"))
        for each, claim in zip(plays, claims, strict=True):
            each.said += [(claim.attempt, what)] if what in OUTCOMES else []
            each.lose(who)

    # People.

    def repair(self, what: str, events: set[UUID]) -> None:
        (event_id,) = events  # by which a person says which deliveries
        plan, some = REPAIRS[what]
        with self.fleet.database.engine.begin() as connection:
            planned, done = plan(connection, DeliveryFilter(event_id=event_id)), Done()
            while not done.finished:
                done = some(connection, planned, done, by=BY)

    def remove(self, plays: Sequence[Play]) -> None:
        with self.fleet.database.engine.begin() as connection:
            for each in plays:
                subscriptions.remove(connection, UUID(each.lane), by=BY)


REPAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Done]]] = {
    "cancel": (cancels.plan_cancel, cancels.cancel_some),
    "retry": (repairs.plan_retry, repairs.retry_some),
}


def claimed(fleet: Fleet, store: Store, plays: Sequence[Play]) -> list[Claim]:
    quotas = {each.lane: 9 for each in plays}
    plain = fleet.run(store.claim(quotas, LEASE))
    return plain + fleet.run(store.claim_limited(quotas, LEASE)).claims


def expire(fleet: Fleet, plays: Sequence[Play]) -> None:
    """As if their leases had run out a moment ago."""
    lanes = ", ".join(f"'{each.lane}'" for each in plays)
    for table in ("delivery_queue", "limited_claim"):
        fleet.execute(
            f"UPDATE outbox.{table} SET lease_until = now() - interval '1 ms'"  # noqa: S608
            f" WHERE subscription_id IN ({lanes}) AND lease_until IS NOT NULL"
        )


def play(fleet: Fleet, acts: Iterable[Sequence[Order]], **options: Any) -> None:
    """Play the orders of each act, every one on a fresh delivery; deliver what is left; check.

    Lanes are used again in the next act, if nobody removed them: to add one is dear.
    """
    free: dict[str, list[str]] = defaultdict(list)
    for act in acts:
        types = [type_of(order) for order in act]
        with fleet.database.engine.begin() as connection:
            lanes = [
                free[each].pop()
                if free[each]
                else str(subscribe(connection, types=[each], **options).id)
                for each in types
            ]
        events = {each: fleet.emit(type=each, subject="s")[0] for each in sorted(set(types))}
        fleet.fan_out()
        plays = [
            Play(lane, events[each], order)
            for lane, each, order in zip(lanes, types, act, strict=True)
        ]
        Stage(fleet, plays).run()
        finish(fleet, plays)
        check(fleet, plays)
        for lane, each in zip(lanes, types, strict=True):
            free[each] += [] if each.startswith("remove") else [lane]
    assert_it_adds_up(fleet)


def type_of(order: Order) -> str:
    """The type of its event: what a person does, and when.

    >>> type_of((("a", "claim"), ("person", "cancel")))
    'cancel.1'
    """
    acts = [f"{what}.{number}" for number, (who, what) in enumerate(order) if who == "person"]
    return acts[0] if acts else "none"


def finish(fleet: Fleet, plays: Sequence[Play]) -> None:
    """Whatever is open arrives with the next attempt: nothing is stuck."""
    expire(fleet, plays)
    claims = claimed(fleet, fleet.b, plays)
    if claims:
        fleet.record(fleet.b, *(result(each, limited=each.limited) for each in claims))
    assert fleet.queue() == []


def check(fleet: Fleet, plays: Sequence[Play]) -> None:
    """Each ended once, its attempts have no gap, and what was recorded is on record."""
    stories: dict[str, dict[UUID, list[tuple[int, str]]]] = defaultdict(lambda: defaultdict(list))
    for lane, id, number, outcome in fleet.rows(STORIES, events=[each.event for each in plays]):
        stories[lane][id].append((number, outcome))
    for each in plays:
        for story in stories[each.lane].values():
            ends = [o for _, o in story if o in {"delivered", "dead", "cancelled"}]
            numbers = {number for number, outcome in story if outcome != "cancelled"}
            assert len(ends) == 1, (each.order, story)
            assert numbers == set(range(1, len(numbers) + 1)), (each.order, story)
        told = [entry for story in stories[each.lane].values() for entry in story]
        assert told, each.order
        for number, outcome in each.said:
            assert (number, outcome) in told or (number, "late") in told, (each.order, told)


def assert_it_adds_up(fleet: Fleet) -> None:
    assert fleet.value("SELECT count(*) FROM outbox.limited_claim") == 0
    report = audit.run(fleet.database.engine, audit.plan(fleet.database.engine))
    assert {name: n for name, n in report.found.items() if name != "facts_changed"} == {}


STORIES = """
SELECT d.subscription_id::text, d.id, a.attempt, a.outcome
FROM outbox.delivery d JOIN outbox.attempt a ON a.delivery_id = d.id
WHERE d.event_id = ANY (:events)
"""


def worker(name: str, *steps: str) -> list[Step]:
    return [(name, "claim"), *((name, step) for step in steps)]


LANES: dict[str, dict[str, Any]] = {"plain": {}, "limited": {"ordered": "skip", "rate": 1e5}}
PEOPLE = (None, "cancel", "retry", "remove")
PAIRS = [*combinations_with_replacement(ENDS, 2)]  # the workers are alike: who is who says nothing


def with_a_person(what: str | None, ends: tuple[str, str]) -> list[Order]:
    """All orders of two workers that end their claims so, a lease that runs out at any moment,
    and what a person does.
    """
    others = [[("time", "expire")], [("person", what)] if what else []]
    return [*orders(worker("a", ends[0]), worker("b", ends[1]), *others)]


@pytest.mark.parametrize("lane", LANES)
def test_some_orders(fleet: Fleet, lane: str) -> None:
    """Of every kind some, drawn with a seed."""
    rng = Random(7)  # noqa: S311 - chance, not secrets
    kinds = [[o for ends in PAIRS for o in with_a_person(what, ends)] for what in PEOPLE]
    play(fleet, [[order for kind in kinds for order in rng.sample(kind, 10)]], **LANES[lane])


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("what", PEOPLE)
def test_all_orders(fleet: Fleet, what: str | None, lane: str) -> None:
    """All there are."""
    play(fleet, [with_a_person(what, ends) for ends in PAIRS], **LANES[lane])


def test_how_many_orders() -> None:
    """Nothing is left out: 15 pairs of ends, each in 30 orders without a person, 180 with one."""
    assert len(PAIRS) == 15
    for what, number in zip(PEOPLE, [30, 180, 180, 180], strict=True):
        assert [len(set(with_a_person(what, ends))) for ends in PAIRS] == [number] * 15
