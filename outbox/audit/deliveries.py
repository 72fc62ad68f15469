"""Deliveries: each is open, with one row in the queue, or has ended, exactly once.

Its attempts tell which, and all that the queue may say of it: the number of the last
attempt, how many failed, when the next is due.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    case,
    cast,
    distinct,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import INTERVAL

from ..delivery_filter import ENDS
from ..tables import (
    attempt,
    delivery,
    delivery_queue,
    event,
    replay,
    subscription,
    subscription_change,
)
from .sheet import FOREVER, KEPT, Check, Sheet, between, later, said

LONGEST_DELAY = cast(literal(timedelta(days=31)), INTERVAL)  # no schedule begins later

_ended = attempt.c.outcome.in_(ENDS)
_came_late = attempt.c.outcome == "late"
_retry = attempt.c.outcome == "retry"

# As the worker judges (`worker/outcome.py`): without an answer, a fault of its own and a kept
# connection that was closed before are held against nobody.
OWN_FAULT = and_(
    attempt.c.status.is_(None),
    func.coalesce(attempt.c.error_class, "internal").in_(("internal", "stale")),
)


def stories() -> Select[Any]:
    """What the attempts of a slice tell of each delivery: one row each, its id as `id`."""
    number, recorded_at = attempt.c.attempt, attempt.c.recorded_at
    not_delivered = and_(attempt.c.outcome == "delivered", not_(_is_2xx()))
    return (
        select(
            attempt.c.delivery_id.label("id"),
            func.count().label("attempts"),
            func.count(distinct(number)).filter(number > 0).label("numbers"),
            func.max(number).label("highest"),
            func.coalesce(func.max(number).filter(not_(_came_late)), 0).label("last"),
            func.count().filter(_ended).label("ends"),
            func.min(attempt.c.outcome).filter(_ended).label("outcome"),
            func.max(number).filter(_ended).label("end"),
            func.max(recorded_at).filter(_ended).label("ended_at"),
            func.max(recorded_at).filter(not_(or_(_ended, _came_late))).label("went_on_at"),
            func.min(recorded_at).label("began_at"),
            func.count().filter(and_(_retry, not_(OWN_FAULT))).label("failures"),
            func.count().filter(not_delivered).label("undelivered"),
        )
        .where(between(attempt.c.delivery_id))
        .group_by(attempt.c.delivery_id)
    )


def _is_2xx() -> ColumnElement[bool]:
    return func.coalesce(attempt.c.status, 0).between(200, 299)


d = select(delivery).where(between(delivery.c.id)).subquery("d")
q = select(delivery_queue).where(between(delivery_queue.c.delivery_id)).subquery("q")
a = stories().subquery("a")
s = subscription.alias("s")
r = replay.alias("r")

ROWS = (
    d.outerjoin(q, q.c.delivery_id == d.c.id, full=True)
    .outerjoin(a, a.c.id == func.coalesce(d.c.id, q.c.delivery_id), full=True)
    .outerjoin(s, s.c.id == d.c.subscription_id)
    .outerjoin(r, r.c.id == d.c.replay_id)
)

EXISTS = d.c.id.is_not(None)
OPEN = and_(EXISTS, q.c.delivery_id.is_not(None))
ENDED = func.coalesce(a.c.ends, 0) > 0
LEASED = q.c.lease_owner.is_not(None)

# What the queue must say, by the facts.
LAST = func.greatest(a.c.highest, 0)  # also what came late is not done twice under one number
NUMBER = LAST + case((LEASED, 1), else_=0)
FAILURES = func.coalesce(a.c.failures, 0)
SUBJECT_OF_EVENT = (
    select(event.c.subject)
    .where(event.c.id == d.c.event_id)
    .limit(1)
    .correlate(d)
    .scalar_subquery()
)
SUBJECT = case((s.c.ordered.is_not(None), SUBJECT_OF_EVENT))
RETRY_DUE_AT = (
    select(attempt.c.due_at)
    .where(attempt.c.delivery_id == d.c.id, attempt.c.outcome == "retry")
    .order_by(attempt.c.attempt.desc())
    .limit(1)
    .correlate(d)
    .scalar_subquery()
)
FIRST_DELAY = func.make_interval(0, 0, 0, 0, 0, 0, func.coalesce(s.c.schedule[1], 0.0))


def _once(ordered: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a revision of the subscription was `ordered` so."""
    return exists().where(subscription_change.c.subscription_id == s.c.id, ordered)


_order = subscription_change.c.after["ordered"].astext

# A subscription may have become ordered, or not ordered, since its delivery was made.
WRONG_SUBJECT = case(
    (q.c.subject.is_not(None), or_(
        q.c.subject.is_distinct_from(SUBJECT_OF_EVENT), not_(_once(_order.is_not(None))))),
    (s.c.ordered.is_not(None), and_(
        SUBJECT_OF_EVENT.is_not(None), not_(_once(_order.is_(None))))),
    else_=False,
)  # fmt: skip

