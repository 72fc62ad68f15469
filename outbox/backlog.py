"""What waits: events not fanned out, open deliveries, and what holds them.

A queue is read whole while it is short, up to about 75,000 events or open deliveries. Of a
longer one some pages are read, at every look the same ones, and they stand for all. What
they cannot tell, how many are in flight and since when the oldest is due, is looked up at
the heads of the lanes, where claims are made.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Double,
    and_,
    case,
    cast,
    extract,
    func,
    literal,
    select,
    tablesample,
    true,
)

from .tables import Moment, blocked_subject, delivery_queue, event_queue, subscription

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from sqlalchemy import CTE, ColumnElement, Connection, Row, Table, TableSample

EVENT_PAGES = 500  # of 8 kB, about 75,000 events
PAGES = 2_000  # about 75,000 open deliveries
LANES = 1_000  # whose heads are looked at
HEADS = 20_000  # rows there, in all
SEED = 7  # chooses the pages

STOPPED = ("paused", "disabled", "removed")
HELD = (*STOPPED, "in order", "blocked")
INFINITY = cast(literal("infinity"), Moment)


@dataclass(frozen=True, slots=True)
class Count:
    """So many: to the last one if it is `exact`, else about so many."""

    number: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits.

    Events: `not_fanned_out` although they are due, `scheduled` for later, `set_aside`
    because their fan-out failed. Deliveries: `due`, `in_flight`, `waiting` for a retry or
    their first delay, and `held`, by reason: their subscription is paused or disabled; or
    another of their subject comes first (in order), which may be dead (blocked).
    `oldest_event` and `oldest_due` are the seconds since the first of them was due; None
    if there is none.
    """

    not_fanned_out: Count
    oldest_event: float | None
    scheduled: Count
    set_aside: Count
    due: Count
    oldest_due: float | None
    in_flight: Count
    waiting: Count
    held: Mapping[str, Count]


def look(connection: Connection) -> tuple[Backlog, dict[UUID, Count]]:
    """Return what waits, and how many deliveries each stopped subscription holds."""
    share = _share(connection, event_queue, EVENT_PAGES)
    events = counts(_events(connection, share), share)
    share = _share(connection, delivery_queue, PAGES)
    parts = _deliveries(connection, share)
    deliveries = counts(parts, share)
    none = scaled(0, share)
    backlog = Backlog(
        not_fanned_out=events.get("due", Count(0)),
        oldest_event=_oldest_event(connection),
        scheduled=events.get("waiting", Count(0)),
        set_aside=Count(_set_aside(connection)),
        due=deliveries.get("due", none),
        oldest_due=max((part.age for part in parts if part.what == "due"), default=None),
        in_flight=deliveries.get("in flight", none),
        waiting=deliveries.get("waiting", none),
        held={reason: deliveries[reason] for reason in HELD if reason in deliveries},
    )
    if share < 1:
        in_flight, oldest = _heads(connection)
        about = Count(in_flight, exact=False)
        backlog = replace(backlog, in_flight=about, oldest_due=oldest)
    return backlog, held_by(parts, share)


def counts(parts: Iterable[Row[Any]], share: float) -> dict[str, Count]:
    """Return how many there are of each kind, if `parts` are what `share` of the queue holds."""
    totals: Counter[str] = Counter()
    for part in parts:
        totals[part.what] += part.number
    return {what: scaled(number, share) for what, number in totals.items()}


def held_by(parts: Iterable[Row[Any]], share: float) -> dict[UUID, Count]:
    """Return how many deliveries each subscription holds because it is stopped."""
    stopped = (part for part in parts if part.holder is not None)
    return {part.holder: scaled(part.number, share) for part in stopped}


def scaled(number: int, share: float) -> Count:
    """Return how many there are if `number` are in so much of the queue.

    >>> scaled(30, 0.25)
    Count(number=120, exact=False)
    """
    return Count(number) if share == 1 else Count(round(number / share), exact=False)


def _share(connection: Connection, table: Table, most: int) -> float:
    """Return how much of a queue is read, at `most` so many pages: 1 is all of it."""
    size = func.pg_relation_size(table.fullname)
    pages = size / cast(func.current_setting("block_size"), BigInteger)
    return min(1.0, most / max(1, int(connection.execute(select(pages)).scalar_one())))


