"""The audit: every sheet, slice by slice, each in a short transaction that only reads.

A slice is a range of ids. Each is looked at in one snapshot, so what workers do meanwhile
is seen whole or not at all, and no transaction is open long enough to hold back vacuum.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
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
        start = LOWEST if since is None else _floor(connection, since)
        kept = facts.kept_since(connection)
    base = {"first": start, "last": HIGHEST, "kept": kept}

    def ranges(key: ColumnElement[Any], first: UUID, size: int) -> Iterator[dict[str, Any]]:
        ends = [*(id for (id,) in _steps(engine, (key,), (first,), size)), HIGHEST]
        for end in ends:
            yield {"first": first, "last": end}
            first = end

    slices = [Slice(WHOLE, base), Slice((health.NO_HEALTH,), base, nested=True)]
    slices += [
        Slice((health.HEALTH,), base | values, nested=True)
        for values in ranges(subscription_health.c.subscription_id, LOWEST, FAILING)
    ]
    slices += [Slice((DELIVERIES,), base | v) for v in ranges(delivery.c.id, start, size)]
    slices += [
        Slice((events.EVENTS, events.MATCHES), base | v) for v in ranges(event.c.id, start, size)
    ]
    keys = [*_steps(engine, (event_key.c.tenant, event_key.c.key), ("", ""), size)]
    for first, last in zip([("", ""), *keys], [*keys, None], strict=True):
        slices.append(Slice((events.KEYS,), base | _key_range(first, last)))
    return Plan(slices)


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
            for sheet in slice.sheets:
                look(connection, sheet, tally, slice.values)
        progress(number)
    return report(tally)


def report(tally: Tally) -> Report:
    """Return what a tally came to."""
    return Report({name: tally.counts[name] for name in ACCOUNT}, tally.found, tally.findings)


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


def _steps(
    engine: Engine, key: Sequence[ColumnElement[Any]], first: Sequence[Any], size: int
) -> Iterator[Sequence[Any]]:
    """Yield the first key of each slice behind the one that begins with `first`."""
    while True:
        query = select(*key).where(tuple_(*key) >= tuple_(*first)).order_by(*key)
        with reading(engine) as connection:
            found = connection.execute(query.offset(size).limit(1)).first()
        if found is None:
            return
        yield (first := tuple(found))


def _key_range(first: Sequence[str], last: Sequence[str] | None) -> dict[str, Any]:
    tenant, key = last or ("", "")
    return {
        "first_tenant": first[0], "first_key": first[1],
        "last_tenant": tenant, "last_key": key, "to_the_end": last is None,
    }  # fmt: skip
