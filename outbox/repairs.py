"""What a person does about deliveries: try them now, or have them made again.

A delivery that has ended stays ended; what is asked for again is a new delivery of the same
event, whose id, and so the `webhook-id`, stays what it is. Which deliveries is said by a
`DeliveryFilter`. There may be a million: they are counted first and then repaired a slice
after the other, oldest first, each in a transaction of its own.

    plan = repairs.plan_retry(connection, DeliveryFilter(state="dead"))
    done = repairs.Done()
    while not done.finished:
        with engine.begin() as connection:
            done = repairs.retry_some(connection, plan, done, by=author)

Whoever is interrupted has done what was done, and goes on by asking again: what is open or
was delivered meanwhile is not made twice. Workers may run: what one of them has in hand is
left to it, and not waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    Uuid,
    and_,
    any_,
    delete,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from . import fleet
from .deliveries import list_deliveries
from .delivery_filter import STATES, DeliveryFilter, matching, possible_states
from .errors import InvalidInput, NotFound, WrongState
from .tables import (
    INFINITY,
    attempt,
    blocked_subject,
    delivery,
    delivery_queue,
    replay,
    subscription,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement, Connection, Select, Subquery, Update

    from .deliveries import Delivery
    from .subscriptions import Author

SLICE = 500  # deliveries in one transaction
BEGINNING = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a repair is to do, of the deliveries that are `wanted` and were made before `last`.

    `chosen` is how many that are. Of them `due_now` would become due now, and `again` would
    be made again; the rest is due already, in the hand of a worker, or behind another of its
    subject, or there is a newer delivery already.
    """

    wanted: DeliveryFilter
    states: frozenset[str]
    last: UUID
    chosen: int
    due_now: int = 0
    again: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """How far a repair is: `seen` deliveries are settled, the last one looked at was `after`.

    `due_now` became due, `made` were made again, `cancelled` ended. `missed` were in the hand
    of a worker in this pass of so many. `replay_id` stands in those that were made.
    """

    seen: int = 0
    due_now: int = 0
    made: int = 0
    cancelled: int = 0
    missed: int = 0
    passes: int = 0
    replay_id: UUID | None = None
    after: UUID = BEGINNING
    finished: bool = False


def deliver_again(
    connection: Connection, pairs: Sequence[tuple[UUID, UUID]], replay_id: UUID | None = None
) -> int:
    """Make a delivery, due now, for each pair of an event and a subscription.

    Returns how many were made: none for a removed subscription.

        repairs.deliver_again(connection, [(event_id, subscription_id)])
    """
    event_ids = literal([event_id for event_id, _ in pairs], ARRAY(Uuid))
    subscription_ids = literal([subscription_id for _, subscription_id in pairs], ARRAY(Uuid))
    made = func.outbox.deliver_again(event_ids, subscription_ids, literal(replay_id, Uuid))
    return int(connection.execute(select(made)).scalar_one())


# Retry.


def plan_retry(connection: Connection, wanted: DeliveryFilter) -> Plan:
    """Count what a retry would do.

    Without a state or an outcome pending and dead ones are meant: what a person cancelled is
    made again if it is asked for. Raises InvalidInput, NotFound for an id that is none, and
    WrongState for one that was delivered: its event may be replayed.
    """
    states = _retried(wanted)
    for each in named(connection, wanted):
        if each.state == "delivered":
            remedy = f"retried; `outbox replay --event {each.event_id}` brings its event again"
            raise WrongState("delivery", str(each.id), each.state, remedy)
    found = chosen(wanted, states)
    ready = func.count().filter(_waits_for_its_time())
    query = select(func.count(), ready).select_from(
        found.outerjoin(delivery_queue, delivery_queue.c.delivery_id == found.c.id)
    )
    count, due_now = connection.execute(query).one()
    pairs = _ended_pairs(any_(select(found.c.id).scalar_subquery())).subquery()
    again = connection.execute(select(func.count()).select_from(pairs)).scalar_one()
    return Plan(wanted, states, now_as_id(connection), count, due_now, again)


def retry_some(
    connection: Connection, plan: Plan, done: Done, *, by: Author, limit: int = SLICE
) -> Done:
    """Retry the next deliveries of `plan`; return how far it is then.

    A pending one becomes due now and keeps its place in the schedule. A dead or cancelled one
    gets a new delivery of its event, once: not if a newer one is open or was delivered. If a
    dead one holds up its subject, the new one takes its place there.
    """
    ids = next_ids(connection, plan, done, limit)
    _hold_subscriptions(connection, ids)
    due_now = connection.execute(_make_due(ids)).rowcount
    _one_at_a_time(connection)
    ended = connection.execute(_ended_pairs(one_of(ids))).all()
    made, replay_id = 0, done.replay_id
    if ended:
        replay_id = replay_id or _asked_for(connection, plan, by)
        made = _make_again(connection, ended, replay_id)
    if due_now or made:
        fleet.wake(connection)
    return replace(
        done, seen=done.seen + len(ids), due_now=done.due_now + due_now, made=done.made + made,
        replay_id=replay_id, after=ids[-1] if ids else done.after, finished=len(ids) < limit,
    )  # fmt: skip


def _retried(wanted: DeliveryFilter) -> frozenset[str]:
    if wanted.ids is not None:
        return frozenset(STATES)
    named = "cancelled" in (wanted.state, wanted.outcome)
    states = possible_states(wanted) & ({"cancelled"} if named else {"pending", "dead"})
    if not states:
        rule = "only pending, dead and cancelled deliveries can be retried; see `outbox replay`"
        raise InvalidInput("state", rule)
    return states


