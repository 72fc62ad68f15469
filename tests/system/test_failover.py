"""The primary dies under load and its standby takes over: what is lost, what comes twice.

With a synchronous standby nothing that was committed is lost, as after a restart. With one
that lags the tail is lost, with all that the database knew of it: its events, though they may
have arrived, and that deliveries of older events ended, which are therefore sent again.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from sqlalchemy.exc import DBAPIError

import outbox
from outbox import Event, database
from tests.databases import engine_at
from tests.factories import rows, subscribe
from tests.helpers import eventually, run_cli, start_worker

from .account import account, differing, wait_until_done
from .pair import pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.receiver import Receiver

    from .pair import Pair

pytestmark = [pytest.mark.system, pytest.mark.slow]

CONCURRENCY = 20
OPTIONS = ("--concurrency", str(CONCURRENCY), "--timeout", "2", "--lease", "7.5")
WORKERS = 2
STORED = "SELECT id FROM outbox.event WHERE coalesce(source, '') <> 'outbox'"


class Hosts:
    """Threads that emit to whichever server takes writes, and remember what was certain."""

    def __init__(self, url: str, count: int = 3) -> None:
        self.certain: set[UUID] = set()
        self._engine = database.engine(url)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        self._engine.dispose()

    def wait_for(self, more: int) -> None:
        """Wait until so many more events are certain."""
        enough = len(self.certain) + more
        eventually(lambda: len(self.certain) >= enough, timeout=60)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            try:
                with self._engine.begin() as connection:
                    id = outbox.emit(connection, Event(type="a.b"))
            except DBAPIError:
                continue  # rolled back, or unknown
            self.certain.add(id)


@contextmanager
def load(made: Pair, receiver: Receiver) -> Iterator[Hosts]:
    """Hosts and workers at it, with a subscription."""
    with made.engine.begin() as connection:
        subscribe(connection, url=receiver.url, schedule=[0.0, *[0.2] * 60])
    with ExitStack() as stack:
        workers = [stack.enter_context(start_worker(made.url, *OPTIONS)) for _ in range(WORKERS)]
        for worker in workers:
            worker.wait_for_line("started: up to")
        hosts = Hosts(made.url)
        try:
            receiver.wait_for(100, timeout=60)
            yield hosts
        finally:
            hosts.stop()
        wait_until_done(engine_at(made.standby.url))
        codes = {worker.terminate() for worker in workers}
        lines = [line for worker in workers for line in worker.lines if " debug " not in line]
        assert codes == {0}, "\n".join(lines)
        assert [line for line in lines if "Traceback" in line] == []


def stored(made: Pair) -> set[UUID]:
    """The events that the new primary has."""
    with engine_at(made.standby.url).connect() as connection:
        return {id for (id,) in rows(connection, STORED)}


def test_a_synchronous_standby(receiver: Receiver) -> None:
    """Nothing is lost, and no more is repeated than was in flight."""
    with pair() as made:
        made.be_synchronous()
        with load(made, receiver) as hosts:
            made.primary.kill()
            made.promote()
            hosts.wait_for(100)
        found = account(engine_at(made.standby.url), receiver)
        told = run_cli("status", url=made.url)
        kept = stored(made)

    assert told.returncode == 0, told.stderr
    assert hosts.certain <= kept
    assert found.states == {"delivered": len(kept)}
    assert {UUID(id) for id, _ in found.requests} == kept
    assert len(found.lost) <= WORKERS * CONCURRENCY
    assert found.repeated <= len(found.lost)


def test_a_standby_that_lags(receiver: Receiver) -> None:
    """The tail is lost, and what was delivered in it comes again; all else is as it was."""
    with pair() as made:
        with load(made, receiver) as hosts:
            before = set(hosts.certain)
            made.catch_up()
            made.cut()
            hosts.wait_for(100)
            tail = set(hosts.certain) - before
            made.primary.kill()
            made.promote()
            hosts.wait_for(100)
        with engine_at(made.standby.url).connect() as connection:
            ends = rows(connection, "SELECT FROM outbox.attempt WHERE outcome = 'delivered'")
        differs = differing(engine_at(made.standby.url))
        kept = stored(made)

    arrived = {UUID(request.header("webhook-id")) for request in receiver.requests}
    lost = hosts.certain - kept
    assert lost
    assert lost <= tail
    assert kept <= arrived
    assert (len(ends), differs) == (len(kept), {})
