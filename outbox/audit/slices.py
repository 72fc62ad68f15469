"""The audit: every sheet, slice by slice, each in a short transaction that only reads.

A slice is a range of ids. Each is looked at in one snapshot, so what workers do meanwhile
is seen whole or not at all, and no transaction is open long enough to hold back vacuum.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, tuple_

from ..tables import delivery, event, event_key, subscription_health
from . import deliveries, events, facts, health, limits, subscriptions
from .sheet import HIGHEST, LOWEST, Finding, Tally, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, Engine

    from .sheet import Sheet

SLICE = 50_000  # rows
FAILING = 20  # subscriptions whose health is looked at together

DELIVERIES = replace(deliveries.DELIVERIES, checks=(*deliveries.CHECKS, limits.BLOCKED_MISSING))
WHOLE: tuple[Sheet, ...] = (
    subscriptions.SUBSCRIPTIONS,
    subscriptions.REVISIONS,
    subscriptions.TYPES,
    subscriptions.BELONGINGS,
    limits.CLAIMS,
    limits.BLOCKED,
    facts.TRIGGERS,
    facts.COUNTERS,
)
ACCOUNT = ("events", "deliveries", "open", "held", "delivered", "dead", "cancelled", "attempts")


@dataclass(frozen=True, slots=True)
class Slice:
    """Sheets to look at together, with the range of their rows; `nested` lets them loop."""

    sheets: Sequence[Sheet]
    values: Mapping[str, Any]
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The slices of an audit."""

    slices: Sequence[Slice]

    @property
    def total(self) -> int:
        """How many slices there are, for a progress bar."""
        return len(self.slices)


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit came to.

    `account` has how many events, deliveries, open, held, delivered, dead, cancelled and
    attempts there are; `found` how many of each kind differ; `findings` the first of each.
    """

    account: Mapping[str, int]
    found: Mapping[str, int]
    findings: Sequence[Finding]

    @property
    def adds_up(self) -> bool:
        """Whether nothing differs, and deliveries = open + ended."""
        ended = sum(self.account[name] for name in ("open", "delivered", "dead", "cancelled"))
        return not self.found and self.account["deliveries"] == ended


def plan(engine: Engine, *, since: datetime | None = None, size: int = SLICE) -> Plan:
    """Cut what is to be audited into slices of `size` rows; `since` leaves out what is older."""
    with reading(engine) as connection:
        first = LOWEST if since is None else _floor(connection, since)
    failing = subscription_health.c.subscription_id
    all_of_it: dict[str, Any] = {"first": first, "last": HIGHEST}
    told = (events.EVENTS, events.MATCHES)
    keys = _key_ranges(engine, size)
    return Plan(
        [
            Slice(WHOLE, all_of_it),
            Slice((health.NO_HEALTH,), all_of_it, nested=True),
            *(Slice((health.HEALTH,), r, nested=True) for r in _ranges(engine, failing, FAILING)),
            *(Slice((DELIVERIES,), r) for r in _ranges(engine, delivery.c.id, size, first)),
            *(Slice(told, r) for r in _ranges(engine, event.c.id, size, first)),
            *(Slice((events.KEYS,), all_of_it | r) for r in keys),
        ]
    )


def run(
    engine: Engine,
    plan: Plan,
    *,
    limit: int = 20,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Compare every projection with the facts; keep at most `limit` findings of each kind.

    `progress` is told after each slice how many of `plan.total` are done.

        report = audit.run(engine, audit.plan(engine))
    """
    tally = Tally(limit)
    for number, slice in enumerate(plan.slices, start=1):
        with reading(engine, nested=slice.nested) as connection:
            values = parameters(connection, slice)
            for sheet in slice.sheets:
                look(connection, sheet, tally, values)
        progress(number)
    return Report({name: tally.counts[name] for name in ACCOUNT}, tally.found, tally.findings)


def parameters(connection: Connection, slice: Slice) -> dict[str, Any]:
    """Return the values for the sheets of a slice; pruning may go on between two of them."""
    return {**slice.values, "kept": facts.kept_since(connection)}


@contextmanager
def reading(engine: Engine, *, nested: bool = False) -> Iterator[Connection]:
    """Yield a connection whose transaction sees one snapshot and cannot write."""
    with engine.connect() as plain:
        connection = plain.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        with connection.begin():
            configure(connection, nested=nested)
            yield connection


def configure(connection: Connection, *, nested: bool = False) -> None:
    """Set up a transaction for sheets: joins by hash or merge whatever the statistics say."""
    settings = {
        "enable_nestloop": "on" if nested else "off",
        "jit": "off",
        "plan_cache_mode": "force_custom_plan",
        "work_mem": "64MB",
        "timezone": "UTC",  # as workers match
    }
    connection.execute(select(*(func.set_config(n, v, True) for n, v in settings.items())))


def _floor(connection: Connection, since: datetime) -> UUID:
    id: UUID = connection.execute(select(func.outbox.uuid7_floor(since))).scalar_one()
    return id


def _ranges(
    engine: Engine, id: ColumnElement[Any], size: int, first: UUID = LOWEST
) -> Iterator[Mapping[str, Any]]:
    """Yield the ranges of ids that have `size` rows each; together they leave none out."""
    starts = [first, *(start for (start,) in _starts(engine, (id,), (first,), size)), HIGHEST]
    return ({"first": start, "last": end} for start, end in pairwise(starts))


def _key_ranges(engine: Engine, size: int) -> Iterator[dict[str, Any]]:
    """Yield likewise ranges of keys, which have no order in time."""
    nowhere = ("", "")
    starts = [nowhere, *_starts(engine, (event_key.c.tenant, event_key.c.key), nowhere, size)]
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        last = end or nowhere
        yield {
            "first_tenant": start[0], "first_key": start[1],
            "last_tenant": last[0], "last_key": last[1], "to_the_end": end is None,
        }  # fmt: skip


def _starts(
    engine: Engine, key: Sequence[ColumnElement[Any]], first: Sequence[Any], size: int
) -> Iterator[Sequence[Any]]:
    """Yield where each slice begins behind the one that begins with `first`."""
    while True:
        query = select(*key).where(tuple_(*key) >= tuple_(*first)).order_by(*key)
        with reading(engine) as connection:
            found = connection.execute(query.offset(size).limit(1)).first()
        if found is None:
            return
        yield (first := tuple(found))
