"""How databases share the slots of a process: bounds, fairness, and who is told of room."""

from __future__ import annotations

import doctest
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from outbox.worker import shares
from outbox.worker.claim import quotas
from outbox.worker.shares import Share, Shares, fair


def joined(size: int, count: int) -> list[Share]:
    all = Shares(size)
    return [all.join() for _ in range(count)]


def fill(share: Share) -> int:
    """Begin as many as there is room for."""
    room = share.room(10_000)
    share.began(room)
    return room


def test_examples() -> None:
    """What the docstrings show is so."""
    assert doctest.testmod(shares).failed == 0


@given(st.integers(0, 200), st.integers(0, 200))
def test_fair_is_what_a_lane_gets(free: int, count: int) -> None:
    """Databases share slots by the rule by which lanes do."""
    assert fair(free, count) == quotas(["a"], free, {"a": count}).get("a", 0)


# One database alone.


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 100))
def test_alone(size: int, in_flight: int, unrecorded: int) -> None:
    """It has all slots, and owes no more than twice as many requests."""
    (share,) = joined(size, 1)
    share.began(in_flight)
    share.unrecorded = unrecorded

    assert share.room(1) == max(0, min(size - in_flight, 2 * size - in_flight - unrecorded))


# Several.


def test_an_idle_one_leaves_its_share() -> None:
    """One that is busy alone has four fifths; who comes late finds room at once."""
    busy, idle = joined(100, 2)

    assert fill(busy) == 80
    assert fill(idle) == 16


def test_busy_ones_come_to_have_the_same() -> None:
    """However much the first had taken, with each end the other comes nearer."""
    first, second = joined(100, 2)
    for share in (first, second):
        share.wake = partial(fill, share)
    fill(first)
    fill(second)
    for _ in range(200):
        share = max((first, second), key=lambda each: each.in_flight)
        share.ended()
        fill(share)

    assert abs(first.in_flight - second.in_flight) <= 1
    assert 85 <= first.in_flight + second.in_flight <= 100


def test_room_is_told_of() -> None:
    """Who found too little hears of a free slot before its owner takes it again; others do not."""
    first, second = joined(10, 2)
    woken: list[int] = []
    second.wake = lambda: woken.append(fill(second))
    fill(first)
    fill(second)
    first.ended()

    assert woken == [1]
    assert (first.room(1), second.in_flight) == (0, 2)

    second.room(0)
    first.ended()
    assert woken == [1]


def test_a_database_that_is_away() -> None:
    """It cannot record and keeps what it owes; the other has at least its equal part."""
    away, other = joined(100, 2)
    while room := away.room(1):  # its requests end, nothing is recorded
        away.began(room)
        for _ in range(room):
            away.answered()
            away.ended()
    owed = 0
    while room := other.room(1):
        other.began(room)
        owed += room
        for _ in range(room):
            other.answered()
            other.ended()

    assert (away.owed, owed) == (150, 50)
    away.recorded(150)
    other.recorded(50)
    assert other.room(1) == 80


Steps = st.lists(
    st.tuples(st.sampled_from(["begin", "answer", "end", "record"]), st.integers(0, 3)),
    max_size=200,
)


@given(st.integers(4, 20), Steps)
def test_bounds(size: int, steps: list[tuple[str, int]]) -> None:
    """Whatever happens: no more in flight than slots, no more owed than twice as many.

    And each database may send one at least, if it owes less than its part.
    """
    all = joined(size, 4)
    for step, place in steps:
        share = all[place]
        if step == "begin":
            share.began(share.room(1))
        elif step == "end" and share.in_flight:
            share.ended()
        elif step == "answer" and share.in_flight:
            share.ended()
            share.answered()
        elif step == "record" and share.unrecorded:
            share.recorded(1)

        assert sum(each.in_flight for each in all) <= size
        assert sum(each.owed for each in all) <= 2 * size
        for each in all:
            assert each.in_flight or each.owed >= size // 4 or each.room(1) > 0


@given(st.integers(4, 20), Steps)
def test_nobody_waits_beside_room(size: int, steps: list[tuple[str, int]]) -> None:
    """All that want more and are woken use what there is: in the end nobody could begin more."""
    all = joined(size, 4)
    for share in all:
        share.wake = partial(fill, share)
        fill(share)
    for step, place in steps:
        share = all[place]
        if step in {"end", "answer"} and share.in_flight:
            share.ended()
            fill(share)

    assert not [share for share in all if share.room(1)]
