"""Which deliveries a filter means, and where it looks for them."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

import outbox
from outbox import Event, InvalidInput, delivery_filter, subscriptions
from outbox.deliveries import list_deliveries
from outbox.delivery_filter import (
    ERROR_CLASSES,
    HELD,
    OUTCOMES,
    STATES,
    DeliveryFilter,
    matching,
    possible_states,
)
from outbox.moments import moment_of
from tests.factories import BY, subscribe, value

if TYPE_CHECKING:
    from collections.abc import Callable

DELIVERY = """
INSERT INTO outbox.delivery (event_id, subscription_id, replay_id)
VALUES (:event, :subscription, :replay) RETURNING id
"""
QUEUE = """
INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at, subject)
SELECT id, subscription_id, event_id, :due_at, :subject FROM outbox.delivery WHERE id = :id
"""
ATTEMPT = """
INSERT INTO outbox.attempt
    (delivery_id, attempt, outcome, status, error_class, error, response_body)
VALUES (:id, :attempt, :outcome, :status, :error_class, :error, :response_body)
"""
EMPTY = dict.fromkeys(("status", "error_class", "error", "response_body"))
REPLAY = UUID(int=7)


@pytest.fixture
def make(db: Connection) -> Callable[..., UUID]:
    """Makes deliveries: their attempts, and their place in the queue if they are `due`."""

    def make(
        *attempts: dict[str, Any], due: str | None = None, subject: str | None = None,
        subscription: UUID | None = None, replay: UUID | None = None, **event: Any,
    ) -> UUID:  # fmt: skip
        values = {
            "event": outbox.emit(db, Event(**{"type": "a.b", "subject": subject, **event})),
            "subscription": subscription or subscribe(db).id,
            "replay": replay,
        }
        id: UUID = value(db, DELIVERY, **values)
        for number, row in enumerate(attempts, start=1):
            db.execute(text(ATTEMPT), {"id": id, "attempt": number, **EMPTY, **row})
        if due is not None:
            db.execute(text(QUEUE), {"id": id, "due_at": due, "subject": subject})
        return id

    return make


def found(db: Connection, **wanted: Any) -> list[UUID]:
    return [each.id for each in list_deliveries(db, **wanted)]


def test_examples() -> None:
    """The examples of the module hold."""
    assert doctest.testmod(delivery_filter).failed == 0


def test_of_what_and_to_whom(db: Connection, make: Callable[..., UUID]) -> None:
    """Event, subscription, type, tenant, subject and replay each narrow."""
    lane = subscribe(db).id
    first = make(subscription=lane, type="invoice.paid", tenant="acme", subject="i/1")
    second = make(subscription=lane, type="invoice_x", replay=REPLAY)
    third = make(type="user.created", tenant="acme")
    event = list_deliveries(db, ids=(third,))[0].event_id

    assert found(db) == [third, second, first]
    assert found(db, subscription_id=lane) == [second, first]
    assert found(db, event_id=event) == [third]
    assert found(db, type="invoice.paid") == found(db, type="invoice.*") == [first]
    assert found(db, type="invoice_*") == [second]  # an underscore is no wildcard
    assert found(db, type="*") == [third, second, first]
    assert found(db, tenant="acme") == [third, first]
    assert found(db, subject="i/1", tenant="acme") == [first]
    assert found(db, replay_id=REPLAY) == [second]
    assert found(db, ids=(first, third, UUID(int=0))) == [third, first]


@pytest.mark.parametrize("together", [{}, {"type": "*"}])
def test_by_state(db: Connection, make: Callable[..., UUID], together: dict[str, Any]) -> None:
    """Each state is found where it stands, and held ones among the pending."""
    paused = subscribe(db).id
    ids = {
        "pending": make(due="now"),
        "delivered": make({"outcome": "delivered", "status": 200}),
        "dead": make({"outcome": "retry", "status": 503}, {"outcome": "dead", "status": 410}),
        "cancelled": make({"outcome": "cancelled"}),
    }
    held = [make(due="now", subscription=paused), make(due="infinity", subject="s")]
    subscriptions.pause(db, paused, by=BY)

    assert found(db, state="pending", **together) == [*held[::-1], ids["pending"]]
    for state in ("delivered", "dead", "cancelled"):
        assert found(db, state=state, **together) == [ids[state]]
    assert found(db, state=HELD, **together) == held[::-1]


def test_by_the_last_attempt(db: Connection, make: Callable[..., UUID]) -> None:
    """Outcome, status and error class are those of the attempt that tells how it stands."""
    refused = {"outcome": "retry", "status": 503}
    ids = {
        "refused": make(refused, due="now"),
        "unreached": make(refused, {"outcome": "retry", "error_class": "dns"}, due="now"),
        "dead": make(refused, {"outcome": "dead", "status": 504}),
        "broken": make({"outcome": "delivered", "status": 200, "error_class": "truncated"}),
        "lost": make({"outcome": "lost"}, {"outcome": "late", "status": 500}, due="now"),
        "cancelled": make(refused, {"outcome": "cancelled"}),
    }

    def names(**wanted: Any) -> list[str]:
        return [name for name in ids if ids[name] in found(db, **wanted)]

    assert names(outcome="retry") == ["refused", "unreached"]
    assert [names(outcome=o) for o in ("lost", "dead", "cancelled")] == [
        ["lost"], ["dead"], ["cancelled"],
    ]  # fmt: skip
    assert names(status="503") == ["refused"]
    assert names(status="5xx") == ["refused", "dead"]
    assert names(status="2xx") == names(error_class="truncated") == ["broken"]
    assert names(error_class="dns") == ["unreached"]
    assert names(status="5xx", state="dead") == ["dead"]
    assert names(status="5xx", outcome="delivered") == []
    assert names(state="held", outcome="dead") == []


def test_an_end_outweighs_what_came_after_it(db: Connection, make: Callable[..., UUID]) -> None:
    """A 2xx of an attempt that was thought lost ends the delivery, whatever the next came to."""
    id = make({"outcome": "lost"}, {"outcome": "retry", "status": 503})
    db.execute(text(ATTEMPT), {**EMPTY, "id": id, "attempt": 1, "outcome": "delivered",
                               "status": 200})  # fmt: skip

    (seen,) = list_deliveries(db, ids=(id,))
    assert (seen.state, seen.outcome, seen.status, seen.attempts) == (
        "delivered", "delivered", 200, 1,
    )  # fmt: skip
    assert found(db, status="5xx") == []


def test_by_time(db: Connection, make: Callable[..., UUID]) -> None:
    """From a moment on, and before another: by when the delivery was made."""
    id = make()
    made_at = moment_of(id)
    later = made_at + timedelta(milliseconds=1)

    assert list_deliveries(db)[0].made_at == made_at
    assert found(db, since=made_at, until=later) == [id]
    assert found(db, since=later) == found(db, until=made_at) == []
    assert found(db, since=datetime(1, 1, 1, tzinfo=UTC)) == [id]


def test_by_text(db: Connection, make: Callable[..., UUID]) -> None:
    """What stands in the data, in an error, or in the response to any attempt."""
    ids = [
        make(data={"name": "needle é"}),
        make({"outcome": "retry", "error": "a needle"}, {"outcome": "retry"}, due="now"),
        make({"outcome": "dead", "response_body": b"\xff needle \xc3\xa9"}),
    ]
    make({"outcome": "retry", "error": "hay"}, due="now", data={"%": "_"})

    assert found(db, text="needle") == ids[::-1]
    assert found(db, text="é", state="dead") == [ids[2]]
    assert found(db, text="Needle") == []
    assert len(found(db, text="%")) == 1


def test_a_range_of_ids(db: Connection, make: Callable[..., UUID]) -> None:
    """Between two ids, oldest or newest first, whichever the source."""
    ids = [make(due="now") for _ in range(4)]

    for wanted in (DeliveryFilter(), DeliveryFilter(state="pending"), DeliveryFilter(status="503")):
        query = matching(wanted, after=ids[0], before=ids[3], newest_first=False)
        expected = [] if wanted.status else ids[1:3]
        assert list(db.execute(query).scalars()) == expected


@pytest.mark.parametrize(
    ("wanted", "states"),
    [
        ({}, STATES),
        ({"state": "held"}, ["pending"]),
        ({"outcome": "lost"}, ["pending"]),
        ({"outcome": "dead", "state": "pending"}, []),
        ({"status": "404"}, ["pending", "dead"]),
        ({"status": "204"}, ["delivered"]),
        ({"error_class": "timeout"}, ["pending", "dead"]),
        ({"error_class": "truncated"}, ["pending", "dead", "delivered"]),
    ],
)
def test_possible_states(wanted: dict[str, Any], states: list[str]) -> None:
    """What is asked of the last attempt says in which states a delivery can be."""
    assert possible_states(DeliveryFilter(**wanted)) == set(states)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"state": "open"}, "state: must be one of pending, delivered, dead, cancelled, held"),
        ({"outcome": "late"}, f"outcome: must be one of {', '.join(OUTCOMES)}"),
        ({"error_class": "x"}, f"error-class: must be one of {', '.join(ERROR_CLASSES)}"),
        ({"status": "5x"}, "status: must be a status such as 503, or a class such as 5xx"),
        ({"status": "600"}, "status: must be a status such as 503, or a class such as 5xx"),
        ({"status": "\u0665xx"}, "status: must be a status such as 503, or a class such as 5xx"),
        ({"text": ""}, "text: must have 1 to 1,024 characters, not 0"),
    ],
)
def test_wrong_filters(wanted: dict[str, Any], message: str) -> None:
    """What can be nothing is refused before any SQL runs."""
    with pytest.raises(InvalidInput) as caught:
        DeliveryFilter(**wanted)

    assert str(caught.value) == message


def test_wrong_ranges() -> None:
    """A range of time has a beginning before its end."""
    now = datetime(2026, 1, 31, tzinfo=UTC)
    with pytest.raises(InvalidInput, match="since: must be before until"):
        DeliveryFilter(since=now, until=now)
    with pytest.raises(InvalidInput, match="type: must be parts of"):
        DeliveryFilter(type="a*b")
