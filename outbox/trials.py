"""A test event: it goes the real way through a worker, to one subscription alone.

It is an event of the outbox itself (`source` is `outbox`) and marked as a test in its
context. No fan-out sees it, its delivery counts for nobody's health, and it is tried once:
what does not succeed is cancelled, not repeated for days.

    with engine.begin() as connection:
        trial = trials.begin(connection, subscription_id, by=me)
    seen = trials.wait(engine, trial, timeout=30)
    with engine.begin() as connection:
        trials.end(connection, trial)
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, delete, func, insert, literal, select

from . import fleet, repairs
from .deliveries import Delivery, list_attempts, show_delivery
from .encoding import encode
from .event_types import check_type
from .subscription_changes import lock
from .tables import attempt, delivery, delivery_queue, event, event_queue, event_type

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection, Engine

    from .deliveries import Attempt
    from .events import StoredEvent
    from .subscription_changes import Author

TYPE = "outbox.test"
POLL = 0.1  # seconds
_PASSING = {"stale", "internal"}  # faults of ours, after which the worker tries again at once


@dataclass(frozen=True, slots=True)
class Trial:
    """A test event on its way."""

    event_id: UUID
    delivery_id: UUID


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a trial is: its delivery, its attempts, and whether it came to its end."""

    delivery: Delivery
    attempts: tuple[Attempt, ...]

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.delivery.state == "delivered"

    @property
    def over(self) -> bool:
        """Whether it ended, or an attempt failed as far as the receiver is concerned."""
        return self.delivery.state != "pending" or any(
            each.outcome == "retry" and each.error_class not in _PASSING for each in self.attempts
        )


def begin(
    connection: Connection, id: UUID, *, by: Author, type: str = TYPE, data: Any = None
) -> Trial:
    """Send a test event to the subscription `id`, whatever it subscribes to.

    Without `data` it is the example of its type in the catalogue, or says that it is a
    test. Raises InvalidInput, NotFound, and WrongState unless the subscription is active.
    """
    check_type(type)
    text = None if data is None else encode(data)
    to = lock(connection, id, {"active"}, "tested")
    text = text or _example(connection, type) or encode({"test": True, "subscription_id": str(id)})
    values = {
        "type": type, "tenant": to.tenant, "source": "outbox", "data": text,
        "context": json.dumps({"test": True, "by": by.actor}), "due_at": func.now(),
    }  # fmt: skip
    event_id = connection.execute(insert(event).values(values).returning(event.c.id)).scalar_one()
    queued = (event_queue.c.due_at == func.now(), event_queue.c.event_id == event_id)
    connection.execute(delete(event_queue).where(*queued))
    repairs.deliver_again(connection, [(event_id, id)])
    fleet.wake(connection)
    made = select(delivery.c.id).where(delivery.c.event_id == event_id)
    return Trial(event_id, connection.execute(made).scalar_one())


def _example(connection: Connection, type: str) -> str | None:
    query = select(event_type.c.example).where(event_type.c.type == type)
    found: str | None = connection.execute(query).scalar()
    return found


def is_test(event: StoredEvent) -> bool:
    """Return whether an event is a test: one of the outbox, marked in its context."""
    if event.source != "outbox" or event.context is None:
        return False
    return json.loads(event.context).get("test") is True


def look(connection: Connection, trial: Trial) -> Seen:
    """Return how far it is."""
    found = show_delivery(connection, trial.delivery_id)
    return Seen(found, tuple(list_attempts(connection, trial.delivery_id)))


def wait(engine: Engine, trial: Trial, *, timeout: float) -> Seen:
    """Return how far it is once it is over, or after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        with engine.begin() as connection:
            seen = look(connection, trial)
        left = end - time.monotonic()
        if seen.over or not left > 0:  # this way round a NaN is no wait
            return seen
        time.sleep(min(POLL, left))


def end(connection: Connection, trial: Trial) -> None:
    """Cancel what is left of it: it is tried once."""
    gone = (
        delete(delivery_queue)
        .where(delivery_queue.c.delivery_id == trial.delivery_id)
        .returning(delivery_queue.c.delivery_id, delivery_queue.c.attempt)
        .cte("gone")
    )
    told = literal("a test is tried once", Text)
    cancelled = select(gone.c.delivery_id, gone.c.attempt, literal("cancelled"), told)
    columns = ["delivery_id", "attempt", "outcome", "error"]
    connection.execute(insert(attempt).from_select(columns, cancelled))
