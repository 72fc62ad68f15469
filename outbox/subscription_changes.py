"""A subscription as it stands, and each change to it as a fact.

Whoever changes one locks its row first, and records what it was afterwards. So the facts
tell all of its story: what differs from one to the next is what was changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, column, func, insert, select, update

from .errors import NotFound, WrongState
from .subscription_settings import NAMES, Difference, Settings, as_dict, differences
from .tables import subscription, subscription_change

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Connection, RowMapping


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes something (`actor`), and from where (`command`)."""

    actor: str
    command: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """A row of `outbox.subscription`: its settings, and its state."""

    id: UUID
    name: str | None
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

    @property
    def settings(self) -> Settings:
        """What it is asked to be."""
        return Settings(**as_dict(self))


@dataclass(frozen=True, slots=True)
class Change:
    """A row of `outbox.subscription_change`, and how it `differs` from the one before."""

    id: UUID
    revision: int
    change: str
    actor: str
    command: str
    changed_at: datetime
    differs: tuple[Difference, ...]


def show(connection: Connection, id: UUID) -> Subscription:
    """Return the subscription `id`. Raises NotFound."""
    row = connection.execute(select(*COLUMNS).where(subscription.c.id == id)).mappings().first()
    if row is None:
        raise NotFound("subscription", str(id))
    return from_row(row)


def lock(connection: Connection, id: UUID, states: set[str], verb: str) -> Subscription:
    """Keep others from changing it until the transaction ends; return it.

    Raises NotFound, and WrongState unless it is in one of `states`.
    """
    query = select(*COLUMNS).where(subscription.c.id == id).with_for_update()
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound("subscription", str(id))
    if row["state"] not in states:
        raise WrongState("subscription", str(id), row["state"], verb)
    return from_row(row)


def write(connection: Connection, id: UUID, values: Mapping[str, Any]) -> None:
    """Give it the next revision, with `values`."""
    next_ = {**values, "revision": subscription.c.revision + 1, "changed_at": func.now()}
    connection.execute(update(subscription).where(subscription.c.id == id).values(next_))


def record(connection: Connection, id: UUID, change: str, by: Author) -> Subscription:
    """Write down that `by` changed it, and what it is now; return that."""
    row = select(func.to_jsonb(column("subscription"))).select_from(subscription)
    after = row.where(subscription.c.id == id).scalar_subquery()
    changed = show(connection, id)
    connection.execute(
        insert(subscription_change).values(
            subscription_id=id,
            revision=changed.revision,
            change=change,
            actor=by.actor,
            command=by.command,
            after=after,
        )
    )
    return changed


def history(
    connection: Connection, id: UUID, *, before: UUID | None = None, limit: int = 50
) -> list[Change]:
    """Return the newest changes to the subscription `id`, at most `limit`; also of a removed one.

    `before` is the last id of the page before. Header values that look like credentials
    are hidden. Raises NotFound.
    """
    columns = subscription_change.c
    previous = func.lag(columns.after).over(order_by=columns.revision).label("previous")
    told = (
        select(
            columns.id,
            columns.revision,
            columns.change,
            columns.actor,
            columns.command,
            columns.changed_at,
            previous,
            columns.after,
        )
        .where(columns.subscription_id == id)
        .subquery()
    )
    query = select(told).order_by(told.c.revision.desc()).limit(limit)
    if before is not None:
        query = query.where(told.c.id < before)
    found = connection.execute(query).mappings().all()
    if not found and before is None:
        show(connection, id)
    return [_change(**row) for row in found]


def _change(*, previous: Any, after: Any, **fact: Any) -> Change:
    return Change(**fact, differs=tuple(differences(_told(previous), _told(after))))


def _told(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return of a row as it was kept what can be set, and its state; what lacks was unset."""
    return {name: (row or {}).get(name) for name in (*NAMES, "state", "state_reason")}


def from_row(row: RowMapping) -> Subscription:
    """Return the subscription of a row of `COLUMNS`."""
    values: dict[str, Any] = dict(row)
    values["types"] = tuple(values["types"])
    values["schemes"] = tuple(values["schemes"])
    values["headers"] = json.loads(values["headers"])
    values["schedule"] = None if values["schedule"] is None else tuple(values["schedule"])
    return Subscription(**values)


COLUMNS = [c if c.name != "headers" else cast(c, Text).label("headers") for c in subscription.c]
