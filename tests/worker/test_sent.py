"""Requests made again: to the byte what the worker sent, and where not, it is said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from outbox import NotFound, subscriptions
from outbox.deliveries import list_attempts, list_deliveries
from outbox.keyring import Keyring
from outbox.sent import (
    REVISION_UNKNOWN,
    SECRETS_CHANGED,
    SIGNED_ANEW,
    TIME_UNKNOWN,
    UNSIGNED,
    Sent,
    next_request,
    request_of,
)
from tests.factories import BY, emit_many, event, subscribe

from .conftest import until, working

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

    from outbox.keyring import Keyring as Ring
    from tests.databases import Database

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LATER = 4e9  # Unix seconds, long after everything here
RING = Keyring()


def add(database: Database, **options: Any) -> UUID:
    headers = {"X-Team": "a", "X-Api-Key": "hunter2", "A": "b"}
    with database.engine.begin() as connection:
        to = subscribe(
            connection, keyring=RING, headers=headers, schedule=[0, 0.01, 3600], **options
        )
        emit_many(connection, [event(data={"é": 1.50}, context={"traceparent": TRACE})])
        return to.id


def refuse_twice(database: Database) -> list[httpx.Request]:
    """Let a worker make two attempts, and return what it sent."""
    sent: list[httpx.Request] = []

    def receive(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(503)

    def recorded() -> bool:
        with database.engine.connect() as connection:
            return len(attempts(connection)) == 2

    async def run() -> None:
        async with working(database, httpx.MockTransport(receive)):
            await until(recorded)

    asyncio.run(run())
    return sent


def attempts(connection: Connection) -> list[Any]:
    found = list_deliveries(connection)
    return list_attempts(connection, found[0].id) if found else []


def again(database: Database, number: int | None = None, keyring: Ring = RING) -> Sent:
    with database.engine.connect() as connection:
        (delivery,) = list_deliveries(connection)
        return request_of(connection, delivery, attempts(connection), number, now=LATER,
                          keyring=keyring)  # fmt: skip


def shown(made: Sent) -> tuple[Any, ...]:
    return made.outgoing.method, made.outgoing.url, made.outgoing.headers, made.outgoing.body


def as_sent(request: httpx.Request) -> tuple[Any, ...]:
    headers = tuple(header for header in request.headers.raw if header[0].lower() != b"host")
    return request.method, str(request.url), headers, request.content


def test_to_the_byte(committed_db: Database) -> None:
    """Each attempt is made again as it was, whatever was changed since."""
    id = add(committed_db, method="PUT", schemes=["standard", "stripe"], format="cloudevents")
    sent = refuse_twice(committed_db)
    with committed_db.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE outbox.subscription SET url = 'http://127.0.0.1:9/new', method = 'POST',"
            " format = 'raw', schemes = '{github}', user_agent = 'new/1'"
        )
        subscriptions.pause(connection, id, by=BY)

    made = [again(committed_db, number) for number in (1, 2)]
    assert [shown(each) for each in made] == [as_sent(each) for each in sent]
    assert [(each.attempt, each.revision, each.notes) for each in made] == [(1, 1, ()), (2, 1, ())]
    assert made[0].own == {"x-team", "x-api-key", "a"}
    assert again(committed_db) == made[1]


def test_the_next_one(committed_db: Database) -> None:
    """One attempt more has the next number and the subscription of now."""
    id = add(committed_db)
    refuse_twice(committed_db)
    with committed_db.engine.begin() as connection:
        subscriptions.pause(connection, id, by=BY)
        (delivery,) = list_deliveries(connection)
        made = next_request(connection, delivery, now=LATER, keyring=RING)

    assert (made.attempt, made.revision, made.notes) == (3, 2, ())
    headers = dict(made.outgoing.headers)
    assert headers[b"webhook-timestamp"] == b"4000000000"
    assert headers[b"webhook-attempt"] == b"3"


def test_before_the_first(committed_db: Database) -> None:
    """Without an attempt it is what will be sent; another number is none."""
    add(committed_db)
    with committed_db.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO outbox.delivery (event_id, subscription_id)"
            " SELECT e.id, s.id FROM outbox.event e, outbox.subscription s"
        )

    assert again(committed_db).attempt == 1
    with pytest.raises(NotFound, match="attempt: there is none with the id 1"):
        again(committed_db, 1)


def test_a_rotated_secret(committed_db: Database) -> None:
    """While the old secret signs along it is the same; afterwards another signs, as is said."""
    id = add(committed_db)
    sent = refuse_twice(committed_db)
    with committed_db.engine.begin() as connection:
        subscriptions.rotate_secret(connection, id, by=BY, overlap=3600, keyring=RING)
    overlapping = again(committed_db, 1)
    with committed_db.engine.begin() as connection:
        subscriptions.rotate_secret(connection, id, by=BY, overlap=0, keyring=RING)
    gone = again(committed_db, 1)

    assert (shown(overlapping), overlapping.notes) == (as_sent(sent[0]), (SECRETS_CHANGED,))
    assert gone.notes == (SECRETS_CHANGED, SIGNED_ANEW)
    assert shown(gone) != as_sent(sent[0])
    assert gone.outgoing.body == sent[0].content


def test_no_secret(committed_db: Database) -> None:
    """Without a secret, or one that opens, it is made without its signature."""
    id = add(committed_db)
    sent = refuse_twice(committed_db)
    with committed_db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox.secret SET key_id = 'abc'")
    sealed = again(committed_db, 1)
    with committed_db.engine.begin() as connection:
        subscriptions.remove(connection, id, by=BY)
    removed = again(committed_db, 1)

    assert removed.notes == (SECRETS_CHANGED, UNSIGNED)
    (note,) = sealed.notes
    assert note == f"{UNSIGNED}: secret: OUTBOX_SECRET_KEY lacks the key abc that sealed it"
    for made in (sealed, removed):
        names = [name for name, _ in made.outgoing.headers]
        assert names == [name for name, _ in as_sent(sent[0])[2] if name != b"webhook-signature"]


def test_an_attempt_that_was_lost(committed_db: Database) -> None:
    """Of an attempt whose worker died neither revision nor time is known."""
    add(committed_db)
    refuse_twice(committed_db)
    with committed_db.engine.begin() as connection:
        (delivery,) = list_deliveries(connection)
        connection.exec_driver_sql(
            "INSERT INTO outbox.attempt (delivery_id, attempt, outcome)"  # noqa: S608 - an id
            f" VALUES ('{delivery.id}', 3, 'lost'), ('{delivery.id}', 2, 'late')"
        )

    assert again(committed_db, 3).notes == (REVISION_UNKNOWN, TIME_UNKNOWN)
    assert again(committed_db, 2).notes == ()
