"""Who wants to know: webhooks, as they are now, and every change to them.

Each function works in the caller's transaction and writes the change as a fact beside
it: who made it, from which command, and what the subscription was afterwards.

    with engine.begin() as connection:
        added, secret = subscriptions.add(connection, url, ["invoice.*"], by=Author("ada", "setup"))
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    CTE,
    Text,
    Uuid,
    cast,
    column,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from . import health, secrets
from .addresses import PUBLIC, check_url
from .encoding import check_text
from .errors import InvalidInput, NotFound, WrongState
from .event_types import check_pattern
from .filters import check_filter
from .formats import FORMATS
from .keyring import Keyring
from .limits import check_limits
from .request import check_choices
from .schedule import check_schedule
from .tables import (
    attempt,
    blocked_subject,
    delivery_queue,
    secret,
    subscription,
    subscription_change,
    subscription_type,
    throttle,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, RowMapping, Update

    from .addresses import Allowed

DAY = 24 * 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes something (`actor`), and from where (`command`)."""

    actor: str
    command: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """A row of `outbox.subscription`: the arguments of `add`, and its state."""

    id: UUID
    tenant: str | None
    url: str
    types: tuple[str, ...]
    filter: str | None
    method: str
    format: str
    schemes: tuple[str, ...]
    headers: Mapping[str, str]
    user_agent: str | None
    timeout: float | None
    schedule: tuple[float, ...] | None
    max_age: float | None
    max_in_flight: int | None
    rate: float | None
    burst: int | None
    ordered: str | None
    state: str
    state_reason: str | None
    revision: int
    created_at: datetime
    changed_at: datetime


def add(
    connection: Connection,
    url: str,
    types: Sequence[str],
    *,
    by: Author,
    tenant: str | None = None,
    filter: str | None = None,
    method: str = "POST",
    format: str = "standard",
    schemes: Sequence[str] | None = None,
    headers: Mapping[str, str] | None = None,
    user_agent: str | None = None,
    timeout: float | None = None,
    schedule: Sequence[float] | None = None,
    max_age: float | None = None,
    max_in_flight: int | None = None,
    rate: float | None = None,
    burst: int | None = None,
    ordered: str | None = None,
    secret_text: str | None = None,
    keyring: Keyring | None = None,
    allow: Allowed = PUBLIC,
) -> tuple[Subscription, str | None]:
    """Add a subscription and return it with its secret, which is not shown again.

    Without `tenant` it gets the events of every tenant. `filter` is an SQL/JSON path over
    the data. `schedule` is the seconds before each attempt, `timeout` those that one may
    take, `max_age` those after which a delivery is dead. Without `schemes` the format's own
    signs, which is `standard` for all but `logto`. Without `secret_text` a new `whsec_`
    secret is made; the scheme `none` has none. It is sealed with `keyring`, or else with
    that of OUTBOX_SECRET_KEY.

    The limits hold for all workers together: `max_in_flight` requests at once, `rate` a
    second and in no second more than `burst` above it, `ordered` ("stop" or "skip" what is dead)
    for one event of a subject after the other. `allow` is what the operator allows besides
    public addresses (`addresses.parse_allow`). Raises InvalidInput.
    """
    patterns = _check_types(types)
    check_choices(headers or {}, format=format, schemes=schemes, user_agent=user_agent)
    schemes = schemes or (FORMATS[format].scheme,)
    secret_text = secrets.chosen(secret_text, schemes)
    values: dict[str, Any] = {
        "tenant": None if tenant is None else check_text("tenant", tenant, 255),
        "url": check_url(url, allow=allow),
        "types": patterns,
        "format": format,
        "schemes": list(schemes),
        "headers": json.dumps(dict(headers or {})),
        "user_agent": user_agent,
        "schedule": None if schedule is None else list(check_schedule(schedule)),
    }
    limits = {"max_in_flight": max_in_flight, "rate": rate, "burst": burst, "ordered": ordered}
    values |= check_limits(method=method, timeout=timeout, max_age=max_age, **limits)
    values["filter"] = None if filter is None else check_filter(connection, filter)

    id = connection.execute(insert(subscription).returning(subscription.c.id), values).scalar_one()
    rows = [{"pattern": p, "tenant": tenant or "", "subscription_id": id} for p in patterns]
    connection.execute(insert(subscription_type), rows)
    if secret_text is not None:
        secrets.store(connection, keyring or Keyring.read(), id, secret_text)
    if any(limit is not None for limit in limits.values()):
        connection.execute(insert(throttle), {"subscription_id": id})
    return _record_change(connection, show(connection, id), "added", by), secret_text


