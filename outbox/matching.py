"""Who gets an event, and why the others do not: matching, explained.

What matches is defined once, in schema.sql (`outbox.matching`, `outbox.passes`), and asked
here as the fan-out asks it. Of those that do not match a few are told of, as there may be
very many: first those whose filter alone keeps it out, then those of the same tenant.

    found = matching.explain(connection, type="invoice.paid", data='{"amount": 7}')
    [each.url for each in found.matching]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    Text,
    Uuid,
    and_,
    any_,
    case,
    cast,
    column,
    func,
    literal,
    null,
    select,
)

from .event_types import check_type
from .events import fan_out_state
from .moments import moment_of
from .tables import JsonPath, JsonText, delivery, subscription, subscription_type

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, Select

    from .events import StoredEvent

OTHERS = 20  # of those that do not match, so many are told of


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a subscription gets an event.

    `reason` is why not: `type`, `operational` (a bare `*` does not mean events of the outbox
    itself), `tenant` or `filter`. `matches` is None where there is a filter and no data to
    ask it. `held` is why its deliveries wait.
    """

    id: UUID
    name: str | None
    tenant: str | None
    url: str
    types: tuple[str, ...]
    filter: str | None
    matches: bool | None
    reason: str | None
    held: str | None
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Explanation:
    """Who gets an event, and some of those who do not; in all there are `others_in_all`."""

    matching: tuple[Verdict, ...]
    others: tuple[Verdict, ...]
    others_in_all: int


def explain(
    connection: Connection,
    *,
    type: str,
    tenant: str | None = None,
    data: str | None = None,
    ours: bool = False,
    others: int = OTHERS,
) -> Explanation:
    """Return who would get an event of `type` and `tenant` with `data`, a JSON text.

    Without `data`, filters are not asked. `ours` is whether the outbox itself emits it. All
    that match are told of, of the others at most `others`. Raises InvalidInput.
    """
    wanted = _Wanted(check_type(type), tenant, data, ours)
    candidates = connection.execute(_candidates(wanted)).mappings().all()
    verdicts = [_verdict(row, "filter") for row in candidates]
    matching = [each for each in verdicts if each.matches is not False]
    refused = [each for each in verdicts if each.matches is False]
    far = connection.execute(_far(wanted).limit(max(0, others - len(refused)))).mappings()
    near = [*refused[:others], *(_verdict(row, row["why"]) for row in far)]
    return Explanation(tuple(matching), tuple(near), _count(connection) - len(matching))


@dataclass(frozen=True, slots=True)
class _Wanted:
    type: str
    tenant: str | None
    data: str | None
    ours: bool


_SHOWN = [
    subscription.c[name]
    for name in ("id", "name", "tenant", "url", "types", "filter", "state", "state_reason",
                 "created_at", "changed_at")
]  # fmt: skip
_STANDING = subscription.c.state != "removed"


def _fitting(wanted: _Wanted) -> Any:
    """The subscriptions whose types and tenant fit, with their filters."""
    found = func.outbox.matching(
        literal(wanted.type, Text), literal(wanted.tenant, Text), literal(wanted.ours, Boolean)
    )
    return found.table_valued(column("subscription_id", Uuid), column("filter", JsonPath)).alias(
        "fitting"
    )


def _candidates(wanted: _Wanted) -> Select[Any]:
    """Those whose filter decides; `passes` is None where it cannot be asked."""
    fitting = _fitting(wanted)
    asked = func.outbox.passes(
        cast(cast(literal(wanted.data, Text), Text), JsonText), fitting.c.filter
    )
    unasked = and_(fitting.c.filter.is_not(None), literal(wanted.data is None))
    passes: ColumnElement[Any] = case((unasked, null()), else_=asked)
    return (
        select(*_SHOWN, cast(passes, Boolean).label("passes"))
        .select_from(fitting)
        .join(subscription, subscription.c.id == fitting.c.subscription_id)
        .order_by(subscription.c.id)
    )


def _far(wanted: _Wanted) -> Select[Any]:
    """Those whose types or tenant do not fit, of the same tenant first."""
    fitting = select(_fitting(wanted).c.subscription_id)
    tenant = literal(wanted.tenant, Text)
    fits = subscription_type.c.pattern == any_(func.outbox.patterns(literal(wanted.type, Text)))
    typed = select(subscription_type).where(
        subscription_type.c.subscription_id == subscription.c.id, fits
    )
    meant = typed.where(subscription_type.c.pattern != "*")
    why = case(
        (~typed.exists(), "type"),
        (and_(literal(wanted.ours), ~meant.exists()), "operational"),
        else_="tenant",
    )
    near = func.coalesce(subscription.c.tenant, tenant, "") == func.coalesce(tenant, "")
    return (
        select(*_SHOWN, literal(False).label("passes"), why.label("why"))
        .where(_STANDING, subscription.c.id.not_in(fitting))
        .order_by(near.desc(), subscription.c.id)
    )


def _count(connection: Connection) -> int:
    return connection.execute(select(func.count()).where(_STANDING)).scalar_one()


def _verdict(row: Any, why: str) -> Verdict:
    stopped = row["state"] != "active"
    reason = f": {row['state_reason']}" if row["state_reason"] else ""
    return Verdict(
        row["id"],
        row["name"],
        row["tenant"],
        row["url"],
        tuple(row["types"]),
        row["filter"],
        row["passes"],
        why if row["passes"] is False else None,
        f"{row['state']}{reason}" if stopped else None,
        row["created_at"],
        row["changed_at"],
    )


# An event that there is.


def explain_event(
    connection: Connection, event: StoredEvent, *, others: int = OTHERS
) -> Explanation:
    """Return who would get `event` now, as `explain` does."""
    return explain(
        connection,
        type=event.type,
        tenant=event.tenant,
        data=event.data,
        ours=event.source == "outbox",
        others=others,
    )


def fates(connection: Connection, event: StoredEvent, found: Explanation) -> dict[UUID, str]:
    """Return what came of `event` for each subscription that matches it now.

    `delivery`: it has one. Else why not: the event `waits for its fan-out`, its fan-out was
    `set aside`, the subscription was `added later` or `changed later`; or it is `missing`.
    """
    query = select(delivery.c.subscription_id).where(delivery.c.event_id == event.id)
    served = set(connection.execute(query).scalars())
    state = fan_out_state(connection, event.id)
    return {
        each.id: "delivery" if each.id in served else _why_none(event, each, state)
        for each in found.matching
    }


def _why_none(event: StoredEvent, to: Verdict, fan_out: str) -> str:
    """Why an event that matches has no delivery; `fan_out` is how far its fan-out is."""
    made = moment_of(event.id)
    due = made if event.due_at is None else max(made, event.due_at)
    if fan_out != "done":
        return "waits for its fan-out" if fan_out == "waiting" else fan_out
    if to.created_at > due:
        return "added later"
    return "changed later" if to.changed_at > due else "missing"
