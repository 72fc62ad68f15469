"""Deliveries and their attempts, as they stand: the read side.

The state of a delivery is derived, never stored: a row in the queue makes it pending,
else the attempt that ended it tells. A pending one is held while its subscription is
stopped, or while another of its subject comes first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Integer,
    Text,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal_column,
    not_,
    select,
    true,
)

from .delivery_filter import ENDS, EVERYTHING, DeliveryFilter, last_attempt, matching
from .errors import NotFound
from .moments import moment_of
from .tables import (
    INFINITY,
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

    from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Subquery


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one subscription.

    `attempts` counts the requests begun so far. `outcome`, `status`, `error_class` and `error`
    are those of the attempt that ended it, or else of the last one. `due_at` is when the
    next may start, for a pending one; `held` is why it may not, or None. `replay_id` is the
    replay that asked for it, None if its event was fanned out.
    """

    id: UUID
    event_id: UUID
    type: str
    tenant: str | None
    subject: str | None
    subscription_id: UUID
    url: str
    replay_id: UUID | None
    made_at: datetime
    state: str
    attempts: int
    outcome: str | None
    status: int | None
    error_class: str | None
    error: str | None
    due_at: datetime | None
    held: str | None
    in_flight: bool


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
    wanted: DeliveryFilter = EVERYTHING,
    *,
    before: UUID | None = None,
    limit: int = 50,
    **narrowed: Any,
) -> list[Delivery]:
    """Return the newest deliveries that are `wanted`, at most `limit`.

    `before` is the last id of the page before. `narrowed` are members of the filter, for short:

        deliveries.list_deliveries(connection, state="dead")
    """
    few = bindparam("few", limit, Integer, literal_execute=True)  # so that it is planned for
    page = matching(replace(wanted, **narrowed), before=before).limit(few).subquery("page")
    query = _described(page).order_by(page.c.id.desc())
    return [_from_row(row) for row in connection.execute(query).mappings()]


def show_delivery(connection: Connection, id: UUID) -> Delivery:
    """Return the delivery `id`. Raises NotFound."""
    alone = select(delivery.c.id).where(delivery.c.id == id).subquery("page")
    row = connection.execute(_described(alone)).mappings().first()
    if row is None:
        raise NotFound("delivery", str(id))
    return _from_row(row)


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


# What stands in the queues is looked up, delivery by delivery: a LIMIT leaves the planner no
# other way, even if it takes a queue for empty that has a million rows by now.

_LAST = last_attempt()
_ONE: ColumnElement[int] = literal_column("1")
QUEUED = (
    select(delivery_queue)
    .where(delivery_queue.c.delivery_id == delivery.c.id)
    .limit(_ONE)
    .lateral("queued")
)
_is_open = QUEUED.c.delivery_id.is_not(None)
_waits = QUEUED.c.due_at == INFINITY
BLOCKED = (
    select(blocked_subject.c.delivery_id)
    .where(
        _waits,
        blocked_subject.c.subscription_id == QUEUED.c.subscription_id,
        blocked_subject.c.subject == QUEUED.c.subject,
    )
    .limit(_ONE)
    .lateral("blocked")
)
_state = case((_is_open, "pending"), (_LAST.c.outcome.in_(ENDS), _LAST.c.outcome))
HELD = case(
    (
        and_(_is_open, subscription.c.state != "active"),
        subscription.c.state + func.coalesce(": " + subscription.c.state_reason, ""),
    ),
    (
        BLOCKED.c.delivery_id.is_not(None),
        "blocked: a delivery of its subject is dead, " + cast(BLOCKED.c.delivery_id, Text),
    ),
    (_waits, "in order: another delivery of its subject is first"),
)


def _described(page: Subquery) -> Select[Any]:
    """Return a query for all there is to say about the deliveries of `page`, which has ids."""
    attempts = func.greatest(QUEUED.c.attempt, func.coalesce(_LAST.c.attempt, 0))
    in_flight = and_(_is_open, QUEUED.c.lease_until > func.now())
    return (
        select(
            *delivery.c,
            event.c.type,
            event.c.tenant,
            event.c.subject,
            subscription.c.url,
            _state.label("state"),
            attempts.label("attempts"),
            _LAST.c.outcome,
            _LAST.c.status,
            _LAST.c.error_class,
            _LAST.c.error,
            case((not_(_waits), QUEUED.c.due_at)).label("due_at"),
            HELD.label("held"),
            func.coalesce(in_flight, false()).label("in_flight"),
        )
        .select_from(page)
        .join(delivery, delivery.c.id == page.c.id)
        .join(event, event.c.id == delivery.c.event_id, isouter=True)
        .join(subscription, subscription.c.id == delivery.c.subscription_id, isouter=True)
        .join(QUEUED, true(), isouter=True)
        .join(BLOCKED, true(), isouter=True)
        .join(_LAST, true(), isouter=True)
    )


def _from_row(row: RowMapping) -> Delivery:
    return Delivery(**row, made_at=moment_of(row["id"]))
