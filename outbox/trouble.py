"""What an operator has to know of: failing and stopped subscriptions, replays that run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, true, union_all

from .backlog import INFINITY, Count
from .tables import (
    attempt,
    blocked_subject,
    delivery,
    delivery_queue,
    replay,
    subscription,
    subscription_change,
    subscription_health,
)
from .traffic import BOUND, ago

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import CTE, Connection, FromClause, ScalarSelect

SHOWN = 20  # of each kind, the worst
LOOKED_AT = 25  # deliveries of each kind in which the last error is looked for
LATELY = 90.0  # seconds in which the worker probes a receiver that is down at least once
FAILURES = 5_000  # of all subscriptions, in that time


@dataclass(frozen=True, slots=True)
class Failing:
    """An active subscription with nothing but failures `since` the first of them.

    `status`, `error_class` and `error` are those of its last attempt, None if none is found.
    """

    id: UUID
    url: str
    since: datetime
    failures: int
    status: int | None
    error_class: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Held:
    """A subscription whose deliveries are held: `state` is paused, disabled or blocked.

    A blocked one is active, but `subjects` of it stand still behind a dead delivery.
    `deliveries` are those held because it is stopped, None for a blocked one.
    """

    id: UUID
    url: str
    state: str
    reason: str | None
    since: datetime
    deliveries: Count | None
    subjects: int


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay that runs: `made` of about `counted` deliveries; `moved_at` it last made one."""

    id: UUID
    mode: str
    made: int
    counted: int
    rate: float | None
    created_at: datetime
    moved_at: datetime


@dataclass(frozen=True, slots=True)
class Trouble:
    """At most `SHOWN` of each, the worst first, and how many there are in all."""

    failing: tuple[Failing, ...]
    failing_total: int
    held: tuple[Held, ...]
    held_total: int
    replays: tuple[Replay, ...]


def look(connection: Connection, held: Mapping[UUID, Count]) -> Trouble:
    """Return what is wrong; `held` is how many deliveries the stopped subscriptions hold."""
    failing, failing_total = _failing(connection)
    stopped, stopped_total = _stopped(connection, held)
    blocked, blocked_total = _blocked(connection)
    return Trouble(
        failing=failing,
        failing_total=failing_total,
        held=(*blocked, *stopped)[:SHOWN],
        held_total=blocked_total + stopped_total,
        replays=_replays(connection),
    )


def _failing(connection: Connection) -> tuple[tuple[Failing, ...], int]:
    columns = subscription_health.c
    worst = (
        select(
            columns.subscription_id,
            subscription.c.url,
            columns.failing_since,
            columns.failures,
            func.count().over().label("total"),
        )
        .join(subscription, subscription.c.id == columns.subscription_id)
        .where(subscription.c.state == "active")
        .order_by(columns.failing_since, columns.subscription_id)
        .limit(SHOWN)
        .subquery("worst")
    )
    last = _last_attempt(worst)
    query = (
        select(worst.c.total, *list(worst.c)[:4], last.c.status, last.c.error_class, last.c.error)
        .join(last, true(), isouter=True)
        .order_by(worst.c.failing_since, worst.c.subscription_id)
    )
    rows: Sequence[Any] = connection.execute(query).all()
    return tuple(Failing(*row[1:]) for row in rows), rows[0].total if rows else 0


def _last_attempt(worst: FromClause) -> FromClause:
    """The last attempt of a subscription, as far as the likeliest of its deliveries tell.

    Those that failed just now; the last of its lane, since what failed is due later than
    what was not tried yet; if nothing is open any more, the newest of all.
    """
    id, queue, lately = worst.c.subscription_id, delivery_queue.c, _failed_lately()
    last_due = (
        select(queue.delivery_id)
        .where(queue.subscription_id == id, queue.due_at < INFINITY)
        .order_by(queue.due_at.desc())
    )
    newest = (
        select(delivery.c.id).where(delivery.c.subscription_id == id).order_by(delivery.c.id.desc())
    )
    just_now = select(lately.c.delivery_id).where(lately.c.subscription_id == id)
    likely = union_all(
        *(each.limit(LOOKED_AT).correlate(worst) for each in (just_now, last_due, newest))
    ).subquery("likely")
    columns = attempt.c
    each = (  # its LIMIT leaves the planner no other way than the primary key
        select(columns.status, columns.error_class, columns.error, columns.recorded_at)
        .where(columns.delivery_id == likely.c.delivery_id, columns.outcome != "cancelled")
        .order_by(columns.attempt.desc(), columns.recorded_at.desc())
        .limit(1)
        .lateral("each")
    )
    return (
        select(each.c.status, each.c.error_class, each.c.error)
        .select_from(likely)
        .join(each, true())
        .order_by(each.c.recorded_at.desc())
        .limit(1)
        .lateral("last")
    )


