"""Subscriptions: each is what its last change says, and has what belongs to it.

Its types are the index that matching uses, its throttle is where limits are kept. What
does not come with a revision is left alone: how much a rate allows, when a secret ends.
"""

from __future__ import annotations

from sqlalchemy import Text, and_, cast, exists, func, not_, or_, select
from sqlalchemy.dialects.postgresql import JSONB

from ..tables import (
    Moment,
    secret,
    subscription,
    subscription_change,
    subscription_type,
    throttle,
)
from .sheet import Check, Sheet, said

_TIMES = ("created_at", "changed_at")  # their text depends on the time zone of whoever wrote it

s = subscription.alias("s")
h = (
    select(
        subscription_change.c.subscription_id,
        func.count().label("changes"),
        func.min(subscription_change.c.revision).label("first"),
        func.max(subscription_change.c.revision).label("last"),
    )
    .group_by(subscription_change.c.subscription_id)
    .subquery("h")
)
c = (
    select(subscription_change)
    .join(
        h,
        and_(
            h.c.subscription_id == subscription_change.c.subscription_id,
            h.c.last == subscription_change.c.revision,
        ),
    )
    .subquery("c")
)
EXISTS, RECORDED = s.c.id.is_not(None), c.c.subscription_id.is_not(None)
LIVE = and_(EXISTS, s.c.state != "removed")

# A column that is younger than the change is not in it: the row's own value stands for it.
ROW = func.to_jsonb(s.table_valued(), type_=JSONB)
_after = c.c.after.op("-")("limited").op("-")("created_at").op("-")("changed_at")
CHANGED = or_(
    ROW.op("||")(_after) != ROW,
    *(cast(c.c.after[name].astext, Moment) != s.c[name] for name in _TIMES),
)
_differing = (
    select(func.string_agg(_key := func.jsonb_object_keys(_after).column_valued("key"), ", "))
    .where(_after[_key] != ROW[_key])
    .scalar_subquery()
)

SUBSCRIPTIONS = Sheet(
    s.outerjoin(c, c.c.subscription_id == s.c.id, full=True),
    func.coalesce(s.c.id, c.c.subscription_id),
    (
        Check("subscription_missing", and_(RECORDED, not_(EXISTS)),
              said("it was %s, revision %s", c.c.change, c.c.revision), "there is none"),
        Check("subscription_unrecorded", and_(EXISTS, not_(RECORDED)),
              "no change tells of it", said("%s, revision %s", s.c.state, s.c.revision)),
        Check("subscription_changed", and_(EXISTS, RECORDED, CHANGED),
              said("it was %s at %s, revision %s", c.c.change, c.c.changed_at, c.c.revision),
              said("differs in %s", func.coalesce(_differing, "time"))),
    ),
)  # fmt: skip

REVISIONS = Sheet(
    h,
    h.c.subscription_id,
    (
        Check("revision_gap", or_(h.c.first != 1, h.c.changes != h.c.last),
              said("%s changes, revisions %s to %s", h.c.changes, h.c.first, h.c.last),
              "numbered from 1, none is missing"),
    ),
)  # fmt: skip

# The patterns that there should be, and those that there are.
wanted = (
    select(
        func.unnest(s.c.types).label("pattern"), func.coalesce(s.c.tenant, "").label("tenant"),
        s.c.id.label("subscription_id"),
    )
    .where(s.c.state != "removed")
    .distinct()
    .subquery("wanted")
)  # fmt: skip
t = subscription_type.alias("t")
SAME_TYPE = and_(
    *(t.c[name] == wanted.c[name] for name in ("subscription_id", "pattern", "tenant"))
)
MISSING_TYPE, LEFT_TYPE = t.c.subscription_id.is_(None), wanted.c.subscription_id.is_(None)
TYPE_ROWS = wanted.outerjoin(t, SAME_TYPE, full=True)

TYPES = Sheet(
    TYPE_ROWS,
    func.coalesce(wanted.c.subscription_id, t.c.subscription_id),
    (
        Check("type_missing", MISSING_TYPE,
              said("%s, tenant '%s'", wanted.c.pattern, wanted.c.tenant), "not matched"),
        Check("type_left", LEFT_TYPE,
              "not among its types", said("%s, tenant '%s'", t.c.pattern, t.c.tenant)),
    ),
)  # fmt: skip

# Throttles and secrets.
f = throttle.alias("f")
IS_LIMITED = or_(s.c.max_in_flight.is_not(None), s.c.rate.is_not(None), s.c.ordered.is_not(None))
_signs = not_(func.coalesce(s.c.schemes.contains(["none"]), False))
_has_secret = exists().where(secret.c.subscription_id == s.c.id, secret.c.expires_at.is_(None))
_secrets = (
    select(func.count()).where(secret.c.subscription_id == s.c.id).correlate(s).scalar_subquery()
)

BELONGINGS = Sheet(
    s.outerjoin(f, f.c.subscription_id == s.c.id, full=True),
    func.coalesce(s.c.id, f.c.subscription_id),
    (
        Check("throttle_missing", and_(LIVE, IS_LIMITED, f.c.subscription_id.is_(None)),
              "it has limits", "no throttle to keep them by"),
        Check("throttle_left", and_(f.c.subscription_id.is_not(None),
                                    not_(func.coalesce(LIVE, False))),
              said("%s", func.coalesce(s.c.state, "there is no such subscription")), "a throttle"),
        Check("secret_missing", and_(LIVE, _signs, not_(_has_secret)),
              said("signs by %s", cast(s.c.schemes, Text)), "no secret that does not end"),
        Check("secret_left", and_(EXISTS, s.c.state == "removed", _secrets > 0),
              "removed", said("%s secrets", _secrets)),
    ),
)  # fmt: skip
