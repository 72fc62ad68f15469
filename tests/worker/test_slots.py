"""Which claims run and which wait: no slot idles, no lane takes them all, nothing is lost."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from outbox.worker.claim import Claim
from outbox.worker.slots import AHEAD, Slots


def claims(lane: str, count: int) -> list[Claim]:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Claim(f"{lane}{n}", lane, "e", 1, 0, 1, False, "t", None, None, None, "{}", moment, None)
        for n in range(count)
    ]


def names(found: list[Claim]) -> list[str]:
    return [claim.delivery_id for claim in found]


def test_in_turn() -> None:
    """The claims of a lane start in the order in which they came."""
    slots = Slots(5)
    slots.add(claims("a", 6), until=1.0)

    assert names(slots.start(0.0)) == ["a0", "a1", "a2", "a3"]
    assert slots.start(0.0) == []

    slots.finished("a")

    assert names(slots.start(0.0)) == ["a4"]
    assert slots.held == {"a": 5}


def test_the_last_slot_is_for_another() -> None:
    """However much waits for one receiver, another one's claim starts at once."""
    slots = Slots(4)
    slots.add(claims("a", 7), until=1.0)
    slots.start(0.0)
    slots.add(claims("b", 1), until=1.0)

    assert names(slots.start(0.0)) == ["b0"]


def test_a_single_slot() -> None:
    """One slot is used, by whoever comes first."""
    slots = Slots(1)
    slots.add(claims("a", 2), until=1.0)

    assert names(slots.start(0.0)) == ["a0"]
    assert slots.room == 0


def test_late() -> None:
    """What waited too long is handed back, and its room is free again."""
    slots = Slots(2)
    slots.add(claims("a", 2), until=1.0)
    slots.start(0.0)
    slots.add(claims("b", 1), until=5.0)

    assert names(slots.late(1.0)) == []
    assert names(slots.late(1.1)) == ["a1"]
    assert slots.held == {"a": 1, "b": 1}
    assert slots.room == 2


def test_late_while_nobody_looks() -> None:
    """A claim that waited too long does not start, though nobody handed it back in time."""
    slots = Slots(2)
    slots.add(claims("a", 1), until=1.0)
    slots.add(claims("b", 1), until=5.0)

    assert names(slots.start(1.1)) == ["b0"]
    assert names(slots.late(1.1)) == ["a0"]
    assert slots.start(1.1) == []


def test_drop() -> None:
    """What waits is handed back, of some lanes or of all; what runs stays."""
    slots = Slots(3)
    for lane in "abc":
        slots.add(claims(lane, 2), until=1.0)
    slots.start(0.0)

    assert names(slots.drop(["b", "unknown"])) == ["b1"]
    assert names(slots.drop()) == ["a1", "c1"]
    assert slots.held == {"a": 1, "b": 1, "c": 1}


@given(
    st.integers(1, 9),
    st.lists(
        st.tuples(
            st.sampled_from(["add", "start", "finish", "late", "drop"]), st.sampled_from("abc")
        ),
        max_size=60,
    ),
)
def test_every_claim_is_somewhere(size: int, steps: list[tuple[str, str]]) -> None:
    """Claims wait, run, or left; the counts always say how many."""
    slots, running, left = Slots(size), Counter[str](), 0
    added = 0
    for now, (step, lane) in enumerate(steps):
        if step == "add" and slots.room >= 2:
            slots.add(claims(lane, 2), until=now + 4)
            added += 2
        elif step == "start":
            running.update(claim.subscription_id for claim in slots.start(0.0))
        elif step == "finish" and running[lane]:
            slots.finished(lane)
            running[lane] -= 1
            left += 1
        elif step == "late":
            left += len(slots.late(now))
        elif step == "drop":
            left += len(slots.drop([lane]))

    assert running.total() <= size
    assert slots.held.total() == added - left
    assert slots.room == AHEAD * size - (added - left)
    assert slots.held.total() - running.total() == len(slots.drop())
    assert slots.held == +running
