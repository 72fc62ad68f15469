"""Which lanes are claimed from, and how much: decisions about what is due."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from outbox.worker import claim
from outbox.worker.claim import GREED, Lanes, quotas

NAMES = st.sampled_from("abcdef")


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(claim).failed == 0


# Lanes.


def test_nothing_is_known() -> None:
    """At first no lane is due, and none will be."""
    lanes = Lanes()

    assert (lanes.due(1e9, 10), lanes.next_due()) == ([], None)


def test_due() -> None:
    """Lanes are due at their time, the one that waits longest first."""
    lanes = Lanes()
    for name, due in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        lanes.mark(name, due, now=0.0)

    assert lanes.next_due() == 1.0
    assert [lanes.due(now, 10) for now in (0.9, 1.0, 2.5)] == [[], ["b"], ["b", "c"]]
    assert lanes.due(9.0, 2) == ["b", "c"]


def test_an_earlier_mark_counts() -> None:
    """A lane is due at the earliest moment that is known."""
    lanes = Lanes()
    lanes.mark("a", 5.0, now=0.0)
    lanes.mark("a", 2.0, now=1.0)
    lanes.mark("a", 9.0, now=1.0)

    assert (lanes.next_due(), lanes.due(2.0, 10)) == (2.0, ["a"])


def test_exhausted_lanes_are_forgotten() -> None:
    """A lane whose end was found costs nothing more."""
    lanes = Lanes()
    lanes.mark("a", 1.0, now=1.0)
    lanes.exhausted("a", since=2.0)

    assert (lanes.due(9.0, 10), lanes.next_due()) == ([], None)


def test_a_mark_during_a_claim_stands() -> None:
    """What was marked after a claim began may have come too late for it: the lane is kept."""
    lanes = Lanes()
    lanes.mark("a", 1.0, now=1.0)
    lanes.mark("a", 3.0, now=3.0)
    lanes.exhausted("a", since=2.0)

    assert lanes.due(3.0, 10) == ["a"]


def test_lanes_take_turns() -> None:
    """A lane that was served stands behind the others that are due."""
    lanes = Lanes()
    for name in "abc":
        lanes.mark(name, 0.0, now=0.0)
    turns = []
    for now in range(1, 7):
        (name,) = lanes.due(float(now), 1)
        lanes.served(name, now=float(now))
        turns.append(name)

    assert turns == list("abcabc")


def test_a_lane_on_hold() -> None:
    """A lane whose receiver asked for a pause is not due before its end, whatever is marked."""
    lanes = Lanes()
    lanes.mark("a", 0.0, now=0.0)
    lanes.hold("a", 10.0, now=1.0)
    lanes.mark("a", 2.0, now=2.0)
    lanes.hold("a", 5.0, now=3.0)

    assert lanes.due(9.9, 10) == []
    assert lanes.next_due() == 10.0
    assert lanes.due(10.0, 10) == ["a"]

    lanes.mark("a", 11.0, now=11.0)
    lanes.served("a", now=11.0)

    assert lanes.due(11.0, 10) == ["a"]


def test_a_hold_outlives_what_was_known() -> None:
    """A lane that was exhausted and comes up again is on hold still."""
    lanes = Lanes()
    lanes.hold("a", 10.0, now=1.0)
    lanes.mark("a", 2.0, now=2.0)

    assert lanes.next_due() == 10.0


steps = st.lists(
    st.tuples(st.sampled_from(["mark", "exhausted", "served"]), NAMES, st.integers(0, 9)),
    max_size=40,
)


@given(steps)
def test_no_lane_is_lost(steps: list[tuple[str, str, int]]) -> None:
    """Whatever happens, each lane that was marked and not exhausted comes up exactly once."""
    lanes, known = Lanes(), set()
    for now, (step, name, delay) in enumerate(steps):
        if step == "mark":
            lanes.mark(name, now + delay, now=now)
            known.add(name)
        elif step == "exhausted":
            lanes.exhausted(name, since=now)
            known.discard(name)
        else:
            lanes.served(name, now=now)
    due = lanes.due(1e9, 100)

    assert sorted(due) == sorted(known)
    assert (lanes.next_due() is None) == (not known)
    assert lanes.due(1e9, 100) == due


# Quotas.


@given(
    st.lists(NAMES, unique=True), st.integers(-5, 60), st.dictionaries(NAMES, st.integers(0, 30))
)
def test_quotas_are_fair(lanes: list[str], room: int, held: dict[str, int]) -> None:
    """Room goes to those that hold least; none gets over one, or GREED times what is free."""
    given_ = quotas(lanes, room, held)
    after = {lane: held.get(lane, 0) + given_.get(lane, 0) for lane in lanes}

    free = max(0, room) - sum(given_.values())
    assert free >= 0
    assert set(given_) <= set(lanes)
    assert all(after[lane] <= max(1, GREED * free) for lane in given_)
    assert not free or all(after[lane] and after[lane] >= GREED * (free - 1) for lane in lanes)
    assert all(count > 0 for count in given_.values())
    assert all(after[lane] <= min(after.values()) + 1 for lane in given_)


def test_no_room() -> None:
    """Without room nothing is claimed."""
    assert quotas(["a", "b"], 0, {}) == {}
