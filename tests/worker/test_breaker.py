"""What a receiver may have in flight: more with each answer, when it is down a probe."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.worker.breaker import FAILURES, FIRST_WINDOW, LONGEST_PAUSE, Breaker, hurts
from outbox.worker.deliver import Deliverer
from outbox.worker.outcome import Age, Judgement, Reply, stillborn
from outbox.worker.settings import Settings


def reply(status: int | None, error_class: str | None = None) -> Reply:
    return Reply(status, (), b"", error_class, None)


def fail(breaker: Breaker, times: int, *, began: float = 0.0, now: float = 1.0) -> list[float]:
    return [breaker.failed("a", began=began, now=now) for _ in range(times)]


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 410, 500, 501])
def test_who_answers_is_there(status: int) -> None:
    """An answer that judges one event says nothing about the next."""
    assert not hurts(reply(status))


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_who_has_too_much_to_do(status: int) -> None:
    """These say that the receiver has too much to do."""
    assert hurts(reply(status))


@pytest.mark.parametrize("error_class", ["dns", "connect", "tls", "timeout", "reset", "blocked"])
def test_who_does_not_answer(error_class: str) -> None:
    """No answer is a receiver that is down; a fault of ours is not."""
    assert hurts(reply(None, error_class))
    assert not hurts(reply(None, "internal"))


def test_slow_start() -> None:
    """A receiver that nothing is known of gets few requests at once, and more as it answers."""
    breaker = Breaker()
    for _ in range(100):
        breaker.answered("a")

    assert (breaker.window("a"), breaker.window("b")) == (FIRST_WINDOW + 100, FIRST_WINDOW)


def test_failures_halve_the_window() -> None:
    """Each failure takes half of it, down to one request at a time."""
    breaker = Breaker()
    windows = []
    for _ in range(4):
        fail(breaker, 1)
        windows.append(breaker.window("a"))

    assert windows == [4, 2, 1, 1]


def test_it_opens() -> None:
    """After a few failures in a row the lane is left alone; each failed probe doubles that."""
    breaker = Breaker()

    assert fail(breaker, FAILURES) == [0.0] * (FAILURES - 1) + [1.0]
    assert [fail(breaker, 1, began=n, now=n) for n in (2.0, 5.0, 9.0)] == [[2.0], [4.0], [8.0]]
    assert breaker.window("a") == 1


def test_requests_that_fail_together_open_it_once() -> None:
    """Those that were in flight when it opened say nothing new."""
    breaker = Breaker()

    assert sum(fail(breaker, 80, began=0.0, now=20.0)) == 1.0


def test_an_answer_closes_it() -> None:
    """One answer, and failures count from the beginning."""
    breaker = Breaker()
    fail(breaker, 20, began=2.0, now=1.0)
    breaker.answered("a")

    assert breaker.window("a") == 2
    assert fail(breaker, FAILURES - 1, began=9.0, now=9.0) == [0.0] * (FAILURES - 1)


def test_lanes_are_apart() -> None:
    """What one receiver does is nothing to another."""
    breaker = Breaker()
    fail(breaker, 20)

    assert breaker.window("b") == FIRST_WINDOW


@given(st.lists(st.booleans(), max_size=60))
def test_it_stays_within_bounds(answers: list[bool]) -> None:
    """There is always a request left to try, and the pause has an end."""
    breaker = Breaker()
    for now, answered in enumerate(answers):
        pause = 0.0
        if answered:
            breaker.answered("a")
        else:
            pause = breaker.failed("a", began=now, now=now)
        assert breaker.window("a") >= 1
        assert 0 <= pause <= LONGEST_PAUSE


def test_what_was_not_sent_says_nothing() -> None:
    """A delivery that is dead without a request neither closes a breaker nor opens it."""
    nothing = cast("Any", None)
    deliverer = Deliverer(nothing, nothing, Settings(database_url="-"))
    down = reply(None, "connect"), Judgement("retry", delay=5.0)
    unsent = stillborn(0, Age(now=7.0, most=5.0))
    assert unsent
    pauses = [deliverer._pause_of("a", *each, 0.0) for each in [*[down] * FAILURES, unsent]]

    assert [pause > 0 for pause in pauses] == [False] * (FAILURES - 1) + [True, False]
    assert deliverer._breaker.window("a") == 1
