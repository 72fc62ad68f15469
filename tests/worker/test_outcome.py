"""What a reply means for its delivery: every line of the table, and what never happens."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.delivery_filter import ERROR_CLASSES
from outbox.schedule import DEFAULT_SCHEDULE
from outbox.worker import outcome
from outbox.worker.outcome import Age, Judgement, Reply, age, judge, stillborn

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)

hostile = st.text(st.characters(), max_size=40)
replies = st.builds(
    Reply,
    status=st.none() | st.integers(0, 999),
    headers=st.lists(
        st.tuples(st.sampled_from(["retry-after", "location", "x"]), hostile | st.just("60"))
    ).map(tuple),
    body=st.binary(max_size=10),
    error_class=st.none() | st.sampled_from(ERROR_CLASSES),
    error=st.none() | hostile,
)


def answer(status: int, **headers: str) -> Reply:
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply(status, pairs, b"", None, None)


def failure(error_class: str, error: str | None = None) -> Reply:
    return Reply(None, (), b"", error_class, error)


def judged(
    reply: Reply, *, failures: int = 0, schedule: tuple[float, ...] = DEFAULT_SCHEDULE
) -> Judgement:
    return judge(reply, failures=failures, schedule=schedule, now=NOW, rng=Random(1))  # noqa: S311


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(outcome).failed == 0


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_delivered(status: int) -> None:
    """A 2xx is delivered, also at the last attempt, and there is nothing to explain."""
    assert judged(answer(status), failures=9) == Judgement("delivered")


def test_2xx_with_a_broken_body_is_delivered() -> None:
    """A body that breaks off after a 2xx is noted, not punished."""
    found = judged(Reply(200, (), b"o", "truncated", "the body ended early"))

    assert found == Judgement("delivered", reason="HTTP 200, then truncated: the body ended early")


def test_410_disables() -> None:
    """A 410 ends the delivery and disables the subscription."""
    expected = Judgement("dead", disable="gone", reason="HTTP 410")

    assert judged(answer(410)) == expected
    assert judged(answer(410, retry_after="60")) == expected


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 425, 500, 501, 599, 100, 199, 999, 0])
def test_any_other_status_is_retried(status: int) -> None:
    """Every other answer is retried by the schedule, so that a wrong deploy loses nothing."""
    found = judged(answer(status), failures=1)

    assert found.outcome == "retry"
    assert found.delay == pytest.approx(300, rel=0.2)
    assert found.reason == f"HTTP {status}"
    assert (found.disable, found.throttle, found.counts) == (None, None, True)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_overload_throttles_the_subscription(status: int) -> None:
    """Signs of load with Retry-After stop the whole subscription; without, one delivery waits."""
    asked, unasked = judged(answer(status, retry_after="7")), judged(answer(status))

    assert (asked.throttle, unasked.throttle) == (7, None)
    assert unasked.delay == pytest.approx(5, rel=0.2)


@pytest.mark.parametrize(
    ("asked", "delay", "throttle"),
    [
        ("120", 120, 120),
        ("Sat, 31 Jan 2026 12:02:00 GMT", 120, 120),
        ("86400", 3600, 3600),
        ("0", 5, 0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 5, 0),
    ],
)
def test_retry_after_is_obeyed(asked: str, delay: float, throttle: float) -> None:
    """What the receiver asks for holds within bounds, for the delivery and the subscription."""
    found = judged(answer(503, retry_after=asked))

    assert found.delay == pytest.approx(delay, rel=0.2)
    assert found.throttle == throttle


def test_schedule_used_up_is_dead() -> None:
    """The last failure of a schedule ends the delivery, and still throttles the others."""
    last = judged(answer(503, retry_after="60"), failures=9)

    assert judged(answer(503), failures=8).outcome == "retry"
    assert last == Judgement("dead", throttle=60, reason="HTTP 503; the schedule is used up")
    assert judged(failure("dns"), schedule=()).outcome == "dead"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://new.example/hook", " to https://new.example/hook"),
        ("https://u:pw@new.example/x?token=1#y", " to https://new.example/x"),
        ("/a\x1b[31m\r\n\u202e\ud800b", " to /a[31mb"),
        ("https://" + "x" * 1_000, " to https://" + "x" * 192),
        ("?token=1", ""),
        ("", ""),
    ],
)
def test_3xx_is_not_followed(location: str, shown: str) -> None:
    """A redirect is retried and shows its target, without what is secret or unprintable."""
    found = judged(answer(302, location=location))

    assert found.outcome == "retry"
    assert found.reason == f"HTTP 302{shown} (redirects are not followed)"


@pytest.mark.parametrize("status", [300, 304, 308, 399])
def test_3xx_without_target(status: int) -> None:
    """Every 3xx is retried, also when it leads nowhere."""
    found = judged(answer(status))

    assert found.outcome == "retry"
    assert found.reason == f"HTTP {status} (redirects are not followed)"


FREE = {"internal", "stale"}  # held against nobody


@pytest.mark.parametrize("error_class", [c for c in ERROR_CLASSES if c not in FREE])
def test_no_answer_is_retried(error_class: str) -> None:
    """A request that brought no answer, or was not allowed, is a failure like any other."""
    found = judged(failure(error_class, "refused"), failures=1)

    assert found.outcome == "retry"
    assert found.delay == pytest.approx(300, rel=0.2)
    assert found.reason == f"{error_class}: refused"
    assert found.counts
    assert judged(failure(error_class), failures=9).outcome == "dead"


def test_own_fault_does_not_count() -> None:
    """A fault of ours is retried soon and is never a failure of the delivery."""
    found = judged(failure("internal", "the pool is full"), failures=9)

    assert (found.outcome, found.counts) == ("retry", False)
    assert found.delay == pytest.approx(5, rel=0.2)
    assert found.reason == "internal: the pool is full"


def test_a_stale_connection_does_not_count() -> None:
    """A kept connection that was closed is no failure: the next attempt is due at once."""
    found = judged(failure("stale", "closed by the receiver"), failures=9)

    assert (found.outcome, found.counts, found.delay) == ("retry", False, 0)
    assert found.reason == "stale: closed by the receiver"


def test_neither_answer_nor_reason_is_our_fault() -> None:
    """A reply that says nothing at all can only be a mistake of ours."""
    found = judged(Reply(None, (), b"", None, None), failures=9)

    assert (found.outcome, found.counts, found.reason) == ("retry", False, "internal")


@given(replies, st.integers(0, 12), st.randoms(use_true_random=False))
def test_whatever_the_reply(reply: Reply, failures: int, rng: Random) -> None:
    """Only a 2xx is delivered, only a retry has a delay, and every reason can be stored."""
    found = judge(reply, failures=failures, schedule=DEFAULT_SCHEDULE, now=NOW, rng=rng)

    is_2xx = reply.status is not None and 200 <= reply.status <= 299
    assert (found.outcome == "delivered") == is_2xx
    assert (found.outcome == "retry") == (found.delay is not None)
    assert (found.disable is not None) == (reply.status == 410)
    assert found.delay is None or found.delay > 0 or reply.error_class == "stale"
    assert found.throttle is None or found.throttle <= 3600
    assert is_2xx or found.reason
    assert (found.reason or "").isprintable()
    assert len(found.reason or "") < 300


# The maximal age.


def born(seconds_ago: float) -> str:
    """The id of a delivery that old."""
    return str(UUID(int=round((NOW.timestamp() - seconds_ago) * 1000) << 80))


def judged_at(reply: Reply, age: Age, **changes: Any) -> Judgement:
    defaults: dict[str, Any] = {"failures": 1, "schedule": DEFAULT_SCHEDULE}
    return judge(reply, now=NOW, rng=Random(1), age=age, **{**defaults, **changes})  # noqa: S311


def test_age_is_counted_from_the_id() -> None:
    """A delivery is as old as its id; without a maximal age nobody asks."""
    assert age(born(90), 3_600, now=NOW) == Age(now=90, most=3_600)
    assert age(born(90), None, now=NOW) is None


@pytest.mark.parametrize(("seconds", "dead"), [(-5, False), (59.9, False), (60, False), (61, True)])
def test_too_old_is_dead_without_a_request(seconds: float, dead: bool) -> None:
    """What is older than its maximal age is dead; a clock that is behind harms nobody."""
    found = stillborn(0, age(born(seconds), 60, now=NOW))
    expected = Judgement("dead", reason="older than its maximal age of 1m", counts=False)

    assert found == ((Reply(None, (), b"", None, None), expected) if dead else None)


def test_no_retry_after_the_maximal_age() -> None:
    """A retry that would come too late is dead at once; one in time is a retry."""
    young, old = Age(now=0, most=3_600), Age(now=3_500, most=3_600)
    reason = "HTTP 500; the next attempt would be older than its maximal age of 1h"

    assert judged_at(answer(500), young).outcome == "retry"
    assert judged_at(answer(500), old) == Judgement("dead", reason=reason)


def test_retry_after_beyond_the_maximal_age() -> None:
    """A receiver that asks for more time than is left gets no retry, but its pause."""
    found = judged_at(answer(503, retry_after="200"), Age(now=3_500, most=3_600), failures=0)

    assert (found.outcome, found.delay, found.throttle) == ("dead", None, 200)


def test_age_changes_no_end() -> None:
    """A 2xx is delivered and a 410 is gone, however old the delivery became meanwhile."""
    ancient = Age(now=9_999, most=1)

    assert judged_at(answer(200), ancient) == Judgement("delivered")
    assert judged_at(answer(410), ancient) == judged(answer(410))


def test_own_faults_end_too() -> None:
    """A delivery that lost ten attempts with their workers is dead, held against nobody."""
    found = stillborn(11, None)

    assert stillborn(10, None) is None
    assert found
    assert (found[1].outcome, found[1].counts, found[0].error_class) == ("dead", False, "internal")
