"""A host: a small shop that writes invoices, and emits its events in the same transactions.

Some of its transactions roll back, some roll back to a savepoint on the way. It keeps a
log of what it committed and what it took back, which is one of the three sources of the
account. Of subscriptions and deliveries it knows nothing.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    Column,
    Identity,
    Integer,
    MetaData,
    Numeric,
    Table,
    func,
    insert,
    select,
    update,
)

import outbox
from outbox import Event

if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Self
    from uuid import UUID

    from sqlalchemy import Connection, Engine

TRANSACTIONS = 300
THREADS = 4
PAUSE = 0.06  # seconds before each transaction of a thread

invoice = Table(
    "invoice",
    MetaData(),
    Column("id", Integer, Identity(), primary_key=True),
    Column("amount", Numeric(10, 2), nullable=False),
    Column("paid", Boolean, nullable=False, default=False),
)


class CardDeclined(Exception):
    """The customer cannot pay, so there is no invoice."""


@dataclass(frozen=True, slots=True)
class Sale:
    """What one transaction emitted, as the host's log has it: ids and types."""

    kept: dict[UUID, str] = field(default_factory=dict)
    taken_back: dict[UUID, str] = field(default_factory=dict)

    def emit(self, connection: Connection, type: str, data: dict[str, Any]) -> UUID:
        """Emit an event in the sale's transaction."""
        id = outbox.emit(connection, Event(type=type, data=data, subject=f"invoice/{data['id']}"))
        self.kept[id] = type
        return id

    def take_back(self, *ids: UUID) -> None:
        """Note that these events were rolled back."""
        self.taken_back.update((id, self.kept.pop(id)) for id in ids)


class Host:
    """Makes its sales in a few threads. `log` grows by one with each transaction."""

    def __init__(self, engine: Engine) -> None:
        self.log: list[Sale] = []
        self._engine = engine
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(THREADS)
        self._work: list[Future[None]] = []

    def __enter__(self) -> Self:
        invoice.create(self._engine)
        shares = (range(first, TRANSACTIONS + 1, THREADS) for first in range(1, THREADS + 1))
        self._work = [self._threads.submit(self._sell_all, share) for share in shares]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._threads.shutdown()

    def busy(self) -> bool:
        """Return whether there are sales to come; raise what went wrong in one."""
        return any(not work.done() or work.result() for work in self._work)

    def count_invoices(self) -> int:
        """Return how many invoices stand in the table."""
        with self._engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(invoice)).scalar_one()

    def _sell_all(self, numbers: range) -> None:
        for number in numbers:
            if self._stopped.wait(PAUSE):
                return
            self.log.append(self._sell(number))

    def _sell(self, number: int) -> Sale:
        sale = Sale()
        try:
            with self._engine.begin() as connection:
                _invoice(connection, number, sale)
        except CardDeclined:
            sale.take_back(*sale.kept)
        return sale


def _invoice(connection: Connection, number: int, sale: Sale) -> None:
    amount = Decimal(number) + Decimal("0.90")
    query = insert(invoice).values(amount=amount).returning(invoice.c.id)
    id = connection.execute(query).scalar_one()
    sale.emit(connection, "invoice.created", {"id": id, "amount": amount})
    if number % 4 == 0:
        _redeem_voucher(connection, id, sale, expired=number % 8 == 0)
    if number % 3 == 0:
        raise CardDeclined
    connection.execute(update(invoice).where(invoice.c.id == id).values(paid=True))
    sale.emit(connection, "invoice.paid", {"id": id, "amount": amount})


def _redeem_voucher(connection: Connection, id: int, sale: Sale, *, expired: bool) -> None:
    """In a savepoint, which takes back the discount and its event when it fails."""
    savepoint = connection.begin_nested()
    discount = update(invoice).where(invoice.c.id == id).values(amount=invoice.c.amount / 2)
    connection.execute(discount)
    event = sale.emit(connection, "invoice.discounted", {"id": id})
    if expired:
        savepoint.rollback()
        sale.take_back(event)
    else:
        savepoint.commit()
