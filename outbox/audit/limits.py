"""Claims that limits count, and subjects that stand still.

A claim is counted until its lease ends at the latest, so one that its worker left behind
says nothing. Who let a subject go that stood still is on record for the subscription as a
whole only; where something of the subject was sent since, someone did.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, case, exists, func, not_, or_

from ..tables import (
    attempt,
    blocked_subject,
    delivery,
    delivery_queue,
    event,
    limited_claim,
    subscription,
    subscription_change,
)
from . import deliveries as of
from .events import SETTLED
from .sheet import FOREVER, KEPT, Check, Sheet, said

c = limited_claim.alias("c")
q = delivery_queue.alias("q")
s = subscription.alias("s")

# Limits that were changed a moment ago may find claims that were made before.
_settled = s.c.changed_at + SETTLED < func.now()
_counted_wrong = or_(
    q.c.lease_owner.is_(None),
    c.c.attempt != q.c.attempt,
    c.c.subscription_id != q.c.subscription_id,
    c.c.subject != q.c.subject,
)
WRONG_CLAIM = and_(
    c.c.lease_until > func.now(), q.c.delivery_id.is_not(None), _counted_wrong, _settled
)
_is_limited = and_(
    s.c.state != "removed",
    or_(s.c.max_in_flight.is_not(None), s.c.rate.is_not(None), s.c.ordered.is_not(None)),
    _settled,
)
MISSING_CLAIM = and_(
    q.c.lease_owner.is_not(None), q.c.lease_until > func.now(), _is_limited,
    c.c.delivery_id.is_(None),
)  # fmt: skip
_leased = said("attempt %s, leased by %s until %s", q.c.attempt, q.c.lease_owner, q.c.lease_until)
_claim = said("attempt %s is counted until %s", c.c.attempt, c.c.lease_until)
ORPHAN_CLAIM = and_(
    c.c.delivery_id.is_not(None), not_(exists().where(delivery.c.id == c.c.delivery_id))
)

CLAIMS = Sheet(
    c.outerjoin(q, q.c.delivery_id == c.c.delivery_id, full=True)
    .outerjoin(s, s.c.id == q.c.subscription_id),
    func.coalesce(c.c.delivery_id, q.c.delivery_id),
    (
        Check("claim_orphan", ORPHAN_CLAIM, "there is no such delivery", _claim),
        Check("claim_wrong", WRONG_CLAIM, _leased, _claim),
        Check("claim_missing", MISSING_CLAIM, _leased, "not counted by its limits"),
    ),
)  # fmt: skip


# Subjects that stand still.

b = blocked_subject.alias("b")
d = delivery.alias("d")
_died = exists().where(attempt.c.delivery_id == b.c.delivery_id, attempt.c.outcome == "dead")
_about_another = exists().where(
    event.c.id == d.c.event_id, event.c.subject.is_distinct_from(b.c.subject)
)
WRONG_BLOCK = and_(
    b.c.delivery_id >= KEPT,
    func.coalesce(
        not_(_died) | (d.c.subscription_id != b.c.subscription_id) | _about_another, True
    ),
)
BLOCKED = Sheet(
    b.outerjoin(d, d.c.id == b.c.delivery_id),
    b.c.delivery_id,
    (
        Check("blocked_wrong", WRONG_BLOCK, "no dead delivery of this subject",
              said("subject %s of subscription %s stands still", b.c.subject, b.c.subscription_id)),
    ),
)  # fmt: skip

_HARMLESS = ("paused", "resumed", "disabled", "rotated")
_changed_since = exists().where(
    subscription_change.c.subscription_id == of.s.c.id,
    subscription_change.c.change.not_in(_HARMLESS),
    subscription_change.c.changed_at + SETTLED > of.a.c.ended_at,
)
SUBJECT = of.SUBJECT_OF_EVENT


def _blocked() -> ColumnElement[bool]:
    same = blocked_subject.c.subscription_id == of.s.c.id
    return exists().where(same, blocked_subject.c.subject == SUBJECT)


def _may_go() -> ColumnElement[bool]:
    same = and_(delivery_queue.c.subscription_id == of.s.c.id, delivery_queue.c.subject == SUBJECT)
    return exists().where(same, delivery_queue.c.due_at < FOREVER)


def _went_on() -> ColumnElement[bool]:
    other, about, since = delivery.alias(), event.alias(), attempt.alias()
    return exists().where(
        other.c.subscription_id == of.s.c.id,
        other.c.id != of.d.c.id,
        about.c.id == other.c.event_id,
        about.c.subject == SUBJECT,
        since.c.delivery_id == other.c.id,
        since.c.recorded_at > of.a.c.ended_at,
    )


# Of a delivery: it is dead, so its subject stands still if the subscription says stop. What
# costs more comes later; a CASE, because AND goes on behind a NULL.
MISSING_BLOCK = case(
    (of.a.c.outcome.is_distinct_from("dead"), False),
    (of.s.c.ordered.is_distinct_from("stop") | (of.s.c.state == "removed"), False),
    else_=and_(
        of.EXISTS, SUBJECT.is_not(None), not_(_changed_since), not_(_blocked()),
        not_(_may_go()), not_(_went_on()),
    ),
)  # fmt: skip
BLOCKED_MISSING = Check(
    "blocked_missing", MISSING_BLOCK,
    said("dead, and its subscription stops behind it: subject %s", SUBJECT),
    "the subject does not stand still",
)  # fmt: skip
