"""The workers as the database knows them: who is alive, and how to wake them.

with engine.begin() as connection:
    if not fleet.alive(connection):
        print("no worker is running")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from .tables import worker

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import Connection

CHANNEL = "outbox_fan_out"  # where workers hear of new deliveries
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
