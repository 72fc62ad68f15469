"""The workers as the database knows them: who is alive, and how to wake them.

with engine.begin() as connection:
    if not fleet.alive(connection):
        print("no worker is running")
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from .tables import worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable
    from datetime import datetime

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

CHANNEL = "outbox_fan_out"  # where workers hear of new deliveries
BELL = "outbox_bell"  # where they hear of new events
SILENCE = 30.0  # seconds without a heartbeat (one each 10 s) after which a worker counts as gone


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process: `seen_at` is its last heartbeat."""

    id: int
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime


def alive(connection: Connection) -> list[Worker]:
    """Return the workers that run now, longest first."""
    columns = worker.c
    query = (
        select(
            columns.id,
            columns.host,
            columns.pid,
            columns.version,
            columns.started_at,
            columns.seen_at,
        )
        .where(
            columns.stopped_at.is_(None),
            columns.seen_at > func.now() - func.make_interval(0, 0, 0, 0, 0, 0, SILENCE),
        )
        .order_by(columns.started_at, columns.id)
    )
    return [Worker(*row) for row in connection.execute(query)]


def names(connection: Connection, ids: Iterable[int]) -> dict[int, str]:
    """Return the host and the process of the workers `ids`, also of those that are gone.

    >>> names(connection, [7])  # doctest: +SKIP
    {7: 'web-1, pid 4711'}
    """
    columns = worker.c
    query = select(columns.id, columns.host, columns.pid).where(columns.id.in_(list(ids)))
    return {id: f"{host}, pid {pid}" for id, host, pid in connection.execute(query)}


def wake(connection: Connection) -> None:
    """Let the workers look for new deliveries as soon as the transaction commits.

    For our own transactions: one of a host never rings, it would wait for others to commit.
    """
    connection.execute(select(func.pg_notify(CHANNEL, "")))


@overload
def ring(engine: Engine) -> None: ...
@overload
def ring(engine: AsyncEngine) -> Awaitable[None]: ...
def ring(engine: Engine | AsyncEngine) -> Awaitable[None] | None:
    """Let the workers look for new events at once: a host may call it after its commit.

    With an AsyncEngine the call is awaited. It is a transaction of its own on a connection
    of the engine, one round trip that flushes nothing, but waits for whoever is just
    committing a notification. Nothing depends on it: without it an event is found within
    20 ms while there are others and within 250 ms otherwise, and so it is behind a pooler
    of transactions, where workers hear nothing. So it is for events that somebody waits
    for, not for hundreds a second. When the database is away it raises nothing, for what
    was committed stays so.

        with Session(engine) as session, session.begin():
            outbox.emit(session, Event(type="user.signing-in", data=user))
        outbox.ring(engine)
    """
    if not isinstance(engine, Engine):
        return _ring_in_loop(engine)
    with suppress(SQLAlchemyError, OSError), engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(_RING)
    return None


async def _ring_in_loop(engine: AsyncEngine) -> None:
    with suppress(SQLAlchemyError, OSError):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(_RING)


# One statement is the whole transaction. A wait for its flush would keep the one lock that
# all notifications of a database take for as long.
_RING = select(func.set_config("synchronous_commit", "off", True), func.pg_notify(BELL, ""))
