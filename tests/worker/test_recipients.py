"""Subscriptions are loaded when they are needed, and not one after the other with claims."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from outbox.worker.store import Store
from tests.factories import emit_many, event, subscribe, value

from .conftest import until, working

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from tests.databases import Database

SUBSCRIPTIONS = 3


def deliver(database: Database) -> int:
    """Let a worker deliver an event to each subscription; return how many requests it made."""
    with database.engine.begin() as connection:
        for _ in range(SUBSCRIPTIONS):
            subscribe(connection)
        emit_many(connection, [event()])
    requests = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal requests
        requests += 1
        return httpx.Response(200)

    def is_done() -> bool:
        with database.engine.connect() as connection:
            done = value(connection, "SELECT count(*) FROM outbox.attempt")
        return bool(done == SUBSCRIPTIONS)

    async def run() -> None:
        async with working(database, httpx.MockTransport(answer)):
            await until(is_done)

    asyncio.run(run())
    return requests


def test_foreseen(committed_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is new is loaded while it is claimed from, once."""
    claim, recipients = Store.claim, Store.recipients
    loaded: list[set[str]] = []

    async def claim_slowly(self: Store, *args: Any) -> Any:
        claims = await claim(self, *args)
        await until(lambda: loaded or not claims, timeout=5)
        return claims

    async def load(self: Store, ids: Iterable[str]) -> Any:
        loaded.append(set(ids))
        return await recipients(self, ids)

    monkeypatch.setattr(Store, "claim", claim_slowly)
    monkeypatch.setattr(Store, "recipients", load)

    assert deliver(committed_db) == SUBSCRIPTIONS
    assert [len(ids) for ids in loaded] == [SUBSCRIPTIONS]


def test_not_foreseen(committed_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that fails, it is loaded after the claim."""
    recipients = Store.recipients
    failures = 0

    async def fail_first(self: Store, ids: Iterable[str]) -> Any:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise psycopg.OperationalError("the connection is lost")
        return await recipients(self, ids)

    monkeypatch.setattr(Store, "recipients", fail_first)

    assert deliver(committed_db) == SUBSCRIPTIONS
    assert failures == 2
