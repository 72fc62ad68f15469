"""The account after a run: what the database says against what the receiver saw.

The receiver's requests are the history. Each has the event's id and the number of its
attempt, so every one of them can be looked up among the attempts on record.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from outbox import audit
from tests.factories import rows, value
from tests.helpers import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Engine

    from tests.receiver import Receiver, Request

Sent = tuple[str, int]  # an event's id and the number of the attempt


@dataclass(frozen=True)
class Account:
    """`requests` by event and attempt; `outcomes` of the attempts on record."""

    requests: dict[Sent, Request]
    outcomes: dict[Sent, list[str]]
    states: Counter[str]

    @property
    def lost(self) -> set[Sent]:
        """The attempts whose worker was gone before it recorded an answer."""
        return {sent for sent, outcomes in self.outcomes.items() if "lost" in outcomes}

    @property
    def repeated(self) -> int:
        """How many requests there were more than events that arrived."""
        return len(self.requests) - len({id for id, _ in self.requests})


def wait_until_done(engine: Engine, timeout: float = 60.0) -> None:
    """Wait until nothing is open."""
    with engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        eventually(lambda: value(autocommit, _IS_DONE), timeout)


def account(engine: Engine, receiver: Receiver) -> Account:
    """Draw up the account of a run with one subscription; what is never allowed fails here."""
    with engine.connect() as connection:
        attempts = [
            ((str(id), number), outcome) for id, number, outcome in rows(connection, _ATTEMPTS)
        ]
        states = Counter(state for (state,) in rows(connection, _STATES))
    outcomes = defaultdict(list)
    for sent, outcome in attempts:
        outcomes[sent].append(outcome)
    requests = by_attempt(receiver.requests)

    _check_requests(receiver.requests)
    _check_numbers(outcomes)
    assert requests.keys() <= outcomes.keys(), "a request has no attempt on record"
    assert differing(engine) == {}
    return Account(requests, dict(outcomes), states)


def differing(engine: Engine) -> dict[str, int]:
    """What an audit finds, but for rows that were deleted after other tests."""
    report = audit.run(engine, audit.plan(engine))
    return {name: count for name, count in report.found.items() if name != "facts_changed"}


def by_attempt(requests: Iterable[Request]) -> dict[Sent, Request]:
    """Requests by event and attempt; none came twice under one number."""
    found = [((r.header("webhook-id"), int(r.header("webhook-attempt"))), r) for r in requests]
    twice = [sent for sent, count in Counter(sent for sent, _ in found).items() if count > 1]
    assert twice == []
    return dict(found)


def _check_requests(requests: list[Request]) -> None:
    """The same id is the same body, and its timestamps never fall."""
    last: dict[str, Request] = {}
    for request in sorted(requests, key=lambda r: r.arrived):
        before = last.setdefault(request.header("webhook-id"), request)
        assert before.body == request.body
        last[request.header("webhook-id")] = request


def _check_numbers(outcomes: dict[Sent, list[str]]) -> None:
    """The attempts of a delivery are numbered from 1, without a gap; at most one ends it."""
    numbers: dict[str, list[int]] = defaultdict(list)
    ends: Counter[str] = Counter()
    for (id, number), found in outcomes.items():
        numbers[id].append(number)
        ends[id] += sum(outcome in {"delivered", "dead", "cancelled"} for outcome in found)
    assert all(sorted(found) == [*range(1, len(found) + 1)] for found in numbers.values())
    assert set(ends.values()) <= {0, 1}


_IS_DONE = """
SELECT NOT EXISTS (SELECT FROM outbox.event_queue)
    AND NOT EXISTS (SELECT FROM outbox.delivery_queue)
"""
_ATTEMPTS = """
SELECT d.event_id, a.attempt, a.outcome FROM outbox.attempt a
JOIN outbox.delivery d ON d.id = a.delivery_id
"""
_STATES = """
SELECT coalesce(
    (SELECT 'pending' FROM outbox.delivery_queue q WHERE q.delivery_id = d.id),
    (SELECT outcome FROM outbox.attempt a WHERE a.delivery_id = d.id
     AND outcome IN ('delivered', 'dead', 'cancelled')))
FROM outbox.delivery d
"""