def _waits_for_its_time() -> ColumnElement[bool]:
    """Whether an open delivery would be sent sooner if it were due: a head, in no one's hand."""
    queue = delivery_queue.c
    free = or_(queue.lease_until.is_(None), queue.lease_until <= func.now())
    return and_(queue.due_at > func.now(), queue.due_at < INFINITY, free)


def _hold_subscriptions(connection: Connection, ids: Collection[UUID]) -> None:
    """Keep their subscriptions as they are, before anything of theirs is taken in hand.

    It is the order of those who change or remove one.
    """
    theirs = select(delivery.c.subscription_id).where(delivery.c.id == one_of(ids))
    columns = subscription.c
    connection.execute(
        select(columns.id)
        .where(columns.id.in_(theirs))
        .order_by(columns.id)
        .with_for_update(read=True)
    )


def _make_due(ids: Collection[UUID]) -> Update:
    queue = delivery_queue.c
    taken = (
        select(queue.delivery_id)
        .where(queue.delivery_id == one_of(ids), _waits_for_its_time())
        .with_for_update(skip_locked=True)
        .cte("taken")
    )
    ready = queue.delivery_id.in_(select(taken.c.delivery_id))
    return update(delivery_queue).where(ready).values(due_at=func.now())


def _ended_pairs(ids: ColumnElement[Any]) -> Select[Any]:
    """Return a query for what ended without being delivered and is not on its way again.

    One row for each event and subscription, oldest event first.
    """
    end = select(attempt.c.delivery_id).where(
        attempt.c.delivery_id == delivery.c.id, attempt.c.outcome.in_(("dead", "cancelled"))
    )
    newer = delivery.alias("newer")
    is_open = select(delivery_queue.c.delivery_id).where(delivery_queue.c.delivery_id == newer.c.id)
    arrived = select(attempt.c.delivery_id).where(
        attempt.c.delivery_id == newer.c.id, attempt.c.outcome == "delivered"
    )
    replaced = select(newer.c.id).where(
        newer.c.event_id == delivery.c.event_id,
        newer.c.subscription_id == delivery.c.subscription_id,
        newer.c.id > delivery.c.id,
        or_(is_open.exists(), arrived.exists()),
    )
    return (
        select(
            delivery.c.event_id,
            delivery.c.subscription_id,
            func.array_agg(delivery.c.id).label("ids"),
        )
        .join(subscription, subscription.c.id == delivery.c.subscription_id)
        .where(delivery.c.id == ids, subscription.c.state != "removed")
        .where(end.exists(), not_(replaced.exists()))
        .group_by(delivery.c.event_id, delivery.c.subscription_id)
        .order_by(delivery.c.event_id)
    )


def _one_at_a_time(connection: Connection) -> None:
    """Keep others from making the same again, until the transaction ends."""
    key = func.hashtextextended("outbox.deliver_again", 0)
    connection.execute(select(func.pg_advisory_xact_lock(key)))


def _make_again(connection: Connection, ended: Sequence[Any], replay_id: UUID) -> int:
    ids = one_of([id for row in ended for id in row.ids])
    connection.execute(delete(blocked_subject).where(blocked_subject.c.delivery_id == ids))
    pairs = [(row.event_id, row.subscription_id) for row in ended]
    made = deliver_again(connection, pairs, replay_id)
    counted = update(replay).where(replay.c.id == replay_id)
    connection.execute(counted.values(made=replay.c.made + made, ended_at=func.now()))
    return made


def _asked_for(connection: Connection, plan: Plan, by: Author) -> UUID:
    """Write down who asked. No worker goes on with it, so it is done from the beginning."""
    wanted = plan.wanted
    asked = insert(replay).values(
        mode="dead", event_id=wanted.event_id, subscription_id=wanted.subscription_id,
        type=wanted.type, tenant=wanted.tenant, subject=wanted.subject, counted=plan.again,
        last_event=plan.last, state="done", ended_at=func.now(), actor=by.actor,
        command=by.command,
    )  # fmt: skip
    id: UUID = connection.execute(asked.returning(replay.c.id)).scalar_one()
    return id


# What every repair does.


def named(connection: Connection, wanted: DeliveryFilter) -> list[Delivery]:
    """Return the deliveries that are wanted by their ids, none if it is not by ids.

    Raises NotFound for an id that is none.
    """
    if wanted.ids is None:
        return []
    only = DeliveryFilter(ids=wanted.ids)
    found = {each.id: each for each in list_deliveries(connection, only, limit=len(wanted.ids))}
    for id in wanted.ids:
        if id not in found:
            raise NotFound("delivery", str(id))
    return list(found.values())


def chosen(wanted: DeliveryFilter, states: frozenset[str]) -> Subquery:
    """Return the ids of what is wanted and in `states`, in no order."""
    return matching(wanted, states=states).order_by(None).subquery("chosen")


def now_as_id(connection: Connection) -> UUID:
    """Return an id that is greater than those of all deliveries made so far."""
    id: UUID = connection.execute(select(func.outbox.uuid7())).scalar_one()
    return id


def next_ids(connection: Connection, plan: Plan, done: Done, limit: int) -> list[UUID]:
    """Return the next deliveries of `plan`, oldest first."""
    query = matching(
        plan.wanted, states=plan.states, after=done.after, before=plan.last, newest_first=False
    )
    return list(connection.execute(query.limit(limit)).scalars())


def one_of(ids: Collection[UUID]) -> ColumnElement[Any]:
    """Return what a column is equal to that holds one of `ids`."""
    return any_(literal(list(ids), ARRAY(Uuid)))
