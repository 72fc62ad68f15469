"""Hosts that emit in every way there is, and write down what became of each transaction.

What a host knows of a commit is one of three: it is certain, it was rolled back, or it is
unknown, because the connection broke before the answer to COMMIT came.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

import outbox
from outbox import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

TYPES = ("invoice.paid", "invoice.sent", "user.created")
TENANTS = ("acme", "globex", None)
SUBJECTS = ("user/1", "user/2", "user/3")


@dataclass
class Log:
    """The events of all hosts, by what is known of their transactions."""

    certain: set[UUID] = field(default_factory=set)
    aborted: set[UUID] = field(default_factory=set)
    unknown: set[UUID] = field(default_factory=set)
    ways: set[str] = field(default_factory=set)  # in which at least one was certain
    conflicts: int = 0  # keys that stood for something else: there are none


class Host:
    """A thread that emits until it is stopped, in a way drawn for each transaction."""

    def __init__(self, engine: Engine, log: Log, seed: int, pause: float) -> None:
        self._engine = engine
        self._log = log
        self._rng = random.Random(seed)  # noqa: S311 - a seeded run
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for the transaction under way."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "a host hangs"

    def _run(self) -> None:
        ways: tuple[Callable[[], None], ...] = (
            self.plain, self.batch, self.rolled_back, self.savepoint, self.late, self.keyed,
            self.serializable, self.two_phase,
        )  # fmt: skip
        while not self._stop.wait(self._rng.uniform(0, 2 * self._pause)):
            self._rng.choices(ways, weights=(12, 4, 3, 3, 2, 3, 2, 1))[0]()

    # The ways.

    def plain(self) -> None:
        """One event, one commit."""
        self._commit("plain", lambda c: [outbox.emit(c, self._event())])

    def batch(self) -> None:
        """Several events in one transaction, one after the other and as a batch."""
        self._commit(
            "batch",
            lambda c: [
                outbox.emit(c, self._event()),
                *outbox.emit_many(c, [self._event() for _ in range(5)]),
            ],
        )

    def rolled_back(self) -> None:
        """Emitted, and taken back."""
        ids: list[UUID] = []
        try:
            with self._engine.connect() as connection:
                ids.append(outbox.emit(connection, self._event()))
                connection.rollback()
        except DBAPIError:
            pass
        self._log.aborted.update(ids)
        self._log.ways.add("rolled back")

    def savepoint(self) -> None:
        """One in a savepoint that is rolled back, one beside it that is not."""

        def work(connection: Connection) -> list[UUID]:
            point = connection.begin_nested()
            gone = outbox.emit(connection, self._event())
            point.rollback()
            self._log.aborted.add(gone)
            return [outbox.emit(connection, self._event())]

        self._commit("savepoint", work)

    def late(self) -> None:
        """An old id that is committed after many newer ones."""

        def work(connection: Connection) -> list[UUID]:
            id = outbox.emit(connection, self._event())
            self._stop.wait(1.0)
            return [id]

        self._commit("late", work)

    def keyed(self) -> None:
        """The same key from here and, at once, from another connection: one event."""
        event = self._event(key=f"key-{self._rng.random()}")

        def work(connection: Connection) -> list[UUID]:
            return [outbox.emit(connection, event)]

        other = threading.Thread(target=self._commit, args=("keyed", work))
        other.start()
        self._commit("keyed", work)
        other.join()

    def serializable(self) -> None:
        """SERIALIZABLE, tried again after a conflict."""

        def work(connection: Connection) -> list[UUID]:
            connection.execute(text("SELECT count(*) FROM account")).scalar()
            connection.execute(text("UPDATE account SET visits = visits + 1 WHERE id = 1"))
            return [outbox.emit(connection, self._event())]

        self._commit("serializable", work, isolation_level="SERIALIZABLE")

    def two_phase(self) -> None:
        """PREPARE TRANSACTION, and a commit of its own."""
        ids: list[UUID] = []
        name = str(uuid4())
        try:
            with self._engine.connect() as connection:
                ids.append(outbox.emit(connection, self._event()))
                connection.exec_driver_sql(f"PREPARE TRANSACTION '{name}'")
                connection.commit()
            with self._engine.connect() as connection:
                autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
                autocommit.exec_driver_sql(f"COMMIT PREPARED '{name}'")
        except DBAPIError:
            self._log.unknown.update(ids)
        else:
            self._log.certain.update(ids)
            self._log.ways.add("two-phase")

    def _commit(self, way: str, work: Callable[[Connection], list[UUID]], **options: str) -> None:
        """Do `work` in a transaction, again if it conflicts with another."""
        for _ in range(5):
            ids: list[UUID] = []
            try:
                with self._engine.connect() as connection:
                    if options:
                        connection = connection.execution_options(**options)
                    ids.extend(work(connection))
                    connection.commit()
            except outbox.KeyConflict:
                self._log.conflicts += 1
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) == "40001":
                    self._log.aborted.update(ids)
                    continue
                self._log.unknown.update(ids)
            else:
                self._log.certain.update(ids)
                self._log.ways.add(way)
            return

    def _event(self, key: str | None = None) -> Event:
        number = self._rng.randrange(1_000)
        return Event(
            type=self._rng.choice(TYPES), data={"n": number, "text": "x" * (number * 100)},
            tenant=self._rng.choice(TENANTS), subject=self._rng.choice(SUBJECTS), key=key,
        )  # fmt: skip