def list_subscriptions(
    connection: Connection, *, tenant: str | None = None, removed: bool = False
) -> list[Subscription]:
    """Return all subscriptions, oldest first; those of `tenant` alone if it is given."""
    query = select(*_COLUMNS).order_by(subscription.c.id)
    if tenant is not None:
        query = query.where(subscription.c.tenant == tenant)
    if not removed:
        query = query.where(subscription.c.state != "removed")
    return [_from_row(row) for row in connection.execute(query).mappings()]


def show(connection: Connection, id: UUID) -> Subscription:
    """Return the subscription `id`. Raises NotFound."""
    row = connection.execute(select(*_COLUMNS).where(subscription.c.id == id)).mappings().first()
    if row is None:
        raise NotFound("subscription", str(id))
    return _from_row(row)


def pause(
    connection: Connection, id: UUID, *, by: Author, reason: str | None = None
) -> Subscription:
    """Stop sending to it. Its deliveries are held, new ones as well, until `resume`."""
    return _change_state(connection, id, "paused", from_states={"active", "paused"}, by=by,
                         reason=reason or f"paused by {by.actor}")  # fmt: skip


def resume(connection: Connection, id: UUID, *, by: Author) -> Subscription:
    """Send again, whether a person paused it or a worker disabled it.

    Its deliveries come when they were due, its failures are forgotten.
    """
    return _change_state(
        connection, id, "active", from_states={"active", "paused", "disabled"}, by=by, reason=None
    )


def remove(connection: Connection, id: UUID, *, by: Author) -> Subscription:
    """End it for good: its open deliveries are cancelled, its secrets are deleted."""
    removed = _change_state(
        connection, id, "removed", from_states={"active", "paused", "disabled"}, by=by,
        reason=f"removed by {by.actor}",
    )  # fmt: skip
    connection.execute(delete(subscription_type).where(subscription_type.c.subscription_id == id))
    cancel_open(connection, id, removed.state_reason or "removed")
    health.forget(connection, id)
    for table in (secret, throttle, blocked_subject):
        connection.execute(delete(table).where(table.c.subscription_id == id))
    return removed


def unblock(
    connection: Connection, id: UUID, *, by: Author, subject: str | None = None
) -> list[str]:
    """Let subjects that stand still behind a dead delivery go on; return them.

    Without `subject` all of them. Raises NotFound.
    """
    show(connection, id)
    freed = delete(blocked_subject).where(blocked_subject.c.subscription_id == id)
    if subject is not None:
        freed = freed.where(blocked_subject.c.subject == subject)
    subjects = list(connection.execute(freed.returning(blocked_subject.c.subject)).scalars())
    if subjects:
        connection.execute(select(_promote([id] * len(subjects), subjects)))
        connection.execute(_next_revision(id, {}))
        _record_change(connection, show(connection, id), "unblocked", by)
    return sorted(subjects)


def _promote(ids: list[UUID], subjects: list[str]) -> ColumnElement[int]:
    return func.outbox.promote(cast(ids, ARRAY(Uuid)), cast(subjects, ARRAY(Text)))


