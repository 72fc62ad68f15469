"""Test events: the real way through a worker, to one subscription alone."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from outbox import InvalidInput, NotFound, WrongState, events, subscriptions, trials
from outbox.fleet import alive
from tests.factories import BY, rows, subscribe, value

from .conftest import working

if TYPE_CHECKING:
    from outbox.trials import Seen
    from tests.databases import Database


def add(database: Database, **options: Any) -> UUID:
    with database.engine.begin() as connection:
        return subscribe(connection, **options).id


def found(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.engine.connect() as connection:
        return rows(connection, query)


def try_out(database: Database, id: UUID, *answers: int, **options: Any) -> tuple[Seen, list[Any]]:
    """Try a subscription out with a whole worker; return what was seen, and the requests."""
    requests: list[Any] = []
    script = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(json.loads(request.read()))
        return httpx.Response(next(script, 200), content=b"well")

    def try_() -> Seen:
        with database.engine.begin() as connection:
            assert alive(connection)
            trial = trials.begin(connection, id, by=BY, **options)
        seen = trials.wait(database.engine, trial, timeout=10)
        with database.engine.begin() as connection:
            trials.end(connection, trial)
        return seen

    async def run() -> Seen:
        async with working(database, httpx.MockTransport(answer)):
            return await asyncio.to_thread(try_)

    return asyncio.run(run()), requests


def test_delivered(committed_db: Database) -> None:
    """It is delivered as any event is, whatever the subscription subscribes to; to no other."""
    id = add(committed_db, types=["user.created"], filter="$.never", tenant="acme")
    add(committed_db)
    add(committed_db, types=["outbox.*"])
    seen, requests = try_out(committed_db, id)

    assert (seen.delivered, seen.over) == (True, True)
    assert [(a.outcome, a.status, a.response_body) for a in seen.attempts] == [
        ("delivered", 200, b"well")
    ]
    assert [request["type"] for request in requests] == ["outbox.test"]
    assert requests[0]["data"] == {"test": True, "subscription_id": str(id)}
    assert found(committed_db, "SELECT subscription_id FROM outbox.delivery") == [(id,)]
    assert found(committed_db, "SELECT tenant, source FROM outbox.event") == [("acme", "outbox")]


def test_it_is_tried_once(committed_db: Database) -> None:
    """A failure is shown, counts for nobody's health, and is not repeated for days."""
    id = add(committed_db)
    seen, requests = try_out(committed_db, id, 500, 200)

    assert (seen.delivered, len(requests)) == (False, 1)
    assert seen.attempts[0].error == "HTTP 500"
    assert found(committed_db, "SELECT * FROM outbox.subscription_health") == []
    assert found(committed_db, "SELECT * FROM outbox.delivery_queue") == []
    assert found(committed_db, "SELECT outcome FROM outbox.attempt ORDER BY recorded_at") == [
        ("retry",), ("cancelled",),
    ]  # fmt: skip
    assert found(committed_db, "SELECT count(*) FROM outbox.event") == [(1,)]


def test_of_a_type_with_data(committed_db: Database) -> None:
    """It can be as real as one likes; without data it is the example of the catalogue."""
    id = add(committed_db, ordered="stop", max_in_flight=1)
    with committed_db.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO outbox.event_type (type, example) VALUES ('invoice.paid', '{\"id\": 7}')"
        )

    _, example = try_out(committed_db, id, type="invoice.paid")
    _, given = try_out(committed_db, id, type="invoice.paid", data={"id": 8})

    assert [example[0]["data"], given[0]["data"]] == [{"id": 7}, {"id": 8}]
    assert example[0]["type"] == "invoice.paid"


def test_it_is_marked(committed_db: Database) -> None:
    """Whoever looks at the event sees that it is a test, and by whom."""
    id = add(committed_db)
    with committed_db.engine.begin() as connection:
        trial = trials.begin(connection, id, by=BY)
        stored = events.show_event(connection, trial.event_id)
        waiting = value(connection, "SELECT count(*) FROM outbox.event_queue")

    assert trials.is_test(stored)
    assert json.loads(stored.context or "") == {"test": True, "by": "ada"}
    assert waiting == 0


def test_who_cannot_be_tried_out(committed_db: Database) -> None:
    """What is held would not be sent: nothing is made for it."""
    id = add(committed_db)
    with committed_db.engine.begin() as connection:
        subscriptions.pause(connection, id, by=BY)
        with pytest.raises(WrongState, match="is paused: it cannot be tested"):
            trials.begin(connection, id, by=BY)
        with pytest.raises(NotFound):
            trials.begin(connection, UUID(int=0), by=BY)
        subscriptions.resume(connection, id, by=BY)
        with pytest.raises(InvalidInput, match="type"):
            trials.begin(connection, id, by=BY, type="a..b")
    assert found(committed_db, "SELECT * FROM outbox.event") == []


def test_nobody_comes(committed_db: Database) -> None:
    """The time over, it is not over; it is cancelled then, and may be cancelled again."""
    id = add(committed_db)
    with committed_db.engine.begin() as connection:
        trial = trials.begin(connection, id, by=BY)
    seen = trials.wait(committed_db.engine, trial, timeout=0.05)
    for _ in range(2):
        with committed_db.engine.begin() as connection:
            trials.end(connection, trial)

    assert (seen.over, seen.delivered, seen.attempts) == (False, False, ())
    assert found(committed_db, "SELECT attempt, outcome, error FROM outbox.attempt") == [
        (0, "cancelled", "a test is tried once")
    ]
