"""What the doctor asks of the work itself: who does it, by which clocks, what is left lying."""

from __future__ import annotations

import re
import time
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Date, Double, cast, column, extract, func, literal, select, table

from . import backlog, fleet
from .findings import ERROR, HOUR, MINUTE, OK, WARNING, Opinion, ago, by_age, several
from .tables import attempt, delivery_queue, event_queue, replay, subscription, worker
from .traffic import BOUND
from .traffic import ago as moment_ago
from .version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any
    from uuid import UUID

    from sqlalchemy import ColumnElement

    from .findings import Patient
    from .fleet import Worker

FACTS = ("event", "delivery", "attempt")
MAKE_PARTITIONS = "in psql: SELECT outbox.make_partitions()"
START = "start one: outbox-worker"
ABANDONED = 5 * MINUTE  # a lease that ended so long ago was seen by many sweeps
COUNTED = 1_000  # rows, where it does not matter how many more there are
SKEWED, REFUSED = 5.0, 120.0  # seconds; receivers refuse signatures that are 5 minutes off
ASKED = 5  # times that a clock is asked


def workers(patient: Patient) -> list[Worker]:
    """Look for workers that are alive."""
    return fleet.alive(patient.connection)


def judge_workers(seen: Sequence[Worker]) -> Opinion:
    """Someone works."""
    if not seen:
        return Opinion(ERROR, "none is alive: nothing is delivered", START)
    return Opinion(OK, f"{len(seen):,} alive on {several(len({w.host for w in seen}), 'host')}")


def judge_versions(seen: Sequence[Worker]) -> Opinion:
    """All workers have the version of this program."""
    others = sorted({each.version for each in seen} - {__version__})
    if not others:
        return Opinion(OK, __version__)
    found = f"workers have {', '.join(others)}, this program has {__version__}"
    return Opinion(
        WARNING, found, f"install one version everywhere: outbox-webhooks=={__version__}"
    )


class Clock(NamedTuple):
    """So many seconds is this machine ahead of the database, more or less `doubt`."""

    ahead: float
    doubt: float


def clock(patient: Patient, *, now: Callable[[], float] = time.time) -> Clock:
    """Compare clocks: of several answers the quickest is the most exact (Cristian's algorithm)."""
    query = select(extract("epoch", func.clock_timestamp()))
    asked = []
    for _ in range(ASKED):
        before = now()
        theirs = float(patient.connection.execute(query).scalar_one())
        after = now()
        asked.append(Clock((before + after) / 2 - theirs, (after - before) / 2))
    return min(asked, key=lambda each: each.doubt)


def judge_clock(seen: Clock) -> Opinion:
    """This machine and the database agree on the time."""
    off = max(0.0, abs(seen.ahead) - seen.doubt)
    if not off:
        return Opinion(
            OK, f"this machine and the database agree within {max(0.001, seen.doubt):.3f} s"
        )
    found = f"this machine is {off:.3f} s {'ahead of' if seen.ahead > 0 else 'behind'} the database"
    verdict = by_age(off, warning=SKEWED, error=REFUSED)
    remedy = None if verdict == OK else "set the clocks by NTP, of this machine or the database's"
    return Opinion(verdict, found, remedy)


class WorkerClock(NamedTuple):
    """So many seconds after the end of a request, by the worker, it was recorded, by the database.

    The smallest of `attempts`: recording takes some hundredths of a second, the rest is the
    difference of the clocks.
    """

    host: str
    behind: float
    attempts: int


def worker_clocks(patient: Patient) -> list[WorkerClock]:
    """Look at the last minutes: a worker says when a request began, the database when it ended."""
    columns = attempt.c
    recent = (
        select(
            columns.worker_id,
            extract("epoch", columns.recorded_at - columns.started_at).label("after"),
            columns.duration_ms,
        )
        .where(columns.recorded_at > moment_ago(5 * MINUTE), columns.started_at.is_not(None))
        .limit(BOUND)
        .subquery()
    )
    behind = func.min(recent.c.after - func.coalesce(recent.c.duration_ms, 0) / 1000.0)
    query = (
        select(worker.c.host, cast(behind, Double), func.count())
        .join(worker, worker.c.id == recent.c.worker_id)
        .group_by(worker.c.host)
    )
    return [WorkerClock(*row) for row in patient.connection.execute(query)]


