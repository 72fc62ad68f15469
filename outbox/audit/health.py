"""How subscriptions fare, against what their attempts say.

Exact to the margin: results that are recorded together are noted together, and where one
of them succeeded the failures among them say nothing; notes of two workers may come in
another order than their clocks. A subscription without a row is only asked for failures of
deliveries that are still open.
"""

from __future__ import annotations

from sqlalchemy import and_, exists, func, literal_column, not_, or_, select

from ..tables import (
    attempt,
    delivery,
    delivery_queue,
    event,
    subscription,
    subscription_change,
    subscription_health,
)
from .deliveries import LONGEST_DELAY, OWN_FAULT
from .sheet import KEPT, MARGIN, Check, Sheet, between, said

FAILURE = and_(attempt.c.outcome.in_(("retry", "dead")), not_(OWN_FAULT))
SUCCESS = attempt.c.outcome == "delivered"
# Deliveries of the outbox's own events are not counted.
OPERATIONAL = func.coalesce(
    select(event.c.source == "outbox")
    .where(event.c.id == delivery.c.event_id)
    .limit(1)
    .scalar_subquery(),
    literal_column("false"),
)

h = select(subscription_health).where(between(subscription_health.c.subscription_id)).subquery("h")
noted = (
    select(
        h.c.subscription_id,
        func.count()
        .filter(FAILURE, attempt.c.recorded_at > h.c.failing_since + MARGIN)
        .label("least"),
        func.count().filter(FAILURE).label("most"),
        func.max(attempt.c.recorded_at).filter(SUCCESS).label("succeeded_at"),
    )
    .join(delivery, delivery.c.subscription_id == h.c.subscription_id)
    .join(attempt, attempt.c.delivery_id == delivery.c.id)
    .where(
        attempt.c.recorded_at >= h.c.failing_since - MARGIN, FAILURE | SUCCESS, not_(OPERATIONAL)
    )
    .group_by(h.c.subscription_id)
    .subquery("noted")
)
_KEPT = func.outbox.uuid7_floor(h.c.failing_since - LONGEST_DELAY) >= KEPT
_since = said("%s failures since %s", h.c.failures, h.c.failing_since)
_most, _least = func.coalesce(noted.c.most, 0), func.coalesce(noted.c.least, 0)

HEALTH = Sheet(
    h.outerjoin(noted, noted.c.subscription_id == h.c.subscription_id),
    h.c.subscription_id,
    (
        Check("health_failures", or_(
                  h.c.failures < _least, h.c.failures < 1, and_(h.c.failures > _most, _KEPT)),
              said("%s to %s failures since then", _least, _most), _since),
        Check("health_success", noted.c.succeeded_at > h.c.failing_since + MARGIN,
              said("succeeded at %s", noted.c.succeeded_at), _since),
    ),
)  # fmt: skip

s = subscription.alias("s")
failing = (
    select(
        delivery.c.subscription_id,
        func.max(attempt.c.recorded_at).label("failed_at"),
        func.count().label("failures"),
    )
    .select_from(delivery_queue)
    .join(delivery, delivery.c.id == delivery_queue.c.delivery_id)
    .join(attempt, attempt.c.delivery_id == delivery.c.id)
    .where(delivery_queue.c.failures > 0, FAILURE, not_(OPERATIONAL))
    .where(attempt.c.recorded_at < func.now() - MARGIN)
    .group_by(delivery.c.subscription_id)
    .subquery("failing")
)
_begun_anew = exists().where(
    subscription_change.c.subscription_id == failing.c.subscription_id,
    subscription_change.c.change.not_in(("disabled", "paused", "rotated", "unblocked")),
    subscription_change.c.changed_at > failing.c.failed_at - MARGIN,
)
_succeeded = exists().where(
    delivery.c.subscription_id == failing.c.subscription_id,
    attempt.c.delivery_id == delivery.c.id,
    SUCCESS,
    attempt.c.recorded_at > failing.c.failed_at - MARGIN,
)
_has_row = exists().where(subscription_health.c.subscription_id == failing.c.subscription_id)

NO_HEALTH = Sheet(
    failing.join(s, and_(s.c.id == failing.c.subscription_id, s.c.state != "removed")),
    failing.c.subscription_id,
    (
        Check("health_missing", and_(not_(_has_row), not_(_begun_anew), not_(_succeeded)),
              said("failed at %s, and nothing succeeded since", failing.c.failed_at),
              "nothing says that it fails"),
    ),
)  # fmt: skip
