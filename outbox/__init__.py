"""Webhooks from an application on PostgreSQL: events written in your own transaction.

    import outbox
    from outbox import Event

    with Session(engine) as session, session.begin():
        session.add(invoice)
        outbox.emit(session, Event(type="invoice.paid", data={"id": invoice.id}))

If the transaction commits, every subscription that wants the event gets it: signed,
retried, with each attempt on record. If it rolls back, nothing happened.
"""

from .answers import Answer, Waited
from .catalogue import Catalogue, EventType
from .errors import (
    DatabaseUnavailable,
    EmbeddedUnavailable,
    InvalidInput,
    KeyConflict,
    NotFound,
    OutboxError,
    SchemaMismatch,
    SignatureInvalid,
    WrongState,
)
from .events import Event, emit, emit_many
from .fleet import ring
from .signing import verify
from .version import __version__
from .waiting import wait

__all__ = [
    "Answer",
    "Catalogue",
    "DatabaseUnavailable",
    "EmbeddedUnavailable",
    "Event",
    "EventType",
    "InvalidInput",
    "KeyConflict",
    "NotFound",
    "OutboxError",
    "SchemaMismatch",
    "SignatureInvalid",
    "Waited",
    "WrongState",
    "__version__",
    "emit",
    "emit_many",
    "ring",
    "verify",
    "wait",
]