# A person may have made it due at once; the first of a subject waits for its turn, and from
# then on for the first delay.
WRONG_DUE_AT = case(
    (q.c.due_at == FOREVER, q.c.subject.is_(None)),
    (q.c.due_at <= later(func.now() + FIRST_DELAY), False),
    else_=func.coalesce(q.c.due_at != RETRY_DUE_AT, q.c.due_at > func.now() + LONGEST_DELAY),
)

_told = said(
    "attempts %s, the last %s, failures %s", func.coalesce(a.c.attempts, 0), LAST, FAILURES
)
_queued = said(
    "in the queue: attempt %s, failures %s, due at %s", q.c.attempt, q.c.failures, q.c.due_at
)
_its_end = said("%s with attempt %s, at %s", a.c.outcome, a.c.end, a.c.ended_at)

CHECKS = (
    Check("queue_missing", and_(EXISTS, q.c.delivery_id.is_(None), not_(ENDED), d.c.id >= KEPT),
          said("it has not ended: %s", _told), "not in the queue"),
    Check("queue_left", and_(OPEN, ENDED), _its_end, _queued),
    Check("queue_orphan", and_(q.c.delivery_id.is_not(None), not_(EXISTS)),
          "there is no such delivery", _queued),
    Check("queue_subscription", and_(OPEN, q.c.subscription_id != d.c.subscription_id),
          said("its subscription is %s", d.c.subscription_id), said("%s", q.c.subscription_id)),
    Check("queue_event", and_(OPEN, q.c.event_id != d.c.event_id),
          said("its event is %s", d.c.event_id), said("%s", q.c.event_id)),
    Check("queue_subject", and_(OPEN, WRONG_SUBJECT),
          said("its event is about %s", func.coalesce(SUBJECT_OF_EVENT, "nothing")),
          said("subject %s", func.coalesce(q.c.subject, "NULL"))),
    Check("queue_attempt", and_(OPEN, not_(ENDED), q.c.attempt != NUMBER),
          said("%s, so it is at %s", _told, NUMBER), _queued),
    Check("queue_failures", and_(OPEN, not_(ENDED), q.c.failures != FAILURES), _told, _queued),
    Check("queue_due", and_(OPEN, not_(ENDED), WRONG_DUE_AT),
          said("due at %s", func.coalesce(cast(RETRY_DUE_AT, Text), "once")), _queued),
    Check("ended_twice", and_(EXISTS, a.c.ends > 1),
          said("%s attempts ended it, the last with %s", a.c.ends, a.c.end), "ends once"),
    Check("attempt_orphan", and_(a.c.id.is_not(None), not_(EXISTS), a.c.id >= KEPT),
          said("%s attempts", a.c.attempts), "there is no such delivery"),
    Check("attempt_gap", and_(EXISTS, a.c.numbers != func.greatest(a.c.highest, 0)),
          said("%s attempts with %s numbers up to %s", a.c.attempts, a.c.numbers, a.c.highest),
          "numbered from 1, none is missing"),
    Check("attempt_after_end", and_(EXISTS, or_(
              a.c.went_on_at > later(a.c.ended_at),
              and_(a.c.outcome != "delivered", a.c.end < a.c.last))),
          said("%s; the last attempt is %s", _its_end, a.c.last),
          "nothing follows but what is late"),
    Check("attempt_too_early", and_(EXISTS, func.outbox.uuid7_floor(later(a.c.began_at)) < d.c.id),
          said("an attempt was recorded at %s", a.c.began_at), "by its id it was made later"),
    Check("attempt_in_future", and_(EXISTS, func.greatest(
              a.c.ended_at, a.c.went_on_at, a.c.began_at) > later(func.now())),
          said("an attempt was recorded at %s", func.greatest(
              a.c.ended_at, a.c.went_on_at, a.c.began_at)), "that is to come"),
    Check("delivered_without_2xx", and_(EXISTS, a.c.undelivered > 0),
          said("%s", _its_end), "its status is no 2xx"),
    Check("delivery_subscription", and_(EXISTS, s.c.id.is_(None)),
          said("its subscription is %s", d.c.subscription_id), "there is no such subscription"),
    Check("delivery_replay", and_(d.c.replay_id.is_not(None), r.c.id.is_(None)),
          said("its replay is %s", d.c.replay_id), "there is no such replay"),
)  # fmt: skip


def _ended_as(outcome: str) -> ColumnElement[int]:
    return func.count().filter(and_(EXISTS, a.c.outcome == outcome))


DELIVERIES = Sheet(
    ROWS,
    func.coalesce(d.c.id, q.c.delivery_id, a.c.id),
    CHECKS,
    counts={
        "deliveries": func.count(d.c.id),
        "open": func.count().filter(OPEN),
        "held": func.count().filter(and_(OPEN, or_(s.c.state != "active", q.c.due_at == FOREVER))),
        "delivered": _ended_as("delivered"),
        "dead": _ended_as("dead"),
        "cancelled": _ended_as("cancelled"),
        "attempts": func.coalesce(cast(func.sum(a.c.attempts), BigInteger), 0),
    },
)
