"""How subscriptions fare: failures since the last success, kept only while there are some.

Workers note them with each record. A subscription that a person resumes begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from .tables import subscription_health

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Failing:
    """Nothing but failures `since` the first of them."""

    since: datetime
    failures: int


def failing(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Failing]:
    """Return those of the subscriptions `ids` whose last attempts only failed.

    Attempts at operational events are not looked at, nor are faults of the worker itself.
    """
    columns = subscription_health.c
    query = select(columns.subscription_id, columns.failing_since, columns.failures)
    found = connection.execute(query.where(columns.subscription_id.in_(list(ids))))
    return {id: Failing(since, failures) for id, since, failures in found}


def forget(connection: Connection, id: UUID) -> None:
    """Begin anew: what failed before does not count any more."""
    columns = subscription_health.c
    connection.execute(delete(subscription_health).where(columns.subscription_id == id))
