"""The account: what the host, the database and the receivers say, side by side.

Each of the three kept its own log. Nothing is taken for granted: ids are compared with
ids, and who should have got what is worked out here from the host's log and the patterns,
not by asking the database again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from outbox.deliveries import Attempt, Delivery

    from .demo_host import Sale
    from .demo_receiver import Log

T = TypeVar("T")  # an event's id, or that and a receiver's url


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database says."""

    invoices: int
    events: Sequence[UUID]
    deliveries: Sequence[Delivery]
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Line:
    """A number from each source that has one, and whether what is behind them fits."""

    what: str
    host: int | None
    database: int | None
    receivers: int | None
    fits: bool


def settle(sales: Sequence[Sale], stored: Stored, logs: Sequence[Log]) -> list[Line]:
    """Return the lines of the account."""
    return [
        *_events(sales, stored, logs),
        *_deliveries(sales, stored, logs),
        *_requests(stored, logs),
    ]


def _events(sales: Sequence[Sale], stored: Stored, logs: Sequence[Log]) -> list[Line]:
    invoices = sum(1 for sale in sales if sale.kept)
    kept = Counter(str(id) for sale in sales for id in sale.kept)
    taken_back = {str(id) for sale in sales for id in sale.taken_back}
    there = Counter(map(str, stored.events))
    told = Counter({request.webhook_id for log in logs for request in log.requests})
    found, leaked = len(taken_back & there.keys()), len(taken_back & told.keys())
    return [
        Line("invoices committed", invoices, stored.invoices, None, invoices == stored.invoices),
        _equal("events committed", kept, there, told),
        Line("events rolled back", len(taken_back), found, leaked, found == leaked == 0),
    ]


def _deliveries(sales: Sequence[Sale], stored: Stored, logs: Sequence[Log]) -> list[Line]:
    due = Counter(
        (str(id), log.url)
        for sale in sales
        for id, type in sale.kept.items()
        for log in logs
        if log.wants(type)
    )
    made = Counter(_pair(each) for each in stored.deliveries)
    ended = Counter(_pair(each) for each in stored.deliveries if each.state == "delivered")
    told = Counter({(request.webhook_id, log.url) for log in logs for request in log.requests})
    accepted = Counter((id, log.url) for log in logs for id in log.accepted())
    return [
        _equal("deliveries, by the patterns", due, made, told),
        _equal("ended delivered", due, ended, accepted),
    ]


def _requests(stored: Stored, logs: Sequence[Log]) -> list[Line]:
    outcomes = Counter(attempt.outcome for attempt in stored.attempts)
    requests = [request for log in logs for request in log.requests]
    answers = Counter(request.status for request in requests)
    verified = sum(request.verified for request in requests)
    again = sum(request.again for request in requests)
    return [
        _same("attempts, requests", outcomes.total(), len(requests)),
        _same("  delivered, answered 204", outcomes["delivered"], answers[204]),
        _same("  retry, answered 503", outcomes["retry"], answers[503]),
        Line("signatures verified", None, None, verified, verified == len(requests)),
        Line("duplicates", None, None, again, again == 0),
    ]


def _pair(delivery: Delivery) -> tuple[str, str]:
    return str(delivery.event_id), delivery.url


def _equal(what: str, host: Counter[T], database: Counter[T], receivers: Counter[T]) -> Line:
    fits = host == database == receivers
    return Line(what, host.total(), database.total(), receivers.total(), fits)


def _same(what: str, database: int, receivers: int) -> Line:
    return Line(what, None, database, receivers, database == receivers)
