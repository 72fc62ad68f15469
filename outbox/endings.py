"""How open deliveries end without an attempt: one statement, whoever asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, false, func, insert, literal, select

from .tables import attempt, delivery_queue, limited_claim

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select


def cancelled(which: ColumnElement[bool], why: str) -> Select[Any]:
    """Return the statement that cancels those of the queue, and returns what they were.

    What another transaction is just at is left to that one, so that nobody can wait in a
    circle. Who died with one in hand gets its `lost`. A claim that is still in flight goes on
    counting against the limits, until its worker has recorded it or its lease is over.

        connection.execute(cancelled(delivery_queue.c.subscription_id == id, "enough")).all()
    """
    queue = delivery_queue.c
    taken = select(queue.delivery_id).where(which).with_for_update(skip_locked=True).cte("taken")
    in_flight = func.coalesce(queue.lease_until > func.now(), false())
    gone = (
        delete(delivery_queue)
        .where(queue.delivery_id.in_(select(taken.c.delivery_id)))
        .returning(*delivery_queue.c, in_flight.label("in_flight"))
        .cte("gone")
    )
    row = gone.c
    lost = select(
        row.delivery_id, row.attempt, literal("lost"), row.lease_owner, literal(_LOST)
    ).where(row.lease_owner.is_not(None), ~row.in_flight)
    end = select(row.delivery_id, row.attempt, literal("cancelled"), literal(why))
    settled = select(row.delivery_id).where(~row.in_flight)
    return select(row.subscription_id, row.subject, row.in_flight).add_cte(
        insert(attempt).from_select([*_ATTEMPT, "worker_id", "error"], lost).cte("lost"),
        insert(attempt).from_select([*_ATTEMPT, "error"], end).cte("ended"),
        delete(limited_claim).where(limited_claim.c.delivery_id.in_(settled)).cte("settled"),
    )


_ATTEMPT = ("delivery_id", "attempt", "outcome")
_LOST = "the worker stopped before it recorded an answer"
