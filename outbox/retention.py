"""How long facts are kept, and dropping what is older.

The policy stands in the database, set by an operator; workers follow it once an hour. Facts
go by whole days, as partitions, so that nothing is deleted row by row; a day in which
something is still open is kept until that has ended.

    with engine.begin() as connection:
        retention.keep_for(connection, 90 * DAY, by=Author("ada", "setup"))
    pruned = retention.prune(engine)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Date, Text, column, func, literal, select, update
from sqlalchemy.exc import DBAPIError

from .drivers import told
from .errors import InvalidInput
from .tables import retention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import date, datetime

    from sqlalchemy import Connection, Engine

    from .subscriptions import Author

FACTS = ("event", "delivery", "attempt")  # in the order in which their days are dropped
DAY = 86_400.0  # seconds
LONGEST = 36_500 * DAY
TRIES = 20
PAUSE = 0.5  # seconds between two tries
SLICE = 10_000  # keys looked at in one transaction


@dataclass(frozen=True, slots=True)
class Retention:
    """How long facts are kept, in seconds (None: for ever), and who said so."""

    keep: float | None
    actor: str | None
    command: str | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Day:
    """A day (UTC) that is past its retention: what it takes, and why it is `held`, if it is."""

    day: date
    bytes: int
    held: str | None


@dataclass(slots=True)
class Pruned:
    """What `prune` did: the days it dropped, what is left and why, the keys it forgot."""

    dropped: list[Day] = field(default_factory=list)
    held: list[Day] = field(default_factory=list)
    busy: list[Day] = field(default_factory=list)
    keys: int = 0


def show(connection: Connection) -> Retention:
    """Return how long facts are kept."""
    columns = retention.c
    keep = func.extract("epoch", columns.keep).cast(BigInteger)
    row = connection.execute(select(keep, columns.actor, columns.command, columns.changed_at)).one()
    return Retention(None if row[0] is None else float(row[0]), *row[1:])


def keep_for(connection: Connection, seconds: float | None, *, by: Author) -> Retention:
    """Keep facts for so many seconds, at least a day; None keeps them for ever."""
    if seconds is not None and not DAY <= seconds <= LONGEST:
        raise InvalidInput("keep", "must be from 1d to 36500d, or forever")
    keep = None if seconds is None else func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    values = {"keep": keep, "actor": by.actor, "command": by.command, "changed_at": func.now()}
    connection.execute(update(retention).values(values))
    return show(connection)


def past(connection: Connection) -> list[Day]:
    """Return the days that are past their retention, oldest first. Reads the queues whole."""
    days = (
        func.outbox.days_before(func.now() - retention.c.keep)
        .table_valued(column("day", Date), column("bytes", BigInteger), column("held", Text))
        .lateral()
    )
    query = (
        select(days.c.day, days.c.bytes, days.c.held)
        .select_from(retention)
        .join(days, literal(value=True))
    )
    return [Day(*row) for row in connection.execute(query.order_by(days.c.day))]


def prune(engine: Engine, *, dropped: Callable[[Day], None] = lambda _: None) -> Pruned:
    """Drop all days that are past their retention, and the keys of their events.

    Each day of each fact is a transaction that waits 0.3 seconds at most for its lock, and
    is tried again; `dropped` hears of each day that was. What is held or busy stays.
    """
    pruned = Pruned()
    with engine.connect() as connection:
        looked_at: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        days = past(connection)
    for day in days:
        if day.held is not None:
            pruned.held.append(day)
        elif all(_drop(engine, fact, day, looked_at) for fact in FACTS):
            pruned.dropped.append(day)
            dropped(day)
        else:
            pruned.busy.append(day)
    if pruned.dropped:
        pruned.keys = sum(_prune_keys(engine))
    return pruned


def _drop(engine: Engine, fact: str, day: Day, looked_at: datetime) -> bool:
    for _ in range(TRIES):
        try:
            with engine.begin() as connection:
                dropped = func.outbox.drop_day(fact, day.day, looked_at)
                return bool(connection.execute(select(dropped)).scalar_one())
        except DBAPIError as error:
            if not _is_busy(error):
                raise
            time.sleep(PAUSE)
    return False


def _is_busy(error: DBAPIError) -> bool:
    return told(error)[0] in {"55P03", "40P01"}


def _prune_keys(engine: Engine) -> Iterable[int]:
    tenant, key = "", ""
    while True:
        looked = func.outbox.prune_keys(tenant, key, SLICE).table_valued(
            column("tenant", Text), column("key", Text), column("pruned", BigInteger)
        )
        with engine.begin() as connection:
            row = connection.execute(select(looked)).first()
        if row is None:
            return
        tenant, key = row.tenant, row.key
        yield row.pruned
