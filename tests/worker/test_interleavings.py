"""Every order in which two workers and a person can come to one delivery.

A worker claims it and does something with its claim; leases run out; a person steps in.
All orders of these steps that keep the order of each are played, each on a delivery of its
own; then what is open is delivered, and everything must add up.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from outbox import audit, cancels, repairs, subscriptions
from outbox.delivery_filter import DeliveryFilter
from outbox.repairs import Done
from tests.factories import BY, subscribe

from .conftest import LEASE, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from outbox.worker.claim import Claim
    from outbox.worker.store import Store

    from .conftest import Fleet

Step = tuple[str, str]  # who, what
ENDS = ("delivered", "retry", "dead", "release", "cut")
OUTCOMES = {"delivered", "retry", "dead"}


def orders(*scripts: Sequence[Step]) -> Iterator[tuple[Step, ...]]:
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
    """One order, on a lane of its own; `claims` are what each worker has taken, oldest first."""

    fleet: Fleet
    lane: UUID
    order: tuple[Step, ...]
    claims: dict[str, list[Claim]] = field(default_factory=lambda: defaultdict(list))
    valid: str | None = None  # whose claim has neither ended nor run out
    said: list[tuple[int, str]] = field(default_factory=list)  # attempts that were recorded

    def run(self) -> None:
        for who, what in self.order:
            if who in "ab":
                self.work(who, what)
            else:
                getattr(self, what)()

    def work(self, who: str, what: str) -> None:
        store = getattr(self.fleet, who)
        if what == "claim":
            found = claimed(self.fleet, store, self.lane)
            assert not (found and self.valid), f"claimed by two at once: {self.order}"
            self.claims[who] += found
            self.valid = who if found else self.valid
        elif self.claims[who]:
            self.end(store, self.claims[who][-1], what)
            self.valid = None if self.valid == who else self.valid

    def end(self, store: Store, claim: Claim, what: str) -> None:
        if what in OUTCOMES:
            self.fleet.record(store, result(claim, what, limited=claim.limited))
            self.said.append((claim.attempt, what))
        else:
            self.fleet.run(store.release([claim], cut=what == "cut"))

    # Time, and people.

    def expire(self) -> None:
        for table in ("delivery_queue", "limited_claim"):
            self.fleet.execute(
                f"UPDATE outbox.{table} SET lease_until = now() - interval '1 ms'"  # noqa: S608
                f" WHERE subscription_id = '{self.lane}' AND lease_until IS NOT NULL"
            )
        self.valid = None

    def cancel(self) -> None:
        self._repair(cancels.plan_cancel, cancels.cancel_some)
        self.valid = None

    def retry(self) -> None:
        self._repair(repairs.plan_retry, repairs.retry_some)

    def remove(self) -> None:
        with self.fleet.database.engine.begin() as connection:
            subscriptions.remove(connection, self.lane, by=BY)
        self.valid = None

    def _repair(self, plan: Callable[..., Any], some: Callable[..., Done]) -> None:
        with self.fleet.database.engine.begin() as connection:
            planned = plan(connection, DeliveryFilter(subscription_id=self.lane))
            some(connection, planned, Done(), by=BY)


def claimed(fleet: Fleet, store: Store, lane: UUID) -> list[Claim]:
    plain = fleet.claim(store, lane)
    return plain or fleet.run(store.claim_limited({str(lane): 9}, LEASE)).claims


def play(fleet: Fleet, all_orders: Sequence[tuple[Step, ...]], **options: Any) -> None:
    """Play each order on a fresh delivery, deliver what is left, and check them all."""
    with fleet.database.engine.begin() as connection:
        others = [each.id for each in subscriptions.list_subscriptions(connection)]
        for id in others:
            subscriptions.remove(connection, id, by=BY)
        lanes = [subscribe(connection, **options).id for _ in all_orders]
    fleet.emit(subject="s")
    fleet.fan_out()
    plays = [Play(fleet, *each) for each in zip(lanes, all_orders, strict=True)]
    for each in plays:
        each.run()
    finish(fleet, plays)
    check(fleet, plays)


def finish(fleet: Fleet, plays: Sequence[Play]) -> None:
    """Whatever is open arrives with the next attempt: nothing is stuck."""
    for table in ("delivery_queue", "limited_claim"):
        fleet.execute(f"UPDATE outbox.{table} SET lease_until = now() - interval '1 ms'"  # noqa: S608
                      " WHERE lease_until IS NOT NULL")  # fmt: skip
    quotas = {str(each.lane): 9 for each in plays}
    claims = fleet.run(fleet.b.claim(quotas, LEASE))
    claims += fleet.run(fleet.b.claim_limited(quotas, LEASE)).claims
    if claims:
        fleet.record(fleet.b, *(result(each, limited=each.limited) for each in claims))
    assert fleet.queue() == []


def check(fleet: Fleet, plays: Sequence[Play]) -> None:
    """Each ended once, its attempts have no gap, and what was recorded is on record."""
    stories: dict[UUID, dict[UUID, list[tuple[int, str]]]] = defaultdict(lambda: defaultdict(list))
    for lane, id, number, outcome in fleet.rows(STORIES):
        stories[lane][id].append((number, outcome))
    for each in plays:
        for story in stories[each.lane].values():
            ends = [o for _, o in story if o in {"delivered", "dead", "cancelled"}]
            numbers = {number for number, outcome in story if outcome != "cancelled"}
            assert len(ends) == 1, (each.order, story)
            assert numbers == set(range(1, len(numbers) + 1)), (each.order, story)
        told = [entry for story in stories[each.lane].values() for entry in story]
        for number, outcome in each.said:
            assert (number, outcome) in told or (number, "late") in told, (each.order, told)
    assert fleet.value("SELECT count(*) FROM outbox.limited_claim") == 0
    report = audit.run(fleet.database.engine, audit.plan(fleet.database.engine))
    assert {name: n for name, n in report.found.items() if name != "facts_changed"} == {}


STORIES = """
SELECT d.subscription_id, d.id, a.attempt, a.outcome
FROM outbox.delivery d JOIN outbox.attempt a ON a.delivery_id = d.id
"""


def worker(name: str, *steps: str) -> list[Step]:
    return [(name, "claim"), *((name, step) for step in steps)]


LANES: dict[str, dict[str, Any]] = {"plain": {}, "limited": {"ordered": "skip", "rate": 1e5}}
PEOPLE = (None, "cancel", "retry", "remove")


def with_a_person(what: str | None) -> list[tuple[Step, ...]]:
    """All orders of two workers, whatever each does with its claim, a lease that runs out at
    any moment, and what a person does.
    """
    others = [[("time", "expire")], [("person", what)] if what else []]
    return [
        order
        for ends in combinations_with_replacement(ENDS, 2)
        for order in orders(worker("a", ends[0]), worker("b", ends[1]), *others)
    ]


@pytest.mark.parametrize("lane", LANES)
def test_some_orders(fleet: Fleet, lane: str) -> None:
    """Of every kind some, drawn with a seed."""
    rng = Random(7)  # noqa: S311 - chance, not secrets
    play(fleet, [o for what in PEOPLE for o in rng.sample(with_a_person(what), 10)], **LANES[lane])


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("part", range(27))
@pytest.mark.parametrize("what", PEOPLE)
def test_all_orders(fleet: Fleet, what: str | None, part: int, lane: str) -> None:
    """All there are, in parts."""
    play(fleet, with_a_person(what)[part::27], **LANES[lane])


def test_how_many_orders() -> None:
    """Nothing is left out: 15 pairs of ends, 30 orders without a person and 180 with one."""
    assert [len(set(with_a_person(what))) for what in PEOPLE] == [450, 2700, 2700, 2700]
