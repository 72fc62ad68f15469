"""Clients of a host: in threads, each with a connection and a row of its own."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from sqlalchemy import Connection, create_engine, text

from outbox import Event, emit
from outbox.encoding import encode
from outbox.events import MAX_BYTES

from .workload import TYPE, invoice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WARM_UP = 10  # transactions of each client that are rolled back: after them plans are kept
UPDATE = text("UPDATE account SET balance = balance + 1 WHERE id = :id")
PLAIN = text("INSERT INTO plain (type, data) VALUES (:type, CAST(:data AS json))")
INSERT = text("INSERT INTO outbox.event (type, data) VALUES (:type, CAST(:data AS json))")


class Timed(NamedTuple):
    """One transaction, in seconds: all of it, and the statement that is added to the UPDATE."""

    whole: float
    statement: float


def nothing(_: Connection, __: dict[str, object]) -> None:
    """Add nothing."""


def plain(connection: Connection, data: dict[str, object]) -> None:
    """Insert the bytes of an event into a plain table."""
    connection.execute(PLAIN, {"type": TYPE, "data": encode(data, max_bytes=MAX_BYTES)})


def insert(connection: Connection, data: dict[str, object]) -> None:
    """Insert an event, as any language can."""
    connection.execute(INSERT, {"type": TYPE, "data": encode(data, max_bytes=MAX_BYTES)})


def emit_event(connection: Connection, data: dict[str, object]) -> None:
    """Emit an event."""
    emit(connection, Event(type=TYPE, data=data))


def emit_keyed(connection: Connection, data: dict[str, object]) -> None:
    """Emit an event with a key that was not used before."""
    emit(connection, Event(type=TYPE, data=data, key=str(uuid4())))


WAYS: dict[str, Callable[[Connection, dict[str, object]], None]] = {
    "nothing": nothing,
    "plain": plain,
    "insert": insert,
    "emit": emit_event,
    "keyed": emit_keyed,
}


def transact(url: str, way: str, clients: Sequence[int], begin: float, end: float) -> list[Timed]:
    """Let each of `clients` make transactions from `begin` to `end`, monotonic moments."""
    engine = create_engine(url, pool_size=len(clients))

    def client(id: int) -> list[Timed]:
        with engine.connect() as connection:
            for number in range(WARM_UP):
                _change(connection, way, id, number)
                connection.rollback()
            time.sleep(max(0.0, begin - time.monotonic()))
            made: list[Timed] = []
            while time.monotonic() < end:
                made.append(_transaction(connection, way, id, len(made)))
            return made

    with ThreadPoolExecutor(len(clients)) as pool:
        timed = [each for made in pool.map(client, clients) for each in made]
    engine.dispose()
    return timed


def _transaction(connection: Connection, way: str, id: int, number: int) -> Timed:
    began = time.perf_counter()
    statement = _change(connection, way, id, number)
    connection.commit()
    return Timed(time.perf_counter() - began, statement)


def _change(connection: Connection, way: str, id: int, number: int) -> float:
    """Do all but the commit; return the seconds of what is added to the UPDATE."""
    connection.execute(UPDATE, {"id": id})
    updated = time.perf_counter()
    WAYS[way](connection, invoice(number))
    return time.perf_counter() - updated