def judge_worker_clocks(seen: Sequence[WorkerClock]) -> Opinion:
    """Workers sign with the right time. A few late records say nothing: the database was away."""
    enough = [each for each in seen if each.behind < 0 or each.attempts >= 10]
    if not enough:
        return Opinion(OK, "no attempts in the last minutes to tell by")
    worst = max(enough, key=lambda each: abs(each.behind))
    verdict = by_age(abs(worst.behind), warning=SKEWED, error=REFUSED)
    if verdict == OK:
        return Opinion(OK, f"on {several(len(enough), 'host')} no more than {SKEWED:.0f} s off")
    side = "behind" if worst.behind > 0 else "ahead of"
    found = f"{worst.host} is about {abs(worst.behind):.0f} s {side} the database"
    return Opinion(verdict, found, f"set the clock of {worst.host} by NTP")


def partitions(patient: Patient) -> tuple[list[str], date]:
    """Look at the partitions by name, and at the database's day."""
    relation = table("pg_class", *map(column, ("relname", "relnamespace", "relispartition")))
    query = select(relation.c.relname).where(
        relation.c.relnamespace == func.to_regnamespace("outbox"), relation.c.relispartition
    )
    today = select(cast(func.timezone("UTC", func.now()), Date))
    names = list(patient.connection.execute(query).scalars())
    return names, patient.connection.execute(today).scalar_one()


def judge_partitions(seen: tuple[Sequence[str], date]) -> Opinion:
    """There are partitions for a week; at midnight it is a day less, for an hour at most."""
    names, today = seen
    days = min(days_ahead(fact, names, today) for fact in FACTS)
    if days >= 6:
        return Opinion(OK, f"{several(days, 'day')} ahead")
    found = "none for today" if days < 0 else f"only {several(days, 'day')} ahead"
    return Opinion(ERROR if days < 1 else WARNING, found, MAKE_PARTITIONS)


def days_ahead(fact: str, names: Sequence[str], today: date) -> int:
    """Return for how many days after today there are partitions; -1: not even for today.

    >>> days_ahead("event", ["event_20260131", "event_20260201"], date(2026, 1, 31))
    1
    """
    days = {name[-8:] for name in names if re.fullmatch(rf"{fact}_[0-9]{{8}}", name)}
    ahead = -1
    while f"{today + timedelta(days=ahead + 1):%Y%m%d}" in days:
        ahead += 1
    return ahead


def default_rows(patient: Patient) -> dict[str, int]:
    """Count what landed in DEFAULT partitions, up to a bound."""
    found = {}
    for fact in FACTS:
        rows = select(literal(1)).select_from(table(f"{fact}_default", schema="outbox"))
        query = select(func.count()).select_from(rows.limit(COUNTED).subquery())
        found[f"{fact}_default"] = patient.connection.execute(query).scalar_one()
    return found


def judge_default_rows(seen: dict[str, int]) -> Opinion:
    """DEFAULT partitions are empty: their rows are safe, but never dropped with their day."""
    filled = {name: rows for name, rows in seen.items() if rows}
    if not filled:
        return Opinion(OK, "none")
    found = ", ".join(f"{name}: {at_least(rows)}" for name, rows in filled.items())
    remedy = f"{MAKE_PARTITIONS}, so that no more follow; workers move past days out of it"
    return Opinion(WARNING, found, remedy)


def at_least(rows: int) -> str:
    """Return what counting up to the bound says."""
    return f"{COUNTED:,} or more" if rows >= COUNTED else several(rows, "row")


