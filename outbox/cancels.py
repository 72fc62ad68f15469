"""What a person does about deliveries: end them before they arrive.

As in `outbox.repairs`: counted first, then ended a slice after the other.

    plan = cancels.plan_cancel(connection, DeliveryFilter(subscription_id=id))

What a worker has in hand at that very moment, to claim it or to record its result, is not
waited for, so that nobody can wait in a circle; it has its turn in another pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, Uuid, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from . import fleet
from .delivery_filter import possible_states
from .endings import cancelled
from .errors import InvalidInput, WrongState
from .repairs import BEGINNING, SLICE, Done, Plan, chosen, named, next_ids, now_as_id, one_of
from .tables import delivery_queue, throttle

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from sqlalchemy import Connection

    from .delivery_filter import DeliveryFilter
    from .subscriptions import Author

PASSES = 5  # over what workers have in hand


def plan_cancel(connection: Connection, wanted: DeliveryFilter) -> Plan:
    """Count what a cancel would end: pending deliveries, held ones as well.

    Raises InvalidInput, NotFound for an id that is none, and WrongState for one that has ended.
    """
    if "pending" not in possible_states(wanted):
        raise InvalidInput("state", "only pending deliveries can be cancelled")
    for each in named(connection, wanted):
        if each.state != "pending":
            raise WrongState("delivery", str(each.id), each.state, "cancelled")
    states = frozenset({"pending"})
    count = select(func.count()).select_from(chosen(wanted, states))
    return Plan(wanted, states, now_as_id(connection), connection.execute(count).scalar_one())


def cancel_some(
    connection: Connection,
    plan: Plan,
    done: Done,
    *,
    by: Author,
    reason: str | None = None,
    limit: int = SLICE,
) -> Done:
    """End the next deliveries of `plan` as cancelled; return how far it is then.

    What is in flight may still arrive; its worker's result is then late. Of an ordered
    subscription the next of the subject may go, in such a case after that result.
    """
    ids = next_ids(connection, plan, done, limit)
    _hold_limits(connection, ids)
    why = f"cancelled by {by.actor}" + _because(reason)
    gone = connection.execute(cancelled(delivery_queue.c.delivery_id == one_of(ids), why)).all()
    heads = [row for row in gone if row.subject is not None and not row.in_flight]
    if heads:
        _promote(connection, heads)
        fleet.wake(connection)
    left = select(func.count()).where(delivery_queue.c.delivery_id == one_of(ids))
    missed = done.missed + int(connection.execute(left).scalar_one())
    count = done.cancelled + len(gone)
    done = replace(done, seen=count, cancelled=count, missed=missed)
    if len(ids) == limit:
        return replace(done, after=ids[-1])
    if missed and done.passes < PASSES:
        return replace(done, missed=0, passes=done.passes + 1, after=BEGINNING)
    return replace(done, finished=True)


def _because(reason: str | None) -> str:
    return "" if reason is None else f": {reason}"


def _hold_limits(connection: Connection, ids: Collection[UUID]) -> None:
    """Take the limits of their subscriptions in hand, before any of their deliveries.

    It is the order of those who let the next of a subject go.
    """
    lanes = select(delivery_queue.c.subscription_id).where(
        delivery_queue.c.delivery_id == one_of(ids)
    )
    connection.execute(
        select(throttle.c.subscription_id)
        .where(throttle.c.subscription_id.in_(lanes))
        .order_by(throttle.c.subscription_id)
        .with_for_update()
    )


def _promote(connection: Connection, heads: Collection[Any]) -> None:
    ids = cast([row.subscription_id for row in heads], ARRAY(Uuid))
    subjects = cast([row.subject for row in heads], ARRAY(Text))
    connection.execute(select(func.outbox.promote(ids, subjects)))