def _pages(table: Table, share: float) -> TableSample:
    return tablesample(table, func.system(100 * share), name="q", seed=literal(SEED))


def _events(connection: Connection, share: float) -> Sequence[Row[Any]]:
    queue = _pages(event_queue, share)
    what = case((queue.c.due_at <= func.now(), "due"), else_="waiting").label("what")
    read = select(what).where(queue.c.due_at < INFINITY).subquery()
    query = select(read.c.what, func.count().label("number")).group_by(read.c.what)
    return connection.execute(query).all()


def _oldest_event(connection: Connection) -> float | None:
    due_at = event_queue.c.due_at
    query = select(_age(due_at)).where(due_at <= func.now()).order_by(due_at).limit(1)
    return connection.execute(query).scalar()


def _set_aside(connection: Connection) -> int:
    query = select(func.count()).where(event_queue.c.due_at == INFINITY)
    return connection.execute(query).scalar_one()


def _deliveries(connection: Connection, share: float) -> Sequence[Row[Any]]:
    """Count the open deliveries by `what` they are; the stopped ones also by their `holder`."""
    queue = _pages(delivery_queue, share)
    state = subscription.c.state
    what = case(
        (queue.c.lease_until > func.now(), "in flight"),
        (state != "active", state),
        (blocked_subject.c.delivery_id.is_not(None), "blocked"),
        (queue.c.due_at == INFINITY, "in order"),
        (queue.c.due_at <= func.now(), "due"),
        else_="waiting",
    )
    blocked = and_(
        queue.c.due_at == INFINITY,
        blocked_subject.c.subscription_id == queue.c.subscription_id,
        blocked_subject.c.subject == queue.c.subject,
    )
    read = (
        select(what.label("what"), queue.c.subscription_id, queue.c.due_at)
        .select_from(queue)
        .join(subscription, subscription.c.id == queue.c.subscription_id)
        .join(blocked_subject, blocked, isouter=True)
        .subquery()
    )
    holder = case((read.c.what.in_(STOPPED), read.c.subscription_id)).label("holder")
    labelled = select(read.c.what, holder, read.c.due_at).subquery()
    query = select(
        labelled.c.what,
        labelled.c.holder,
        func.count().label("number"),
        _age(func.min(labelled.c.due_at).filter(labelled.c.due_at < INFINITY)).label("age"),
    )
    return connection.execute(query.group_by(labelled.c.what, labelled.c.holder)).all()


def _heads(connection: Connection) -> tuple[int, float | None]:
    """Return how many are in flight, and the seconds since when the oldest free one is due.

    As far as the heads of the first `LANES` lanes tell.
    """
    lane = _lanes().c.subscription_id
    some = select(lane).where(lane.is_not(None)).limit(LANES).cte("some")
    lanes = connection.execute(select(func.count()).select_from(some)).scalar_one()
    queue = delivery_queue.c
    head = (
        select(queue.due_at, func.coalesce(queue.lease_until > func.now(), False).label("taken"))
        .where(queue.subscription_id == some.c.subscription_id, queue.due_at <= func.now())
        .order_by(queue.due_at)
        .limit(max(1, HEADS // max(1, lanes)))
        .lateral("head")
    )
    query = (
        select(
            func.count().filter(head.c.taken),
            _age(func.min(head.c.due_at).filter(~head.c.taken, subscription.c.state == "active")),
        )
        .select_from(some)
        .join(subscription, subscription.c.id == some.c.subscription_id)
        .join(head, true())
    )
    in_flight, oldest = connection.execute(query).one()
    return in_flight, oldest


def _lanes() -> CTE:
    """The subscriptions that have open deliveries: a loose index scan, one probe a lane."""
    queue = delivery_queue.c.subscription_id
    lane = select(queue).order_by(queue).limit(1).cte("lane", recursive=True)
    after = select(queue).where(queue > lane.c.subscription_id).order_by(queue).limit(1)
    step = select(after.scalar_subquery()).where(lane.c.subscription_id.is_not(None))
    return lane.union_all(step)


def _age(moment: ColumnElement[Any]) -> ColumnElement[float]:
    """The seconds since a moment, which PostgreSQL 16 and older can only tell of a finite one."""
    return cast(extract("epoch", func.now() - moment), Double)
