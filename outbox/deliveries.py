"""Deliveries and their attempts, as they stand: the read side.

The state of a delivery is derived, never stored: a row in the queue makes it pending,
else the attempt that ended it tells. A pending one is held while its subscription is
stopped, or while another of its subject comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Text, and_, case, cast, func, literal_column, not_, select

from .errors import InvalidInput, NotFound
from .tables import (
    attempt,
    blocked_subject,
    delivery,
    delivery_queue,
    event,
    subscription,
)

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Connection, Select

STATES = ("pending", "delivered", "dead", "cancelled")
ENDS = ("delivered", "dead", "cancelled")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one subscription.

    `attempts` counts the requests begun so far. `due_at` is when the next may start, for
    a pending one; `held` is why it may not, or None. `status` and `error` are those of the
    last attempt.
    """

    id: UUID
    event_id: UUID
    type: str
    subscription_id: UUID
    url: str
    state: str
    attempts: int
    due_at: datetime | None
    held: str | None
    in_flight: bool
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `outbox.attempt`: one HTTP request and what it came to."""

    delivery_id: UUID
    attempt: int
    outcome: str
    worker_id: int | None
    revision: int | None
    started_at: datetime | None
    duration_ms: int | None
    dns_ms: int | None
    connect_ms: int | None
    tls_ms: int | None
    first_byte_ms: int | None
    body_ms: int | None
    status: int | None
    error_class: str | None
    error: str | None
    response_headers: str | None
    response_body: bytes | None
    due_at: datetime | None
    recorded_at: datetime


def list_deliveries(
    connection: Connection,
    *,
    event_id: UUID | None = None,
    subscription_id: UUID | None = None,
    state: str | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[Delivery]:
    """Return the newest deliveries that fit, at most `limit`; `before` is the last id seen."""
    if state is not None and state not in STATES:
        raise InvalidInput("state", f"must be one of {', '.join(STATES)}")
    query = _query().order_by(delivery.c.id.desc()).limit(limit)
    if event_id is not None:
        query = query.where(delivery.c.event_id == event_id)
    if subscription_id is not None:
        query = query.where(delivery.c.subscription_id == subscription_id)
    if before is not None:
        query = query.where(delivery.c.id < before)
    if state is not None:
        query = query.where(_derived_state == state)
    return [Delivery(*row) for row in connection.execute(query)]


def show_delivery(connection: Connection, id: UUID) -> Delivery:
    """Return the delivery `id`. Raises NotFound."""
    row = connection.execute(_query().where(delivery.c.id == id)).first()
    if row is None:
        raise NotFound("delivery", str(id))
    return Delivery(*row)


def list_attempts(connection: Connection, delivery_id: UUID) -> list[Attempt]:
    """Return all attempts of a delivery, first to last."""
    query = (
        select(attempt)
        .where(attempt.c.delivery_id == delivery_id)
        .order_by(attempt.c.attempt, attempt.c.recorded_at)
    )
    return [Attempt(*row) for row in connection.execute(query)]


def count_open(connection: Connection, subscription_id: UUID) -> int:
    """Return how many deliveries to a subscription are open: pending, held ones as well."""
    query = select(func.count()).where(delivery_queue.c.subscription_id == subscription_id)
    return connection.execute(query).scalar_one()


_END = (
    select(attempt.c.outcome)
    .where(attempt.c.delivery_id == delivery.c.id, attempt.c.outcome.in_(ENDS))
    .lateral("ended")
)
_LAST = (
    select(attempt.c.attempt, attempt.c.status, attempt.c.error)
    .where(attempt.c.delivery_id == delivery.c.id, attempt.c.outcome != "late")
    .order_by(attempt.c.attempt.desc(), attempt.c.recorded_at.desc())
    .limit(1)
    .lateral("last")
)
_OPEN = delivery_queue.c.delivery_id.is_not(None)
_waits = delivery_queue.c.due_at == literal_column("'infinity'::timestamptz")
BLOCKED = and_(
    _waits,
    blocked_subject.c.subscription_id == delivery_queue.c.subscription_id,
    blocked_subject.c.subject == delivery_queue.c.subject,
)
HELD = case(
    (
        and_(_OPEN, subscription.c.state != "active"),
        subscription.c.state + func.coalesce(": " + subscription.c.state_reason, ""),
    ),
    (
        blocked_subject.c.delivery_id.is_not(None),
        "blocked: a delivery of its subject is dead, " + cast(blocked_subject.c.delivery_id, Text),
    ),
    (_waits, "in order: another delivery of its subject is first"),
)
_derived_state: ColumnElement[str] = case((_OPEN, "pending"), else_=_END.c.outcome)


def _query() -> Select[Any]:
    attempts = func.greatest(delivery_queue.c.attempt, func.coalesce(_LAST.c.attempt, 0))
    in_flight = and_(_OPEN, delivery_queue.c.lease_until > func.now())
    return (
        select(
            delivery.c.id,
            delivery.c.event_id,
            event.c.type,
            delivery.c.subscription_id,
            subscription.c.url,
            _derived_state.label("state"),
            attempts.label("attempts"),
            case((not_(_waits), delivery_queue.c.due_at)).label("due_at"),
            HELD.label("held"),
            func.coalesce(in_flight, literal_column("false")).label("in_flight"),
            _LAST.c.status,
            _LAST.c.error,
        )
        .select_from(delivery)
        .join(event, event.c.id == delivery.c.event_id, isouter=True)
        .join(subscription, subscription.c.id == delivery.c.subscription_id, isouter=True)
        .join(delivery_queue, delivery_queue.c.delivery_id == delivery.c.id, isouter=True)
        .join(blocked_subject, BLOCKED, isouter=True)
        .join(_END, literal_column("true"), isouter=True)
        .join(_LAST, literal_column("true"), isouter=True)
    )
