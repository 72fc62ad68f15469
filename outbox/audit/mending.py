"""How each projection is made again: one function for each step of a repair.

Each takes the ids of the rows to mend, locks what is there of them, and judges anew what is
wrong, in the slice of `values`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Uuid,
    and_,
    any_,
    case,
    delete,
    exists,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from .. import tables
from ..tables import (
    attempt,
    blocked_subject,
    delivery,
    delivery_queue,
    event,
    limited_claim,
    secret,
    subscription,
    subscription_change,
    subscription_health,
    subscription_type,
    throttle,
)
from . import deliveries as of
from . import events as told
from . import health as noted
from . import limits as limit
from . import subscriptions as known
from .sheet import FOREVER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection

    Values = Mapping[str, Any]
    Ids = list[UUID]


def _among(id: ColumnElement[Any], ids: Ids) -> ColumnElement[bool]:
    return id == any_(literal(ids, ARRAY(Uuid)))


def _lock(connection: Connection, id: ColumnElement[Any], ids: Ids) -> None:
    """Keep others from changing the rows until the transaction ends."""
    connection.execute(select(id).where(_among(id, ids)).order_by(id).with_for_update())


# Subscriptions and what belongs to them.

# For columns that are younger than the change.
_DEFAULTS = {"method": "POST", "format": "standard", "schemes": ["standard"], "headers": {}}


def subscriptions(connection: Connection, ids: Ids, values: Values) -> None:
    """Make them what their last change says."""
    _lock(connection, subscription.c.id, ids)
    rows = known.SUBSCRIPTIONS.rows
    before = func.coalesce(known.ROW, literal(_DEFAULTS, JSONB)).op("||")(known.c.c.after)
    record = func.jsonb_populate_record(literal_column("NULL::outbox.subscription"), before)
    names = [column.name for column in subscription.c]
    was = record.table_valued(*subscription.c, name="was")
    wanted = select(*(was.c[name] for name in names)).select_from(rows.join(was, literal(True)))
    changed = wanted.where(_among(known.s.c.id, ids), known.CHANGED).subquery("changed")
    connection.execute(
        update(subscription)
        .where(subscription.c.id == changed.c.id)
        .values({name: changed.c[name] for name in names}),
        values,
    )
    missing = wanted.where(_among(known.c.c.subscription_id, ids), not_(known.EXISTS))
    connection.execute(insert(subscription).from_select(names, missing).on_conflict_do_nothing())


def types(connection: Connection, ids: Ids, _: Values) -> None:
    """Make the index that matching uses again."""
    _lock(connection, subscription.c.id, ids)
    names = ("pattern", "tenant", "subscription_id")
    here, wanted = subscription_type.c, known.wanted.c
    left = select(*(known.t.c[name] for name in names)).select_from(known.TYPE_ROWS)
    connection.execute(
        delete(subscription_type).where(
            _among(here.subscription_id, ids),
            tuple_(*(here[name] for name in names)).in_(left.where(known.LEFT_TYPE)),
        )
    )
    missing = select(*(wanted[name] for name in names)).select_from(known.TYPE_ROWS)
    missing = missing.where(known.MISSING_TYPE, _among(wanted.subscription_id, ids))
    connection.execute(
        insert(subscription_type).from_select(names, missing).on_conflict_do_nothing()
    )


def belongings(connection: Connection, ids: Ids, _: Values) -> None:
    """Give limits their throttle, and take from removed ones what they had."""
    _lock(connection, subscription.c.id, ids)
    s = known.s
    limited = select(s.c.id).where(_among(s.c.id, ids), known.LIVE, known.IS_LIMITED)
    connection.execute(
        insert(throttle).from_select(["subscription_id"], limited).on_conflict_do_nothing()
    )
    live = exists().where(s.c.id == throttle.c.subscription_id, known.LIVE)
    connection.execute(delete(throttle).where(_among(throttle.c.subscription_id, ids), not_(live)))
    removed = select(s.c.id).where(_among(s.c.id, ids), s.c.state == "removed")
    connection.execute(delete(secret).where(secret.c.subscription_id.in_(removed)))


# Deliveries.


def queue(connection: Connection, ids: Ids, values: Values) -> None:
    """Let each delivery of the slice that has not ended stand in the queue as it should."""
    _lock(connection, delivery_queue.c.delivery_id, ids)
    here = _among(of.DELIVERIES.id, ids)
    gone = select(of.q.c.delivery_id).select_from(of.ROWS).where(here)
    gone = gone.where(of.q.c.delivery_id.is_not(None), or_(of.ENDED, not_(of.EXISTS)))
    connection.execute(delete(delivery_queue).where(delivery_queue.c.delivery_id.in_(gone)), values)
    right = _as_it_should_be().where(here).subquery("right_")
    connection.execute(
        update(delivery_queue)
        .where(delivery_queue.c.delivery_id == right.c.id)
        .values({column.name: column for column in right.c if column.name != "id"}),
        values,
    )
    missing = _as_it_is_missing().where(here)
    names = [_COLUMN.get(column.name, column.name) for column in missing.selected_columns]
    connection.execute(
        insert(delivery_queue).from_select(names, missing).on_conflict_do_nothing(), values
    )


_COLUMN = {"id": "delivery_id"}
_NEXT = func.coalesce(of.RETRY_DUE_AT, func.now())


def _as_it_should_be() -> Any:
    subject = case((of.WRONG_SUBJECT, of.SUBJECT), else_=of.q.c.subject)
    joins_the_others = and_(subject.is_not(None), subject.is_distinct_from(of.q.c.subject))
    waits_for_none = and_(of.q.c.due_at == FOREVER, subject.is_(None))
    due_at = case(
        (joins_the_others, FOREVER),
        (or_(of.WRONG_DUE_AT, waits_for_none), _NEXT),
        else_=of.q.c.due_at,
    )
    return (
        select(
            of.d.c.id,
            of.d.c.subscription_id,
            of.d.c.event_id,
            subject.label("subject"),
            due_at.label("due_at"),
            of.NUMBER.label("attempt"),
            of.FAILURES.label("failures"),
        )
        .select_from(of.ROWS)
        .where(of.OPEN, not_(of.ENDED))
    )


def _as_it_is_missing() -> Any:
    is_told_of = exists().where(event.c.id == of.d.c.event_id)
    return (
        select(
            of.d.c.id,
            of.d.c.subscription_id,
            of.d.c.event_id,
            of.SUBJECT.label("subject"),
            case((of.SUBJECT.is_not(None), FOREVER), else_=_NEXT).label("due_at"),
            of.LAST.label("attempt"),
            of.FAILURES.label("failures"),
        )
        .select_from(of.ROWS)
        .where(of.EXISTS, of.q.c.delivery_id.is_(None), not_(of.ENDED), is_told_of)
    )


def promote(connection: Connection) -> None:
    """Let the first of each subject go where none may; one that was tried goes when it was due."""
    q = delivery_queue
    streams = (
        select(q.c.subscription_id, q.c.subject)
        .where(q.c.subject.is_not(None))
        .group_by(q.c.subscription_id, q.c.subject)
        .having(func.min(q.c.due_at) == FOREVER)
        .subquery("streams")
    )
    both = (func.array_agg(column) for column in streams.c)
    connection.execute(select(func.outbox.promote(*both)).select_from(streams))
    retry = (
        select(attempt.c.due_at)
        .where(attempt.c.delivery_id == q.c.delivery_id, attempt.c.outcome == "retry")
        .order_by(attempt.c.attempt.desc())
        .limit(1)
        .scalar_subquery()
    )
    just_now = and_(q.c.subject.is_not(None), q.c.due_at < FOREVER, q.c.due_at >= func.now())
    connection.execute(
        update(q).where(just_now, q.c.attempt > 0, retry > q.c.due_at).values(due_at=retry)
    )


# Limits and health.


def claims(connection: Connection, ids: Ids, _: Values) -> None:
    """Let limits count what is leased."""
    _lock(connection, delivery_queue.c.delivery_id, ids)
    rows, c, q = limit.CLAIMS.rows, limit.c, limit.q
    wrong = select(c.c.delivery_id).select_from(rows)
    wrong = wrong.where(_among(c.c.delivery_id, ids), or_(limit.WRONG_CLAIM, limit.ORPHAN_CLAIM))
    connection.execute(delete(limited_claim).where(limited_claim.c.delivery_id.in_(wrong)))
    names = [column.name for column in limited_claim.c]
    missing = select(*(q.c[name] for name in names)).select_from(rows)
    missing = missing.where(_among(q.c.delivery_id, ids), limit.MISSING_CLAIM)
    connection.execute(insert(limited_claim).from_select(names, missing).on_conflict_do_nothing())


def blocked(connection: Connection, ids: Ids, values: Values) -> None:
    """Forget that a subject stands still for which no dead delivery is the reason."""
    rows = select(limit.b.c.delivery_id).select_from(limit.BLOCKED.rows).where(limit.WRONG_BLOCK)
    wrong = delete(blocked_subject).where(
        _among(blocked_subject.c.delivery_id, ids), blocked_subject.c.delivery_id.in_(rows)
    )
    connection.execute(wrong, values)


def blocks(connection: Connection, ids: Ids, values: Values) -> None:
    """Let the subjects of dead deliveries stand still where the subscription says stop."""
    dead = select(of.s.c.id, limit.SUBJECT, of.d.c.id).select_from(of.ROWS)
    dead = dead.where(_among(of.d.c.id, ids), limit.MISSING_BLOCK)
    names = ["subscription_id", "subject", "delivery_id"]
    connection.execute(
        insert(blocked_subject).from_select(names, dead).on_conflict_do_nothing(), values
    )


def health(connection: Connection, ids: Ids, _: Values) -> None:
    """Count the failures since the last success again."""
    mine = subscription_health.c.subscription_id
    _lock(connection, mine, ids)
    connection.execute(delete(subscription_health).where(_among(mine, ids)))
    tried = (
        select(delivery.c.subscription_id, attempt.c.recorded_at, noted.FAILURE.label("failed"))
        .join(attempt, attempt.c.delivery_id == delivery.c.id)
        .where(_among(delivery.c.subscription_id, ids), noted.FAILURE | noted.SUCCESS)
        .where(not_(noted.OPERATIONAL))
        .cte("tried")
    )
    ok = tried.alias("ok")
    succeeded = exists().where(
        ok.c.subscription_id == tried.c.subscription_id, not_(ok.c.failed),
        ok.c.recorded_at >= tried.c.recorded_at,
    )  # fmt: skip
    begun_anew = exists().where(
        subscription_change.c.subscription_id == tried.c.subscription_id,
        subscription_change.c.change.in_(("resumed", "removed")),
        subscription_change.c.changed_at >= tried.c.recorded_at,
    )
    failing = (
        select(tried.c.subscription_id, func.min(tried.c.recorded_at), func.count())
        .where(tried.c.failed, not_(succeeded), not_(begun_anew))
        .group_by(tried.c.subscription_id)
    )
    names = ["subscription_id", "failing_since", "failures"]
    connection.execute(insert(subscription_health).from_select(names, failing))


# Events.


def event_queue(connection: Connection, ids: Ids, values: Values) -> None:
    """Let each event stand in the queue once, and none that was fanned out."""
    q, other = tables.event_queue, tables.event_queue.alias("other")
    _lock(connection, q.c.event_id, ids)
    rows = select(told.q.c.event_id).select_from(told.ROWS)
    rows = rows.where(_among(told.q.c.event_id, ids))
    gone = rows.where(or_(not_(told.EXISTS), told.FANNED_OUT))
    earlier = exists().where(other.c.event_id == q.c.event_id, other.c.due_at < q.c.due_at)
    again = and_(_among(q.c.event_id, ids), earlier)
    connection.execute(delete(q).where(or_(q.c.event_id.in_(gone), again)), values)
    due_at = select(event.c.due_at).where(event.c.id == q.c.event_id).limit(1).scalar_subquery()
    connection.execute(
        update(q)
        .where(q.c.error.is_(None), q.c.event_id.in_(rows.where(told.WRONG_DUE_AT)))
        .values(due_at=func.coalesce(due_at, func.now())),
        values,
    )


def lost_events(connection: Connection, ids: Ids, values: Values) -> None:
    """Let those be fanned out that matched a subscription and came to nothing."""
    lost = select(func.now(), told.untold.c.id).distinct()
    lost = lost.where(_among(told.untold.c.id, ids), told.untold.c.made == 0)
    connection.execute(
        insert(tables.event_queue)
        .from_select(["due_at", "event_id"], lost)
        .on_conflict_do_nothing(),
        values,
    )