def _failed_lately() -> CTE:
    recent = (
        select(attempt.c.delivery_id, attempt.c.outcome)
        .where(attempt.c.recorded_at > ago(LATELY))
        .limit(BOUND)
        .subquery()
    )
    failed = (
        select(recent.c.delivery_id).where(recent.c.outcome == "retry").limit(FAILURES).subquery()
    )
    whose = (
        select(delivery.c.subscription_id)
        .where(delivery.c.id == failed.c.delivery_id)
        .limit(1)
        .lateral()
    )
    return (
        select(failed.c.delivery_id, whose.c.subscription_id)
        .join(whose, true())
        .cte("lately")
        .prefix_with("MATERIALIZED")
    )


def _stopped(connection: Connection, held: Mapping[UUID, Count]) -> tuple[list[Held], int]:
    """Return those that are paused or disabled: the ones that hold most, then the newest."""
    most = sorted(held, key=lambda id: held[id].number, reverse=True)[:SHOWN]
    columns = subscription.c
    since = func.coalesce(_stopped_at(), columns.changed_at).label("since")
    first = columns.id.in_(most)
    query = (
        select(
            func.count().over().label("total"),
            columns.id,
            columns.url,
            columns.state,
            columns.state_reason,
            since,
        )
        .where(columns.state.in_(("paused", "disabled")))
        .order_by(first.desc(), columns.changed_at.desc())
        .limit(SHOWN)
    )
    rows: Sequence[Any] = connection.execute(query).all()
    found = [
        Held(r.id, r.url, r.state, r.state_reason, r.since, held.get(r.id, Count(0)), 0)
        for r in rows
    ]
    found.sort(key=lambda each: each.deliveries.number if each.deliveries else 0, reverse=True)
    return found, rows[0].total if rows else 0


def _stopped_at() -> ScalarSelect[Any]:
    columns = subscription_change.c
    return (
        select(columns.changed_at)
        .where(columns.subscription_id == subscription.c.id, columns.change == subscription.c.state)
        .order_by(columns.revision.desc())
        .limit(1)
        .scalar_subquery()
    )


def _blocked(connection: Connection) -> tuple[list[Held], int]:
    columns = blocked_subject.c
    subjects = (
        select(
            columns.subscription_id,
            func.count().label("subjects"),
            func.min(columns.blocked_at).label("since"),
        )
        .group_by(columns.subscription_id)
        .subquery()
    )
    query = (
        select(
            func.count().over().label("total"),
            subscription.c.id,
            subscription.c.url,
            subjects.c.since,
            subjects.c.subjects,
        )
        .join(subjects, subjects.c.subscription_id == subscription.c.id)
        .where(subscription.c.state == "active")
        .order_by(subjects.c.subjects.desc())
        .limit(SHOWN)
    )
    rows = connection.execute(query).all()
    found = [Held(r.id, r.url, "blocked", None, r.since, None, r.subjects) for r in rows]
    return found, rows[0].total if rows else 0


def _replays(connection: Connection) -> tuple[Replay, ...]:
    columns = replay.c
    query = (
        select(
            columns.id,
            columns.mode,
            columns.made,
            columns.counted,
            columns.rate,
            columns.created_at,
            columns.moved_at,
        )
        .where(columns.state == "running")
        .order_by(columns.id)
        .limit(SHOWN)
    )
    return tuple(Replay(*row) for row in connection.execute(query))
