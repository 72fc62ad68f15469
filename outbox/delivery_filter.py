"""Which deliveries: one value that lists and repairs take.

A filter knows in which states its deliveries can be, and from that follows where to look:
what is pending stands in the queue, what is dead in an index of its own, and anything else
in the log, whose ids are in the order of time. So a page of the usual questions costs a
page, however long the log is.

    wanted = DeliveryFilter(subscription_id=id, state="dead", status="5xx")
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    LargeBinary,
    Text,
    Uuid,
    any_,
    cast,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from .encoding import check_text
from .errors import InvalidInput
from .event_filter import data_holds, is_of_type
from .event_types import check_pattern
from .moments import check_range, uuid7_floor
from .tables import INFINITY, attempt, delivery, delivery_queue, event, subscription

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, FromClause, Select

STATES = ("pending", "delivered", "dead", "cancelled")
ENDS = ("delivered", "dead", "cancelled")
HELD = "held"  # pending, but not now: its subscription is stopped, or another comes first
OUTCOMES = ("delivered", "retry", "dead", "cancelled", "lost")  # those of a last attempt
ERROR_CLASSES = (
    "dns", "connect", "tls", "timeout", "reset", "stale", "protocol", "blocked", "truncated",
    "internal",
)  # fmt: skip

_STATUS = re.compile("[1-5]([0-9]{2}|xx)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFilter:
    """What is None does not narrow.

    `type` is an event type or a pattern, `tenant` and `subject` are the event's. `state` is
    one of STATES, or `held`. `outcome`, `status` (`503` or `5xx`) and `error_class` are those
    of the last attempt. `since` and `until` are by when the delivery was made, the latter not
    included. `text` stands in the event's data, or in the error or the response of an
    attempt. `replay_id` is the replay that asked for it. `ids` are deliveries by name.

    Raises InvalidInput.
    """

    ids: tuple[UUID, ...] | None = None
    subscription_id: UUID | None = None
    event_id: UUID | None = None
    type: str | None = None
    tenant: str | None = None
    subject: str | None = None
    state: str | None = None
    outcome: str | None = None
    status: str | None = None
    error_class: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    replay_id: UUID | None = None

    def __post_init__(self) -> None:
        _check_choice("state", self.state, (*STATES, HELD))
        _check_choice("outcome", self.outcome, OUTCOMES)
        _check_choice("error-class", self.error_class, ERROR_CLASSES)
        if self.status is not None and not _STATUS.fullmatch(self.status):
            raise InvalidInput("status", "must be a status such as 503, or a class such as 5xx")
        if self.type is not None:
            check_pattern(self.type, "type")
        if self.text is not None:
            check_text("text", self.text, 1_024)
        check_range(self.since, self.until)


def _check_choice(field: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise InvalidInput(field, f"must be one of {', '.join(known)}")


EVERYTHING = DeliveryFilter()


def possible_states(wanted: DeliveryFilter) -> frozenset[str]:
    """Return the states in which deliveries that fit can be.

    >>> sorted(possible_states(DeliveryFilter(status="5xx")))
    ['dead', 'pending']
    """
    found = frozenset(STATES)
    if wanted.state is not None:
        found &= {"pending" if wanted.state == HELD else wanted.state}
    if wanted.outcome is not None:
        found &= {wanted.outcome if wanted.outcome in ENDS else "pending"}
    if wanted.status is not None:  # a 2xx ends it, and nothing else of what was answered does
        found &= {"delivered"} if wanted.status[0] == "2" else {"pending", "dead"}
    if wanted.error_class is not None:
        whole = wanted.error_class != "truncated"
        found &= {"pending", "dead"} if whole else {"pending", "dead", "delivered"}
    return found


def matching(
    wanted: DeliveryFilter,
    *,
    states: Collection[str] = STATES,
    after: UUID | None = None,
    before: UUID | None = None,
    newest_first: bool = True,
) -> Select[Any]:
    """Return a query for the ids, as `id`, of the deliveries that fit and are in `states`.

    `after` and `before` are the ends of a range of ids, neither included.
    """
    found = possible_states(wanted).intersection(states)
    if not found:
        return select(delivery.c.id).where(false())
    key, source = _source(found, newest_first=newest_first)
    query = select(key.label("id")).select_from(source)
    if source is not delivery:
        query = query.join(delivery, delivery.c.id == key)
    for joined in _joins(wanted):
        query = query.join(*joined)
    query = query.where(*_conditions(wanted, key), *_in_states(wanted, found))
    if after is not None:
        query = query.where(key > after)
    if before is not None:
        query = query.where(key < before)
    return query.order_by(_in_order(key, newest_first=newest_first))


def last_attempt() -> FromClause:
    """Return the attempt that tells how a delivery stands: the one that ended it, else the last.

    What came too late tells nothing.
    """
    return (
        select(attempt.c.attempt, attempt.c.outcome, attempt.c.status, attempt.c.error_class,
               attempt.c.error)
        .where(attempt.c.delivery_id == delivery.c.id, attempt.c.outcome != "late")
        .order_by(
            attempt.c.outcome.in_(ENDS).desc(), attempt.c.attempt.desc(),
            attempt.c.recorded_at.desc(),
        )
        .limit(1)
        .lateral("last")
    )  # fmt: skip


_DEAD = attempt.alias("dead")
_IS_DEAD = _DEAD.c.outcome == literal_column("'dead'")  # as the index of the dead ones says it
_LAST = last_attempt()
_NAMED = (  # as the members of the filter that they are equal to
    delivery.c.subscription_id, delivery.c.event_id, delivery.c.replay_id,
    event.c.tenant, event.c.subject, _LAST.c.outcome, _LAST.c.error_class,
)  # fmt: skip


def _source(
    states: frozenset[str], *, newest_first: bool
) -> tuple[ColumnElement[UUID], FromClause]:
    """Return where deliveries in these states are found soonest, and the column of their ids."""
    if states == {"pending"}:
        return delivery_queue.c.delivery_id, delivery_queue
    if states == {"dead"}:
        return _DEAD.c.delivery_id, _DEAD
    if states == {"pending", "dead"}:  # each in order, so that they are merged, not sorted
        queued, dead = delivery_queue.c.delivery_id, _DEAD.c.delivery_id
        both = union_all(
            select(queued).order_by(_in_order(queued, newest_first=newest_first)),
            select(dead).where(_IS_DEAD).order_by(_in_order(dead, newest_first=newest_first)),
        ).subquery("candidate")
        return both.c.delivery_id, both
    return delivery.c.id, delivery


def _in_order(key: ColumnElement[UUID], *, newest_first: bool) -> ColumnElement[UUID]:
    return key.desc() if newest_first else key


def _joins(wanted: DeliveryFilter) -> Iterator[tuple[Any, ColumnElement[bool]]]:
    if any(value is not None for value in (wanted.type, wanted.tenant, wanted.subject)):
        yield event, event.c.id == delivery.c.event_id
    if wanted.state == HELD:
        yield subscription, subscription.c.id == delivery.c.subscription_id
    if any(value is not None for value in (wanted.outcome, wanted.status, wanted.error_class)):
        yield _LAST, true()


def _conditions(wanted: DeliveryFilter, key: ColumnElement[UUID]) -> Iterator[ColumnElement[bool]]:
    if wanted.ids is not None:
        yield key == any_(literal(list(wanted.ids), ARRAY(Uuid)))
    for column in _NAMED:
        value = getattr(wanted, column.name)
        if value is not None:
            yield column == value
    if wanted.type is not None:
        yield is_of_type(wanted.type)
    if wanted.status is not None:
        low = int(wanted.status.replace("x", "0"))
        yield _LAST.c.status.between(low, low if wanted.status.isdigit() else low + 99)
    if wanted.since is not None:
        yield key >= uuid7_floor(wanted.since)
    if wanted.until is not None:
        yield key < uuid7_floor(wanted.until)
    if wanted.text is not None:
        yield _tells_of(wanted.text, key)


def _in_states(wanted: DeliveryFilter, states: frozenset[str]) -> Iterator[ColumnElement[bool]]:
    if wanted.state == HELD:
        yield or_(subscription.c.state != "active", delivery_queue.c.due_at == INFINITY)
    if states == {"dead"}:
        yield _IS_DEAD
    elif states not in ({"pending"}, {"pending", "dead"}, set(STATES)):
        ended = select(attempt.c.delivery_id).where(
            attempt.c.delivery_id == delivery.c.id, attempt.c.outcome.in_(states & set(ENDS))
        )
        is_open = select(delivery_queue.c.delivery_id).where(
            delivery_queue.c.delivery_id == delivery.c.id
        )
        yield or_(ended.exists(), is_open.exists()) if "pending" in states else ended.exists()


def _tells_of(text: str, key: ColumnElement[UUID]) -> ColumnElement[bool]:
    body = func.pg_catalog.position(attempt.c.response_body, literal(text.encode(), LargeBinary))
    told = select(attempt.c.delivery_id).where(
        attempt.c.delivery_id == key,
        or_(func.strpos(attempt.c.error, cast(text, Text)) > 0, body > 0),
    )
    data = select(event.c.id).where(event.c.id == delivery.c.event_id, data_holds(text))
    return or_(told.exists(), data.exists())
