"""Projections made again from the facts, after an accident or a partial restore.

Each slice is a transaction of its own, and one repair runs at a time. What is wrong is
locked first and then judged again in a statement of its own, so that what a worker did in
between is seen: workers may go on meanwhile. A delivery that comes back to the queue may
be sent once more. Facts stay as they are, right or wrong.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select

from . import events, health, limits, mending, subscriptions
from .slices import DELIVERIES, configure, parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, Engine

    from .sheet import Sheet
    from .slices import Plan, Report, Slice


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The checks of a sheet that `mend` can set right, for the rows that it is given."""

    sheet: Sheet
    names: frozenset[str]
    mend: Callable[[Connection, list[UUID], Mapping[str, Any]], None]

    def wrong(self) -> ColumnElement[bool]:
        """When a row is to be mended."""
        return or_(*(check.wrong for check in self.sheet.checks if check.name in self.names))


def _step(sheet: Sheet, mend: Callable[..., None], *names: str) -> Step:
    return Step(sheet, frozenset(names), mend)


# In this order: each rests on what those before it have mended.
STEPS = (
    _step(subscriptions.SUBSCRIPTIONS, mending.subscriptions,
          "subscription_missing", "subscription_changed"),
    _step(subscriptions.TYPES, mending.types, "type_missing", "type_left"),
    _step(subscriptions.BELONGINGS, mending.belongings,
          "throttle_missing", "throttle_left", "secret_left"),
    _step(limits.BLOCKED, mending.blocked, "blocked_wrong"),
    _step(DELIVERIES, mending.blocks, "blocked_missing"),
    _step(DELIVERIES, mending.queue, "queue_missing", "queue_left", "queue_orphan",
          "queue_subscription", "queue_event", "queue_subject", "queue_attempt",
          "queue_failures", "queue_due"),
    _step(limits.CLAIMS, mending.claims, "claim_orphan", "claim_wrong", "claim_missing"),
    _step(health.HEALTH, mending.health, "health_failures", "health_success"),
    _step(health.NO_HEALTH, mending.health, "health_missing"),
    _step(events.EVENTS, mending.event_queue, "event_queue_orphan", "event_queued_again",
          "event_queued_twice", "event_queue_due"),
    _step(events.MATCHES, mending.lost_events, "event_lost"),
)  # fmt: skip
REPAIRABLE = frozenset(name for step in STEPS for name in step.names)


def repairable(report: Report) -> int:
    """Return how many of what a report found a repair can set right."""
    return sum(count for name, count in report.found.items() if name in REPAIRABLE)


def steps(plan: Plan) -> int:
    """Return how many steps a repair by this plan has, for a progress bar."""
    return len(_todo(plan))


def repair(engine: Engine, plan: Plan, *, progress: Callable[[int], None] = lambda _: None) -> None:
    """Make the projections again where they differ from the facts, in the slices of `plan`.

    `progress` is told after each how many of `steps(plan)` are done. What could not be
    repaired is what another audit finds.

        audit.repair(engine, audit.plan(engine))
    """
    for number, (step, slice) in enumerate(_todo(plan), start=1):
        with _writing(engine, nested=slice.nested) as connection:
            _mend(connection, step, parameters(connection, slice))
        progress(number)
    with _writing(engine, nested=True) as connection:
        mending.promote(connection)


def _todo(plan: Plan) -> list[tuple[Step, Slice]]:
    return [(step, slice) for step in STEPS for slice in plan.slices if step.sheet in slice.sheets]


def _mend(connection: Connection, step: Step, values: Mapping[str, Any]) -> None:
    query = select(step.sheet.id).select_from(step.sheet.rows).where(step.wrong())
    ids: list[UUID] = sorted(connection.execute(query, values).scalars())
    if ids:
        step.mend(connection, ids, values)


@contextmanager
def _writing(engine: Engine, *, nested: bool) -> Iterator[Connection]:
    with engine.begin() as connection:
        lock = func.pg_advisory_xact_lock(func.hashtextextended("outbox.repair", 0))
        connection.execute(select(lock))
        configure(connection, nested=nested)
        yield connection
