"""Limits with four worker processes and a real receiver: exact, as the receiver sees it."""

from __future__ import annotations

import json
import random
import threading
from bisect import bisect_right
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

import outbox
from outbox import Event
from tests.factories import subscribe
from tests.helpers import start_worker
from tests.receiver import Answer

from .account import wait_until_done

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.databases import Database
    from tests.receiver import Receiver

pytestmark = [pytest.mark.system, pytest.mark.slow]


def deliver(database: Database, receiver: Receiver, count: int, **options: Any) -> None:
    """Let four processes bring `count` events to a subscription with `options`."""
    with database.engine.begin() as connection:
        subscribe(connection, url=receiver.url, **options)
        outbox.emit_many(connection, [Event(type="a.b", data=n) for n in range(count)])
    with start_worker(database.url, "--processes", "4") as worker:
        wait_until_done(database.engine)
        assert worker.terminate() == 0
    assert len(receiver.requests) == count


def test_max_in_flight(committed_db: Database, receiver: Receiver) -> None:
    """The receiver never has more requests in hand than the limit, and often just as many."""
    seconds = 0.03
    receiver.script = lambda _: Answer(delay=seconds)
    deliver(committed_db, receiver, 200, max_in_flight=5)
    arrived = sorted(request.arrived for request in receiver.requests)
    in_hand = [n + 1 - bisect_right(arrived, at - seconds) for n, at in enumerate(arrived)]

    assert max(in_hand) == 5


def test_rate(committed_db: Database, receiver: Receiver) -> None:
    """In no second do more requests come than the rate and its burst."""
    deliver(committed_db, receiver, 200, rate=50, burst=10)
    arrived = sorted(request.arrived for request in receiver.requests)
    in_a_second = [n + 1 - bisect_right(arrived, at - 1) for n, at in enumerate(arrived)]

    assert max(in_a_second) <= 60
    assert arrived[-1] - arrived[0] < 30


WRITERS, EVENTS, SUBJECTS = 50, 6, 20


def test_ordered(committed_db: Database, receiver: Receiver) -> None:
    """With 50 hosts that write at once and a receiver that fails at random no subject is out of
    order, none is incomplete, and nothing is sent before the one before it has arrived."""
    rng = random.Random(7)  # noqa: S311
    answers = [*map(Answer, (200, 200, 200, 500, 404)), Answer(raw=b"")]
    receiver.script = lambda _: rng.choice(answers)
    with committed_db.engine.begin() as connection:
        subscribe(connection, url=receiver.url, schedule=[0] + [0.01] * 60, ordered="stop")
        connection.execute(text("CREATE TABLE counter (subject text PRIMARY KEY, n integer)"))
    try:
        with start_worker(committed_db.url, "--processes", "4") as worker:
            write(committed_db.engine)
            wait_until_done(committed_db.engine)
            assert worker.terminate() == 0
    finally:
        with committed_db.engine.begin() as connection:
            connection.execute(text("DROP TABLE counter"))

    seen = defaultdict(list)
    for request in receiver.requests:
        data = json.loads(request.body)["data"]
        seen[data["subject"]].append(data["n"])
    assert Counter({subject: max(ns) for subject, ns in seen.items()}).total() == WRITERS * EVENTS
    for ns in seen.values():
        assert ns[0] == 1
        assert all(later - earlier in {0, 1} for earlier, later in pairwise(ns))


def write(engine: Engine) -> None:
    """Every host counts each of its subjects up and emits the number, in one transaction."""

    def host(n: int) -> None:
        for event in range(EVENTS):
            subject = f"user/{(n + event * 7) % SUBJECTS}"
            with engine.begin() as connection:
                number = connection.execute(COUNT, {"subject": subject}).scalar_one()
                data = {"subject": subject, "n": number}
                outbox.emit(connection, Event(type="user.updated", subject=subject, data=data))

    threads = [threading.Thread(target=host, args=(n,)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


COUNT = text("""
    INSERT INTO counter AS c VALUES (:subject, 1)
    ON CONFLICT (subject) DO UPDATE SET n = c.n + 1 RETURNING n
""")
