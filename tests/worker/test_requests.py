"""What a worker makes of a subscription's secrets, format, method and timeout."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import outbox
from outbox import subscriptions
from outbox.binary import to_base64
from outbox.keyring import Keyring
from outbox.previews import preview
from outbox.signing import new_secret, verify
from tests.factories import BY, LOOPBACK, event, rows, value

from .conftest import until, working

if TYPE_CHECKING:
    from uuid import UUID

    from tests.databases import Database

SECRET = new_secret(b"s" * 32)
ONE, TWO = (Keyring.read(to_base64(bytes([byte]) * 32)) for byte in (1, 2))


def add(database: Database, keyring: Keyring = ONE, **options: Any) -> UUID:
    with database.engine.begin() as connection:
        return subscriptions.add(
            connection,
            "http://127.0.0.1:9/",
            ["*"],
            by=BY,
            keyring=keyring,
            allow=LOOPBACK,
            **options,
        )[0].id


def emit(database: Database, **fields: Any) -> UUID:
    with database.engine.begin() as connection:
        return outbox.emit(connection, event(**fields))


def count(database: Database, query: str) -> int:
    with database.engine.connect() as connection:
        return int(value(connection, f"SELECT count(*) FROM {query}"))  # noqa: S608


def work(database: Database, done: str, **settings: Any) -> list[httpx.Request]:
    """Let a worker work until there is a row of `done`; return what it sent."""
    requests = []

    def receive(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200)

    async def run() -> None:
        async with working(database, httpx.MockTransport(receive), **settings):
            await until(lambda: count(database, done))

    asyncio.run(run())
    return requests


DELIVERED = "outbox.attempt WHERE outcome = 'delivered'"
DISABLED = "outbox.subscription WHERE state = 'disabled'"


def test_sealed_secrets_sign(committed_db: Database) -> None:
    """A worker opens what is sealed, with a key that is no longer the first one too."""
    add(committed_db, secret_text=SECRET)
    emit(committed_db)
    both = Keyring({**TWO.keys, **ONE.keys})
    (request,) = work(committed_db, DELIVERED, keyring=both)

    now = float(request.headers["webhook-timestamp"])
    verify(request.content, dict(request.headers), SECRET, now=now)


@pytest.mark.parametrize("keyring", [Keyring(), TWO], ids=["without a key", "with another key"])
def test_a_secret_that_does_not_open(committed_db: Database, keyring: Keyring) -> None:
    """It disables the subscription with its reason; the delivery is held, nothing goes out."""
    add(committed_db)
    emit(committed_db)

    assert work(committed_db, DISABLED, keyring=keyring) == []
    assert count(committed_db, "outbox.attempt") == 0
    assert count(committed_db, "outbox.delivery_queue WHERE attempt = 0") == 1
    with committed_db.engine.connect() as connection:
        (found,) = subscriptions.list_subscriptions(connection)
    assert found.state_reason == (
        f"secret: OUTBOX_SECRET_KEY lacks the key {ONE.sealing_key} that sealed it"
    )


def test_a_swapped_secret_does_not_open(committed_db: Database) -> None:
    """The secret of another subscription, put into this one's row, signs nothing."""
    here, there = add(committed_db), add(committed_db)
    with committed_db.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM outbox.secret WHERE subscription_id = '{here}'")  # noqa: S608
        connection.exec_driver_sql(f"UPDATE outbox.secret SET subscription_id = '{here}'")  # noqa: S608
        subscriptions.pause(connection, there, by=BY)
    emit(committed_db)

    assert work(committed_db, DISABLED, keyring=ONE) == []


def test_worker_and_preview_agree(committed_db: Database) -> None:
    """A preview shows method, URL, headers and body that the worker then sends."""
    id = add(committed_db, Keyring(), method="PATCH", format="casdoor", headers={"X-Team": "b"},
             schemes=["standard", "shopify"], user_agent="mine/1")  # fmt: skip
    event_id = emit(
        committed_db, tenant="acme", data={"user": "é"},
        context={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    )  # fmt: skip
    (request,) = work(committed_db, DELIVERED)
    now = float(request.headers["webhook-timestamp"])
    with committed_db.engine.connect() as connection:
        shown = preview(connection, id, event_id, now=now, keyring=Keyring())

    assert (shown.method, shown.url) == (request.method, str(request.url)) == ("PATCH", shown.url)
    assert shown.body == request.content
    sent = [(name, value) for name, value in request.headers.raw if name.lower() != b"host"]
    assert list(shown.headers) == sent


def test_every_attempt_has_the_same_body(committed_db: Database) -> None:
    """A format that writes data again writes it the same at each attempt."""
    add(committed_db, Keyring(), format="logto", schedule=[0, 0.01, 0.01], max_age=None)
    emit(committed_db, data={"b": 1.0, "2": "é", "1": [0.1]})
    bodies: list[bytes] = []

    def receive(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200 if len(bodies) == 3 else 500)

    async def run() -> None:
        async with working(committed_db, httpx.MockTransport(receive)):
            await until(lambda: count(committed_db, DELIVERED))

    asyncio.run(run())

    assert len(set(bodies)) == 1
    assert list(json.loads(bodies[0])) == ["1", "2", "event", "createdAt", "b", "hookId"]


def test_timeout_of_a_subscription(committed_db: Database) -> None:
    """A subscription may be less patient than the worker, never more."""
    add(committed_db, Keyring(), timeout=0.1)
    emit(committed_db)

    async def hang(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        return httpx.Response(200)

    async def run() -> None:
        async with working(committed_db, httpx.MockTransport(hang), timeout=20):
            await until(lambda: count(committed_db, "outbox.attempt WHERE outcome = 'retry'"))

    asyncio.run(run())

    with committed_db.engine.connect() as connection:
        error = value(connection, "SELECT error FROM outbox.attempt")
    assert error.startswith("timeout: no complete answer within 0.1 s")


def test_headers_of_answers(committed_db: Database) -> None:
    """What refused keeps its headers without credentials, a 2xx only what names it."""
    add(committed_db, Keyring(), schedule=[0, 0.01, 0.01])
    emit(committed_db)
    answers = [
        httpx.Response(503, headers={"Server": 'a, {"b"}', "Set-Cookie": "s=1"}),
        httpx.Response(200, headers={"Server": "a", "X-Request-Id": "r-1"}),
    ]

    async def run() -> None:
        async with working(committed_db, httpx.MockTransport(lambda _: answers.pop(0))):
            await until(lambda: count(committed_db, DELIVERED))

    asyncio.run(run())

    query = "SELECT response_headers::text FROM outbox.attempt ORDER BY attempt"
    with committed_db.engine.connect() as connection:
        assert [json.loads(text) for (text,) in rows(connection, query)] == [
            {"server": 'a, {"b"}'},
            {"x-request-id": "r-1"},
        ]


def test_a_usual_delivery_keeps_no_headers(committed_db: Database) -> None:
    """A 2xx that names nothing costs nothing."""
    add(committed_db, Keyring())
    emit(committed_db)
    work(committed_db, DELIVERED)

    assert count(committed_db, "outbox.attempt WHERE response_headers IS NULL") == 1
