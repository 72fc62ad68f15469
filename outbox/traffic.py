"""What came and went in the last five minutes: rates, outcomes, errors, how long it took.

Read are at most `BOUND` events, the newest ones by their ids, and at most `BOUND` attempts,
found by their time of record. Where more attempts than that were recorded, the last minute
is read instead, or the last ten seconds; `Traffic.seconds` says which. Of the deliveries
among them, about `SAMPLE`, evenly spread, tell how long they took.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Double, Integer, Text, cast, extract, func, select, true
from sqlalchemy.dialects.postgresql import BIT

from .tables import attempt, delivery, event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import CTE, ColumnElement, Connection, FromClause

STEP = 10  # seconds that are counted together
WINDOWS = (300, 60, STEP)  # seconds, the widest that is not too much is taken
BOUND = 50_000
SAMPLE = 2_000


@dataclass(frozen=True, slots=True)
class Rate:
    """How many a second: in the last 10 s, in the last minute, and each 10 s, oldest first."""

    last_10s: float
    last_minute: float
    history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds within which a half, 95 and 99 of a hundred were done."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Errors:
    """So many attempts failed with this status of HTTP, or else in this `error_class`."""

    what: str
    number: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What came and went.

    `deliveries` counts those that were delivered. `seconds` is the time that outcomes,
    errors (the most frequent first), latency and duration are of. `latency` is from the
    host's event, or from when it was due, to the 2xx, retries and all, without replays;
    `duration` is of the requests that delivered. Both are None if there was none.
    """

    events: Rate
    deliveries: Rate
    seconds: float
    outcomes: Mapping[str, int]
    errors: tuple[Errors, ...]
    latency: Percentiles | None
    duration: Percentiles | None


def look(connection: Connection) -> Traffic:
    """Return what came and went."""
    recent, seconds = _attempts(connection)
    sample = _sample(connection, seconds)
    return Traffic(
        events=_events(connection),
        deliveries=rate(_counts(recent, "delivered"), seconds),
        seconds=seconds,
        outcomes=dict(_totals((row.outcome, row.number) for row in recent)),
        errors=tuple(errors(recent)),
        latency=percentiles([row.latency for row in sample if row.latency is not None]),
        duration=percentiles([row.duration_ms / 1000 for row in sample]),
    )