def rotate_secret(
    connection: Connection,
    id: UUID,
    *,
    by: Author,
    overlap: float = DAY,
    secret_text: str | None = None,
    keyring: Keyring | None = None,
) -> tuple[Subscription, str]:
    """Give it a new secret and return it with that, which is not shown again.

    The old ones go on signing beside it for `overlap` seconds, at most 10 in all. Without
    `secret_text` one of the kind of the newest is made. Raises InvalidInput.
    """
    _lock(connection, id, {"active", "paused", "disabled"}, "given a new secret")
    schemes = show(connection, id).schemes
    new = secrets.rotate(
        connection, keyring or Keyring.read(), id, schemes, secret_text, overlap=overlap
    )
    connection.execute(_next_revision(id, {}))
    return _record_change(connection, show(connection, id), "rotated", by), new


def cancel_open(connection: Connection, id: UUID, reason: str) -> int:
    """End every open delivery of subscription `id` as cancelled; return how many."""
    gone = _deleted_deliveries(id)
    cancelled = select(
        gone.c.delivery_id, gone.c.attempt, literal("cancelled"), literal(reason, Text)
    )
    columns = ["delivery_id", "attempt", "outcome", "error"]
    return connection.execute(insert(attempt).from_select(columns, cancelled)).rowcount


def _deleted_deliveries(id: UUID) -> CTE:
    return (
        delete(delivery_queue)
        .where(delivery_queue.c.subscription_id == id)
        .returning(delivery_queue.c.delivery_id, delivery_queue.c.attempt)
        .cte("gone")
    )


_VERBS = {"active": "resumed", "paused": "paused", "removed": "removed"}


def _change_state(
    connection: Connection,
    id: UUID,
    state: str,
    *,
    from_states: set[str],
    by: Author,
    reason: str | None,
) -> Subscription:
    if _lock(connection, id, from_states, _VERBS[state]) == state:
        return show(connection, id)
    connection.execute(_next_revision(id, {"state": state, "state_reason": reason}))
    if state == "active":
        health.forget(connection, id)
    return _record_change(connection, show(connection, id), _VERBS[state], by)


def _next_revision(id: UUID, changes: Mapping[str, Any]) -> Update:
    values = {**changes, "revision": subscription.c.revision + 1, "changed_at": func.now()}
    return update(subscription).where(subscription.c.id == id).values(values)


def _lock(connection: Connection, id: UUID, states: set[str], verb: str) -> str:
    """Keep others from changing it until the transaction ends; return its state."""
    query = select(subscription.c.state).where(subscription.c.id == id).with_for_update()
    found: str | None = connection.execute(query).scalar()
    if found is None:
        raise NotFound("subscription", str(id))
    if found not in states:
        raise WrongState("subscription", str(id), found, verb)
    return found


def _record_change(
    connection: Connection, changed: Subscription, change: str, by: Author
) -> Subscription:
    after = (
        select(func.to_jsonb(column("subscription")))
        .select_from(subscription)
        .where(subscription.c.id == changed.id)
        .scalar_subquery()
    )
    connection.execute(
        insert(subscription_change).values(
            subscription_id=changed.id,
            revision=changed.revision,
            change=change,
            actor=by.actor,
            command=by.command,
            after=after,
        )
    )
    return changed


def _check_types(types: Sequence[str]) -> list[str]:
    checked = list(dict.fromkeys(check_pattern(pattern) for pattern in types))
    if not checked:
        raise InvalidInput("types", "must have at least one event type or pattern")
    return checked


def _from_row(row: RowMapping) -> Subscription:
    values: dict[str, Any] = dict(row)
    values["types"] = tuple(values["types"])
    values["schemes"] = tuple(values["schemes"])
    values["headers"] = json.loads(values["headers"])
    values["schedule"] = None if values["schedule"] is None else tuple(values["schedule"])
    return Subscription(**values)


_COLUMNS = [c if c.name != "headers" else cast(c, Text).label("headers") for c in subscription.c]
