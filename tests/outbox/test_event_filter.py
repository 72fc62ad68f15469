"""Which events a filter means."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text, update

from outbox import InvalidInput, events
from outbox.event_filter import EventFilter
from outbox.moments import moment_of
from outbox.tables import event_queue
from tests.factories import emit_many, event

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection


def found(db: Connection, **wanted: Any) -> list[UUID]:
    return [each.id for each in events.list_events(db, **wanted)]


def test_each_narrows(db: Connection) -> None:
    """Type, tenant, subject, source and text, alone and together."""
    a, b, c = emit_many(db, [
        event("invoice.paid", tenant="acme", source="shop", data={"name": "é 100%"}),
        event("invoice_x", subject="i/1", source="shop"),
        event("user.created", tenant="acme"),
    ])  # fmt: skip

    assert found(db) == found(db, type="*") == [c, b, a]
    assert found(db, type="invoice.*") == found(db, text="é 100%") == [a]
    assert found(db, type="invoice_*") == found(db, subject="i/1") == [b]
    assert found(db, source="shop") == [b, a]
    assert found(db, source="shop", tenant="acme") == [a]
    assert found(db, source="shop", limit=1, before=b) == [a]


def test_by_time(db: Connection) -> None:
    """From a moment on, and before another: by when the event was written."""
    (id,) = emit_many(db, [event()])
    written = moment_of(id)
    later = written + timedelta(milliseconds=1)

    assert found(db, since=written, until=later) == [id]
    assert found(db, since=later) == found(db, until=written) == []


def test_by_fan_out(db: Connection) -> None:
    """Those that wait for it, and those for which it failed."""
    waiting, aside, done = emit_many(db, [event(), event(), event()])
    is_aside = event_queue.c.event_id == aside
    db.execute(update(event_queue).where(is_aside).values(due_at=text("'infinity'"), error="x"))
    db.execute(event_queue.delete().where(event_queue.c.event_id == done))

    assert found(db, fan_out="waiting") == [waiting]
    assert found(db, fan_out="set aside") == [aside]
    assert events.fan_out_again(db, [aside, done, waiting]) == [aside]
    assert found(db, fan_out="waiting") == [aside, waiting]


@pytest.mark.parametrize("wanted", [{"type": "a*b"}, {"text": ""}, {"fan_out": "done"}])
def test_wrong_filters(wanted: dict[str, Any]) -> None:
    """What can be nothing is refused before any SQL runs."""
    with pytest.raises(InvalidInput):
        EventFilter(**wanted)
