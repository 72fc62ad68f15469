"""A host in an open loop: when each event is due is fixed beforehand, whatever became of others.

A host that is late emits all the same, and tells by how much: what waits in front of it is
the benchmark's fault or the machine's, never hidden in a lower rate.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import create_engine

from outbox import emit_many, ring

from .workload import events

if TYPE_CHECKING:
    from concurrent.futures import Future
    from uuid import UUID

    from sqlalchemy import Engine

    from .database import Database

THREADS = 8  # each with a connection of its own
WARM_UP = 10  # events of each that are rolled back: after them plans are kept


class Emitted(NamedTuple):
    """One event; all moments are of the system's monotonic clock."""

    id: str
    due: float  # when its transaction was to begin
    began: float
    committed: float  # when COMMIT had returned
    rang: float  # when the bell had returned, if the host rings; else the same


@dataclass(frozen=True, slots=True)
class Pace:
    """So many events a second, `batch` of them in a transaction; `total` of them, or no end."""

    rate: float
    total: int | None = None
    batch: int = 1
    bell: bool = False

    @property
    def turns(self) -> float:
        """How many transactions."""
        return float("inf") if self.total is None else -(-self.total // self.batch)


class Host:
    """Emits in threads from its beginning to its end.

    with Host(base, Pace(rate=100, total=6_000)) as host:
        host.wait()
    emitted = host.taken()
    """

    def __init__(self, base: Database, pace: Pace) -> None:
        self._engine = create_engine(base.host_url, pool_size=THREADS)
        self._pace = pace
        self._turns = count()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._emitted: list[Emitted] = []
        self._work: list[Future[None]] = []

    def __enter__(self) -> Host:
        _warm_up(self._engine)
        self._pool = ThreadPoolExecutor(THREADS)
        self._begin = time.monotonic()
        self._work = [self._pool.submit(self._emit_on_time) for _ in range(THREADS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._pool.shutdown()
        self._engine.dispose()

    def wait(self) -> None:
        """Return when all is emitted; raises what a thread raised."""
        for each in self._work:
            each.result()

    def taken(self) -> list[Emitted]:
        """Return what was emitted since the last call; raises what a thread raised."""
        for each in self._work:
            if each.done():
                each.result()
        with self._lock:
            taken, self._emitted = self._emitted, []
        return taken

    def _emit_on_time(self) -> None:
        while (turn := self._next()) < self._pace.turns:
            due = self._begin + turn * self._pace.batch / self._pace.rate
            if self._ending.wait(max(0.0, due - time.monotonic())):
                return
            self._emit(turn, due)

    def _next(self) -> int:
        with self._lock:
            return next(self._turns)

    def _emit(self, turn: int, due: float) -> None:
        batch = events(self._pace.batch, turn * self._pace.batch)
        began = time.monotonic()
        with self._engine.connect() as connection:
            ids: list[UUID] = emit_many(connection, batch)
            connection.commit()
            committed = time.monotonic()
        rang = committed
        if self._pace.bell:
            ring(self._engine)
            rang = time.monotonic()
        with self._lock:
            self._emitted += [Emitted(str(id), due, began, committed, rang) for id in ids]


def _warm_up(engine: Engine) -> None:
    """Open all connections of the pool and make their plans, so that no event waits for that."""
    connections = [engine.connect() for _ in range(THREADS)]
    for connection in connections:
        for _ in range(WARM_UP):
            emit_many(connection, events(1))
            connection.rollback()
        connection.close()
