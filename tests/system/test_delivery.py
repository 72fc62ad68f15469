"""From the host's transaction to the receiver, with real processes: exactly what was committed."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from standardwebhooks import Webhook

import outbox
from outbox import Event, subscriptions
from tests.databases import Database, engine_at, engine_url
from tests.factories import BY, LOOPBACK, subscribe
from tests.helpers import eventually, start_worker

from .account import account, wait_until_done

if TYPE_CHECKING:
    from tests.receiver import Receiver

    from .pg import Cluster

pytestmark = pytest.mark.system

DATA: list[Any] = [
    {"id": 1, "amount": 19.9},
    {"text": 'é € 𝄞 \u2028 \x01 </script> \\ "'},
    ["nested", [None, True, 1e100, {"": ""}]],
    "text",
    0,
    None,
    {"large": "x" * 100_000},
]


def test_signatures(committed_db: Database, receiver: Receiver) -> None:
    """Others' code verifies every request: first attempts, retries, any data."""
    with committed_db.engine.begin() as connection:
        _, secret = subscriptions.add(
            connection, receiver.url, ["*"], by=BY, schedule=[0, 0.1, 0.1, 0.1], allow=LOOPBACK
        )
        outbox.emit_many(
            connection, [Event(type="a.b", data={"n": n, "data": DATA[n % 7]}) for n in range(210)]
        )
    receiver.script = [500, 302, 429] * 40
    with start_worker(committed_db.url, "--processes", "2") as worker:
        wait_until_done(committed_db.engine)
        assert worker.terminate() == 0

    found = account(committed_db.engine, receiver)
    assert secret is not None
    for request in receiver.requests:
        headers = {name.lower(): text for name, text in request.headers}
        body = Webhook(secret).verify(request.body.decode(), headers)
        assert (body["type"], body["data"]["data"]) == ("a.b", DATA[body["data"]["n"] % 7])
    assert found.states == {"delivered": 210}
    assert (len(receiver.requests), found.lost) == (330, set())
    assert [line for line in worker.lines if "Traceback" in line] == []


# Exactly what was committed.


@dataclass
class Hosts:
    """What the hosts know: which events they committed, and that some were rolled back."""

    engine: AsyncEngine
    rng: random.Random
    committed: set[UUID] = field(default_factory=set)
    taken_back: int = 0

    async def transaction(self) -> None:
        """One of the 200: emits, waits, perhaps takes a part back, and ends in one of two ways."""
        waits = [self.rng.uniform(0, 0.3) for _ in range(2)]
        savepoint, kept = self.rng.random() < 0.5, self.rng.random() < 0.5
        rolls_back = self.rng.random() < 1 / 3
        async with AsyncSession(self.engine) as session:
            ids = [await outbox.emit(session, Event(type="a.first"))]
            await asyncio.sleep(waits[0])
            if savepoint:
                nested = await session.begin_nested()
                inside = await outbox.emit_many(session, [Event(type="a.inside")] * 2)
                await (nested.commit() if kept else nested.rollback())
                ids += inside if kept else []
                self.taken_back += 0 if kept else 2
            await asyncio.sleep(waits[1])
            ids.append(await outbox.emit(session, Event(type="a.last", key=str(ids[0]))))
            await (session.rollback() if rolls_back else session.commit())
        if rolls_back:
            self.taken_back += len(ids)
        else:
            self.committed.update(ids)


async def two_hundred(hosts: Hosts) -> None:
    await asyncio.gather(*(hosts.transaction() for _ in range(200)))
    await hosts.engine.dispose()


def insert_many(url: str, count: int, committed: set[UUID]) -> None:
    """Commit so many events one by one, with plain SQL."""
    with psycopg.connect(url, autocommit=True) as connection:
        for n in range(count):
            row = connection.execute(
                "INSERT INTO outbox.event (type, data) VALUES ('a.later', %s) RETURNING id",
                [str(n)],
            ).fetchone()
            assert row
            committed.add(row[0])


@pytest.fixture
def wide_cluster(own_cluster: Cluster) -> Cluster:
    """A cluster for 200 transactions at once."""
    own_cluster.stop()
    with (own_cluster.folder / "settings.conf").open("a") as settings:
        settings.write("\nmax_connections = 300\n")
    own_cluster.start()
    return own_cluster


@pytest.mark.parametrize("held", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_exactly_the_committed(wide_cluster: Cluster, receiver: Receiver, held: float) -> None:
    """200 transactions at once, a third rolled back, one held open while 5,000 overtake it."""
    engine = engine_at(wide_cluster.url)
    with engine.begin() as connection:
        subscribe(connection, url=receiver.url)
    hosts = Hosts(
        create_async_engine(engine_url(wide_cluster.url, "psycopg"), poolclass=NullPool),
        random.Random(20261),  # noqa: S311 - a seed
    )
    with start_worker(wide_cluster.url) as worker, engine.connect() as slow:
        began = time.monotonic()
        late = outbox.emit(slow, Event(type="a.late"))
        others = threading.Thread(
            target=insert_many, args=(wide_cluster.url, 5_000, hosts.committed)
        )
        others.start()
        asyncio.run(two_hundred(hosts))
        others.join()
        receiver.wait_for(len(hosts.committed), timeout=60)
        overtaken = ids(receiver)
        eventually(lambda: time.monotonic() - began > held, held + 1)
        slow.commit()
        receiver.wait_for(len(hosts.committed) + 1)
        wait_until_done(engine)
        assert worker.terminate() == 0

    assert overtaken == hosts.committed
    assert ids(receiver) == hosts.committed | {late}
    assert len(receiver.requests) == len(hosts.committed) + 1
    assert account(engine, receiver).states == {"delivered": len(hosts.committed) + 1}
    assert hosts.taken_back > 100
    assert len(hosts.committed) > 5_200


def ids(receiver: Receiver) -> set[UUID]:
    return {UUID(request.header("webhook-id")) for request in receiver.requests}


def test_nothing_matches_nothing_is_sent(committed_db: Database, receiver: Receiver) -> None:
    """Only what a subscription asked for is sent to it, as it was filtered."""
    with committed_db.engine.begin() as connection:
        subscribe(connection, url=receiver.url, types=["invoice.*"], filter="$.amount > 100")
        wanted = outbox.emit(connection, Event(type="invoice.paid", data={"amount": 101}))
        outbox.emit(connection, Event(type="invoice.paid", data={"amount": 100}))
        outbox.emit(connection, Event(type="user.created", data={"amount": 101}))
    with start_worker(committed_db.url):
        wait_until_done(committed_db.engine)

    (request,) = receiver.requests
    assert request.header("webhook-id") == str(wanted)
    assert json.loads(request.body)["data"] == {"amount": 101}
