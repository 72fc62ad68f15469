"""How subscriptions fare: failures since the last success, and what came of them of late.

Workers note failures with each record, and keep them only while there are some. A
subscription that a person resumes begins anew. A report reads the log instead, within
bounds: the newest deliveries of a subscription, and those that wait for another attempt.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, delete, func, literal_column, select, union

from .moments import moment_of
from .subscription_changes import show
from .tables import attempt, delivery, delivery_queue, subscription_health

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, Select, Subquery

SAMPLE = 5_000  # deliveries that a report looks at
MOST_OPEN = 100_000  # open ones that it counts
RECENT = 10  # attempts that it tells of
_EACH = 1_000  # attempts of one delivery
_SENT = ("delivered", "retry", "dead")
_INFINITY: ColumnElement[datetime] = literal_column("'infinity'::timestamptz")


@dataclass(frozen=True, slots=True)
class Failing:
    """Nothing but failures `since` the first of them."""

    since: datetime
    failures: int


@dataclass(frozen=True, slots=True)
class Open:
    """Open deliveries: in all, held, in flight. `more` if there are more than were counted."""

    deliveries: int
    held: int
    in_flight: int
    more: bool


@dataclass(frozen=True, slots=True)
class RecentAttempt:
    """An attempt of late."""

    delivery_id: UUID
    attempt: int
    outcome: str
    status: int | None
    duration_ms: int | None
    error: str | None
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """How a subscription fared `since` then.

    `attempts` were requests that came to something, `succeeded` those of them that were
    delivered; `p50_ms` and `p95_ms` are how long they took. `last_success` and
    `last_failure` may lie before that. `sampled` is whether there were more deliveries than
    the newest that were looked at.
    """

    since: datetime
    attempts: int
    succeeded: int
    p50_ms: int | None
    p95_ms: int | None
    last_success: datetime | None
    last_failure: datetime | None
    sampled: bool
    open: Open
    recent: tuple[RecentAttempt, ...]

    @property
    def success_rate(self) -> float | None:
        """From 0 to 1; None without attempts."""
        return self.succeeded / self.attempts if self.attempts else None


def failing(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Failing]:
    """Return those of the subscriptions `ids` whose last attempts only failed.

    Attempts at operational events are not looked at, nor are faults of the worker itself.
    """
    columns = subscription_health.c
    query = select(columns.subscription_id, columns.failing_since, columns.failures)
    found = connection.execute(query.where(columns.subscription_id.in_(list(ids))))
    return {id: Failing(since, failures) for id, since, failures in found}


def forget(connection: Connection, id: UUID) -> None:
    """Begin anew: what failed before does not count any more."""
    columns = subscription_health.c
    connection.execute(delete(subscription_health).where(columns.subscription_id == id))


def report(connection: Connection, id: UUID, *, since: datetime, sample: int = SAMPLE) -> Report:
    """Return how the subscription `id` fared since `since`, an aware time. Raises NotFound.

    It costs the same however long the log is: at most `sample` deliveries are looked at.

        health.report(connection, id, since=now - timedelta(hours=24)).success_rate
    """
    stopped = show(connection, id).state != "active"
    newest = list(connection.execute(_newest(id, sample)).scalars())
    figures: Any = connection.execute(_figures(id, since, sample)).mappings().one()
    return Report(
        since=since,
        **figures,
        sampled=len(newest) >= sample and moment_of(newest[-1]) > since,
        open=_open(connection, id, stopped),
        recent=tuple(RecentAttempt(*row) for row in connection.execute(_recent(id, sample))),
    )


def _newest(id: UUID, sample: int) -> Select[Any]:
    mine = delivery.c.subscription_id == id
    return select(delivery.c.id).where(mine).order_by(delivery.c.id.desc()).limit(sample)


def _attempts(id: UUID, sample: int) -> Subquery:
    """The attempts of the newest deliveries, and of those that come last of the open ones."""
    queued = delivery_queue.c
    waiting = (
        select(queued.delivery_id)
        .where(queued.subscription_id == id, queued.due_at < _INFINITY)
        .order_by(queued.due_at.desc())
        .limit(sample)
    )
    newest, last = _newest(id, sample).subquery(), waiting.subquery()
    looked_at = union(select(newest.c.id), select(last.c.delivery_id)).cte("looked_at")
    each = (
        select(attempt)
        .where(attempt.c.delivery_id == looked_at.c.id)
        .limit(_EACH)  # leaves the planner no other way than the key
        .lateral("each")
    )
    return select(each).select_from(looked_at).join(each, literal_column("true")).subquery()


def _figures(id: UUID, since: datetime, sample: int) -> Select[Any]:
    made = _attempts(id, sample).c
    sent = and_(made.outcome.in_(_SENT), made.recorded_at >= since)
    delivered = made.outcome == "delivered"
    failed = made.outcome.in_(("retry", "dead"))

    def percentile(part: float) -> ColumnElement[Any]:
        return func.percentile_disc(part).within_group(made.duration_ms).filter(sent)

    return select(
        func.count().filter(sent).label("attempts"),
        func.count().filter(and_(sent, delivered)).label("succeeded"),
        percentile(0.5).label("p50_ms"),
        percentile(0.95).label("p95_ms"),
        func.max(made.recorded_at).filter(delivered).label("last_success"),
        func.max(made.recorded_at).filter(failed).label("last_failure"),
    )


def _recent(id: UUID, sample: int) -> Select[Any]:
    made = _attempts(id, sample).c
    told = [made[each.name] for each in fields(RecentAttempt)]
    requests = made.outcome != "cancelled"
    return (
        select(*told)
        .where(requests)
        .order_by(made.recorded_at.desc(), made.attempt.desc())
        .limit(RECENT)
    )


def _open(connection: Connection, id: UUID, stopped: bool) -> Open:
    queued = delivery_queue.c
    rows = (
        select(queued.lease_until, queued.due_at)
        .where(queued.subscription_id == id)
        .limit(MOST_OPEN + 1)
        .subquery()
    )
    query = select(
        func.count(),
        func.count().filter(rows.c.due_at == _INFINITY),
        func.count().filter(rows.c.lease_until > func.now()),
    ).select_from(rows)
    count, later, in_flight = connection.execute(query).one()
    held = count if stopped else later
    return Open(min(count, MOST_OPEN), min(held, MOST_OPEN), in_flight, count > MOST_OPEN)