def oldest_event(patient: Patient) -> float | None:
    """Look since when the oldest event waits for its fan-out."""
    due_at = event_queue.c.due_at
    query = select(_age(due_at)).where(due_at <= func.now()).order_by(due_at).limit(1)
    return patient.connection.execute(query).scalar()


def judge_oldest_event(seen: float | None) -> Opinion:
    """Events are fanned out at once."""
    if seen is None:
        return Opinion(OK, "nothing waits")
    verdict = by_age(seen, warning=MINUTE, error=10 * MINUTE)
    remedy = None if verdict == OK else f"{START}; the log of one that runs says what is wrong"
    return Opinion(verdict, f"waits for {ago(seen)}", remedy)


def set_aside(patient: Patient) -> tuple[int, UUID | None, str | None]:
    """Look for events whose fan-out failed."""
    columns = event_queue.c
    rows = select(columns.event_id, columns.error).where(columns.due_at == backlog.INFINITY)
    found = patient.connection.execute(rows.limit(COUNTED)).all()
    return (len(found), *(found[0] if found else (None, None)))


def judge_set_aside(seen: tuple[int, UUID | None, str | None]) -> Opinion:
    """None waits for a person."""
    number, id, why = seen
    if not number:
        return Opinion(OK, "none")
    remedy = "mend what the error says, then: outbox events retry --all"
    return Opinion(ERROR, f"{several(number, 'event')}, such as {id}: {why}", remedy)


def oldest_due(patient: Patient) -> float | None:
    """Look since when the oldest delivery is due that nothing holds."""
    return backlog.look(patient.connection)[0].oldest_due


def judge_oldest_due(seen: float | None) -> Opinion:
    """Deliveries are sent when they are due. Receivers that are down or limited keep some."""
    if seen is None:
        return Opinion(OK, "nothing waits")
    if seen < 10 * MINUTE:
        return Opinion(OK, f"waits for {ago(seen)}")
    remedy = "outbox status tells whether receivers fail; else more workers: --processes"
    return Opinion(WARNING, f"waits for {ago(seen)}", remedy)


def abandoned(patient: Patient) -> int:
    """Count claims whose lease ended long ago, and that nobody took over."""
    columns = delivery_queue.c
    rows = (
        select(columns.delivery_id)
        .join(subscription, subscription.c.id == columns.subscription_id)
        .where(subscription.c.state == "active", columns.lease_until < moment_ago(ABANDONED))
        .limit(COUNTED)
    )
    query = select(func.count()).select_from(rows.subquery())
    return patient.connection.execute(query).scalar_one()


def judge_abandoned(seen: int) -> Opinion:
    """What a worker left behind is taken over by another."""
    if not seen:
        return Opinion(OK, "none")
    found = f"{at_least(seen)} claimed, the lease over for {ago(ABANDONED)} and more"
    return Opinion(ERROR, found, START)


def replays(patient: Patient) -> tuple[int, UUID | None, float]:
    """Look at the replays that run, and at the one that has not moved for longest."""
    query = (
        select(replay.c.id, _age(replay.c.moved_at))
        .where(replay.c.state == "running")
        .order_by(replay.c.moved_at)
    )
    found = patient.connection.execute(query).all()
    return (len(found), *(found[0] if found else (None, 0.0)))


def judge_replays(seen: tuple[int, UUID | None, float]) -> Opinion:
    """Replays that run move."""
    running, id, age = seen
    verdict = by_age(age, warning=10 * MINUTE, error=HOUR)
    if verdict == OK:
        return Opinion(OK, f"{running:,} running" if running else "none runs")
    remedy = f"{START}; or: outbox replays cancel {id}"
    return Opinion(verdict, f"{id} has not moved for {ago(age)}", remedy)


def _age(moment: ColumnElement[Any]) -> ColumnElement[float]:
    return cast(extract("epoch", func.now() - moment), Double)