def rate(counts: Mapping[int, int], seconds: float) -> Rate:
    """Return the rates of what was counted: `counts[0]` in the last 10 s, `[1]` before them.

    Only the last `seconds` were counted. What began before them is left out of the history.

    >>> rate({0: 50, 1: 10}, 30.0)
    Rate(last_10s=5.0, last_minute=2.0, history=(0.0, 1.0, 5.0))
    """
    whole = int(seconds // STEP)
    minute = sum(number for step, number in counts.items() if step < 60 // STEP)
    return Rate(
        last_10s=counts.get(0, 0) / min(STEP, seconds),
        last_minute=minute / min(60, seconds),
        history=tuple(counts.get(step, 0) / STEP for step in reversed(range(whole))),
    )


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of `values`, by the nearest rank; None of nothing.

    >>> percentiles([5, 1, 2, 3, 4])
    Percentiles(p50=3, p95=5, p99=5)
    """
    if not values:
        return None
    ordered = sorted(values)
    return Percentiles(*(ordered[-(-len(ordered) * part // 100) - 1] for part in (50, 95, 99)))


def errors(recent: Iterable[Any]) -> list[Errors]:
    """Return what failed, the most frequent first: by status, else by class."""
    failed = [row for row in recent if row.outcome in {"retry", "dead", "lost"}]
    named = (
        (row.error_class or (f"HTTP {row.status}" if row.status else row.outcome), row.number)
        for row in failed
    )
    return [Errors(*pair) for pair in _totals(named)]


def _totals(pairs: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    totals: Counter[str] = Counter()
    for name, number in pairs:
        totals[name] += number
    return totals.most_common()


def _counts(recent: Iterable[Any], outcome: str) -> Counter[int]:
    counts: Counter[int] = Counter()
    for row in recent:
        counts[row.step] += row.number if row.outcome == outcome else 0
    return counts


def _events(connection: Connection) -> Rate:
    widest = WINDOWS[0]
    age = (extract("epoch", func.now()) - _seconds_of(event.c.id)).label("age")
    newest = (
        select(age)
        .where(event.c.id >= func.outbox.uuid7_floor(ago(widest)))
        .order_by(event.c.id.desc())
        .limit(BOUND)
        .subquery()
    )
    aged = select(_step(newest.c.age), newest.c.age).subquery()
    query = select(aged.c.step, func.count(), func.max(aged.c.age)).group_by(aged.c.step)
    found = connection.execute(query).all()
    counts = {row[0]: row[1] for row in found}
    read = sum(counts.values())
    return rate(counts, widest if read < BOUND else max(1.0, *(float(row[2]) for row in found)))


def _attempts(connection: Connection) -> tuple[Sequence[Any], float]:
    """Return the last attempts, by what they came to and when, and how far back they reach.

    They are read in the order of record: if even ten seconds were too much, the oldest of
    these stand for all.
    """
    found: Sequence[Any] = []
    for seconds in WINDOWS:
        recent = _recent(seconds)
        age = extract("epoch", func.now() - recent.c.recorded_at)
        aged = select(*_what(recent), _step(age), age.label("age")).subquery()
        what = (*_what(aged), aged.c.step)
        query = select(*what, func.count().label("number"), func.min(aged.c.age).label("youngest"))
        found = connection.execute(query.group_by(*what)).all()
        if sum(row.number for row in found) < BOUND:
            return found, seconds
    youngest = min(float(row.youngest) for row in found)
    return found, max(1.0, STEP - youngest)


def _what(rows: FromClause) -> tuple[ColumnElement[Any], ...]:
    return rows.c.outcome, rows.c.error_class, rows.c.status


def _sample(connection: Connection, seconds: float) -> Sequence[Any]:
    """Return about SAMPLE of the attempts that delivered, with the seconds they took."""
    recent = _recent(seconds)
    numbered = (
        select(
            recent,
            func.row_number().over().label("n"),
            func.count().over().label("total"),
        )
        .where(recent.c.outcome == "delivered", recent.c.duration_ms.is_not(None))
        .subquery()
    )
    stride = func.greatest(numbered.c.total // SAMPLE, 1)
    live = (  # a LIMIT leaves the planner no other way than the primary key
        select(delivery.c.event_id)
        .where(delivery.c.id == numbered.c.delivery_id, delivery.c.replay_id.is_(None))
        .limit(1)
        .lateral("live")
    )
    start = func.greatest(func.to_timestamp(_seconds_of(event.c.id)), event.c.due_at)
    took = func.round(extract("epoch", numbered.c.recorded_at - start), 3)
    since = (
        select(cast(took, Double).label("latency"))
        .where(event.c.id == live.c.event_id)
        .limit(1)
        .lateral("since")
    )
    query = (
        select(numbered.c.duration_ms, since.c.latency)
        .select_from(numbered)
        .join(live, true(), isouter=True)
        .join(since, true(), isouter=True)
        .where(numbered.c.n % stride == 0)
    )
    return connection.execute(query).all()


def _recent(seconds: float) -> CTE:
    columns = attempt.c
    return (
        select(
            columns.delivery_id,
            columns.outcome,
            columns.error_class,
            columns.status,
            columns.duration_ms,
            columns.recorded_at,
        )
        .where(columns.recorded_at > ago(seconds))
        .limit(BOUND)
        .cte("recent")
    )


def ago(seconds: float) -> ColumnElement[Any]:
    """The moment so many seconds before now, by the database's clock."""
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _step(age: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(func.floor(func.greatest(age, 0) / STEP), Integer).label("step")


def _seconds_of(id: ColumnElement[Any]) -> ColumnElement[Any]:
    """The moment that a UUIDv7 was made at, in Unix seconds: its first 48 bits are milliseconds."""
    digits = func.translate(func.left(cast(id, Text), 13), "-", "")
    return cast(cast(func.concat("x", digits), BIT(48)), BigInteger) / 1000.0
