"""Events: each waits for its fan-out, or was fanned out, once to each subscription it matched.

An event that matched nothing leaves no trace but itself, and so would one whose place in
the queue was lost. What can be proven is this: a subscription that matches it now, whose
tenant, types and filter have been the same since an hour before the event was written, and
which was not removed since, matched it then. So the event waits, or has a delivery to it.
What was written before that hour, or matched only what has been changed since, cannot be
told from what matched nothing. Nor can what a test event, which goes to one subscription
alone, would have matched: of those the outbox emits, only what has no delivery is looked at.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import (
    Boolean,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    column,
    distinct,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import INTERVAL

from ..tables import (
    JsonPath,
    delivery,
    event,
    event_key,
    event_queue,
    subscription_change,
)
from .sheet import FIRST, FOREVER, KEPT, Check, Sheet, between, later, said

SETTLED = cast(literal(timedelta(hours=1)), INTERVAL)  # no transaction of a change is open longer

e = select(event).where(between(event.c.id)).subquery("e")
d = (
    select(
        delivery.c.event_id,
        func.count().label("all"),
        func.count().filter(delivery.c.replay_id.is_(None)).label("fan_outs"),
        func.count(distinct(delivery.c.subscription_id))
        .filter(delivery.c.replay_id.is_(None))
        .label("recipients"),
    )
    .where(between(delivery.c.event_id))
    .group_by(delivery.c.event_id)
    .subquery("d")
)
q = (
    select(
        event_queue.c.event_id,
        func.count().label("places"),
        func.max(event_queue.c.due_at).filter(event_queue.c.error.is_(None)).label("due_at"),
    )
    .where(between(event_queue.c.event_id))
    .group_by(event_queue.c.event_id)
    .subquery("q")
)

ROWS = e.outerjoin(d, d.c.event_id == e.c.id, full=True).outerjoin(
    q, q.c.event_id == func.coalesce(e.c.id, d.c.event_id), full=True
)

EXISTS = e.c.id.is_not(None)
WAITS = q.c.event_id.is_not(None)
FANNED_OUT = func.coalesce(d.c.fan_outs, 0) > 0
WRONG_DUE_AT = and_(
    WAITS, q.c.due_at != FOREVER, q.c.due_at > func.greatest(e.c.due_at, later(func.now()))
)

EVENTS = Sheet(
    ROWS,
    func.coalesce(e.c.id, d.c.event_id, q.c.event_id),
    (
        Check("event_queue_orphan", and_(WAITS, not_(EXISTS)),
              "there is no such event", "it waits for its fan-out"),
        Check("event_queued_again", and_(EXISTS, WAITS, FANNED_OUT),
              said("%s deliveries were made of it", d.c.fan_outs), "it waits for its fan-out"),
        Check("event_queued_twice", and_(EXISTS, q.c.places > 1),
              "fanned out once", said("%s places in the queue", q.c.places)),
        Check("event_queue_due", and_(EXISTS, WRONG_DUE_AT),
              said("due at %s", func.coalesce(cast(e.c.due_at, Text), "once")),
              said("due at %s", q.c.due_at)),
        Check("delivery_event", and_(d.c.event_id.is_not(None), not_(EXISTS),
                                     d.c.event_id >= KEPT),
              said("%s deliveries of it", d.c.all), "there is no such event"),
        Check("delivery_twice", and_(EXISTS, d.c.fan_outs > d.c.recipients),
              said("fanned out to %s subscriptions", d.c.recipients),
              said("%s deliveries that no replay asked for", d.c.fan_outs)),
    ),
    counts={"events": func.count(e.c.id)},
)  # fmt: skip


# What must have been matched.

# These changes do not touch what a subscription matches; all others may.
_HARMLESS = ("paused", "resumed", "disabled", "rotated", "unblocked")
_is_ours = func.coalesce(event.c.source == "outbox", literal_column("false"))

kind = (
    select(event.c.type, func.coalesce(event.c.tenant, "").label("tenant"), _is_ours.label("ours"))
    .where(between(event.c.id))
    .distinct()
    .subquery("kind")
)
match = func.outbox.matching(kind.c.type, kind.c.tenant, kind.c.ours).table_valued(
    column("subscription_id", Uuid), column("filter", JsonPath), name="match"
)
_settled_at = (
    select(func.max(subscription_change.c.changed_at) + SETTLED)
    .where(
        subscription_change.c.subscription_id == match.c.subscription_id,
        subscription_change.c.change.not_in(_HARMLESS),
    )
    .scalar_subquery()
)
# Each type and tenant of the slice with its subscriptions, and the first event they matched.
matched = (
    select(kind, match, func.outbox.uuid7_floor(_settled_at).label("since"))
    .select_from(kind.join(match, true()))
    .cte("matched")
    .prefix_with("MATERIALIZED")
)
made = (
    select(delivery.c.event_id, delivery.c.subscription_id)
    .where(between(delivery.c.event_id), delivery.c.replay_id.is_(None))
    .subquery("made")
)
fresh = (
    select(event.c.id, event.c.type, event.c.tenant, event.c.data, _is_ours.label("ours"))
    .where(between(event.c.id), event.c.id >= KEPT)
    .subquery("fresh")
)
_same = and_(
    matched.c.type == fresh.c.type,
    matched.c.tenant == func.coalesce(fresh.c.tenant, ""),
    matched.c.ours == fresh.c.ours,
    matched.c.since <= fresh.c.id,
)
_made_of = and_(made.c.event_id == fresh.c.id, made.c.subscription_id == matched.c.subscription_id)
# First those without a delivery, then what their filters say: a filter costs more.
lacking = (
    select(fresh, matched.c.subscription_id, matched.c.filter, d.c.all)
    .select_from(
        fresh.join(matched, _same)
        .outerjoin(q, q.c.event_id == fresh.c.id)
        .outerjoin(d, d.c.event_id == fresh.c.id)
        .outerjoin(made, _made_of)
    )
    .where(q.c.event_id.is_(None), made.c.event_id.is_(None))
    .cte("lacking")
    .prefix_with("MATERIALIZED")
)
untold = (
    select(lacking.c.id, lacking.c.subscription_id, func.coalesce(lacking.c.all, 0).label("made"))
    .where(
        case(
            (and_(lacking.c.ours, lacking.c.all > 0), False),
            else_=func.outbox.passes(lacking.c.data, lacking.c.filter),
        )
    )
    .subquery("untold")
)

MATCHES = Sheet(
    untold,
    untold.c.id,
    (
        Check("event_lost", untold.c.made == 0,
              said("it matched subscription %s", untold.c.subscription_id),
              "neither a delivery nor a place in the queue"),
        Check("delivery_missing", untold.c.made > 0,
              said("it matched subscription %s", untold.c.subscription_id),
              said("%s deliveries, none to it", untold.c.made)),
    ),
)  # fmt: skip


# Keys. They have no order in time, so their slices are of their own order.

KEY = tuple_(event_key.c.tenant, event_key.c.key)
FIRST_KEY = tuple_(bindparam("first_tenant", type_=Text), bindparam("first_key", type_=Text))
LAST_KEY = tuple_(bindparam("last_tenant", type_=Text), bindparam("last_key", type_=Text))

k = (
    select(event_key)
    .where(KEY >= FIRST_KEY, or_(bindparam("to_the_end", type_=Boolean), KEY < LAST_KEY))
    .where(event_key.c.event_id >= FIRST)
    .subquery("k")
)
told = (
    select(
        event.c.type,
        event.c.subject,
        event.c.data,
        func.json_extract_path_text(event.c.context, "erased_at").is_not(None).label("erased"),
    )
    .where(event.c.id == k.c.event_id)
    .limit(1)
    .lateral("told")
)
_content = func.json_build_object(
    "type", told.c.type, "subject", told.c.subject, "data", told.c.data
)

KEYS = Sheet(
    k.outerjoin(told, true()),
    k.c.event_id,
    (
        Check("key_event", and_(told.c.type.is_(None), k.c.event_id >= KEPT),
              said("the key %s of tenant '%s' stands for it", k.c.key, k.c.tenant),
              "there is no such event"),
        Check("key_digest", and_(told.c.type.is_not(None), not_(told.c.erased),
                                 k.c.digest != func.outbox.digest(_content)),
              said("the key %s of tenant '%s' stands for other content", k.c.key, k.c.tenant),
              said("%s", told.c.type)),
    ),
)  # fmt: skip
