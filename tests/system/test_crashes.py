"""Crashes: of a worker, of PostgreSQL. Nothing is lost, and what is repeated is accounted for."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from sqlalchemy.exc import DBAPIError

import outbox
from outbox import Event
from tests.databases import Database, engine_at
from tests.factories import rows, subscribe
from tests.helpers import start_worker
from tests.receiver import Answer

from .account import account, wait_until_done

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.receiver import Receiver

    from .pg import Cluster

pytestmark = pytest.mark.system

CONCURRENCY = 50
QUICK = ("--concurrency", str(CONCURRENCY), "--timeout", "1", "--lease", "6.5")
DELAY = 0.05


def emit(engine: Engine, count: int) -> list[UUID]:
    with engine.begin() as connection:
        return outbox.emit_many(
            connection, [Event(type="a.b", data={"n": n}) for n in range(count)]
        )


def subscribe_to_all(engine: Engine, receiver: Receiver) -> None:
    with engine.begin() as connection:
        subscribe(connection, url=receiver.url)


def slowly(receiver: Receiver) -> None:
    """Answer a moment later, so that requests are in flight at every moment."""
    receiver.script = lambda _: Answer(delay=DELAY)


@pytest.mark.slow
def test_kill_one_of_two_workers(committed_db: Database, receiver: Receiver) -> None:
    """After kill -9 all is delivered; repeated is what was in flight, and stands as lost."""
    engine = committed_db.engine
    subscribe_to_all(engine, receiver)
    slowly(receiver)
    emit(engine, 5_000)
    with start_worker(committed_db.url, *QUICK) as victim, start_worker(committed_db.url, *QUICK):
        receiver.wait_for(1_500, timeout=30)
        killed_at = time.monotonic()
        victim.kill()
        wait_until_done(engine)
    found = account(engine, receiver)
    first = {sent for sent in found.lost if sent in found.requests}
    with engine.connect() as connection:
        query = "SELECT DISTINCT worker_id FROM outbox.attempt WHERE outcome = 'lost'"
        losers = rows(connection, query)
        dead = rows(connection, "SELECT id FROM outbox.worker WHERE stopped_at IS NULL")

    assert found.states == {"delivered": 5_000}
    assert losers == dead
    assert len(dead) == 1
    # What was repeated is exactly what had reached the receiver and was not recorded yet.
    assert found.repeated == len(first)
    assert 0 < len(first) <= 2 * CONCURRENCY
    in_flight = [r for r in receiver.requests if killed_at - 1 < r.arrived < killed_at + DELAY]
    assert {(r.header("webhook-id"), int(r.header("webhook-attempt"))) for r in in_flight} >= first


class Emitter:
    """A host that emits one event after the other and notes what became of its commits."""

    def __init__(self, engine: Engine) -> None:
        self.certain: set[UUID] = set()
        self.failed = 0
        self._engine = engine
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._engine.begin() as connection:
                    id = outbox.emit(connection, Event(type="a.b"))
            except DBAPIError:
                self.failed += 1
                self._stop.wait(0.01)
            else:
                self.certain.add(id)


@pytest.mark.slow
def test_restart_of_postgresql_under_load(own_cluster: Cluster, receiver: Receiver) -> None:
    """PostgreSQL crashes twice under load: the worker goes on by itself, nothing is lost."""
    engine = engine_at(own_cluster.url)
    subscribe_to_all(engine, receiver)
    slowly(receiver)
    emit(engine, 1_500)
    with start_worker(own_cluster.url, *QUICK) as worker:
        host = Emitter(engine)
        for count in (400, 900):
            receiver.wait_for(count, timeout=30)
            own_cluster.restart_immediate()
        receiver.wait_for(1_500, timeout=30)
        host.stop()
        wait_until_done(engine)
        assert worker.terminate() == 0
    found = account(engine, receiver)
    with engine.connect() as connection:
        events = {id for (id,) in rows(connection, "SELECT id FROM outbox.event")}

    assert host.failed > 0
    assert {UUID(id) for id, _ in found.requests} == events
    assert host.certain <= events
    assert found.states == {"delivered": len(events)}
    assert found.repeated <= len(found.lost) <= 2 * 2 * CONCURRENCY
    assert [line for line in worker.lines if "the database is back" in line]
    assert [line for line in worker.lines if "Traceback" in line] == []


def test_restart_of_postgresql_while_idle(own_cluster: Cluster, receiver: Receiver) -> None:
    """After a crash that nobody used, the next event is delivered without delay or repetition."""
    engine = engine_at(own_cluster.url)
    subscribe_to_all(engine, receiver)
    with start_worker(own_cluster.url) as worker:
        emit(engine, 1)
        wait_until_done(engine)
        own_cluster.restart_immediate()
        emit(engine, 1)
        receiver.wait_for(2, timeout=15)
        wait_until_done(engine, timeout=5)
        assert worker.terminate() == 0

    assert account(engine, receiver).states == {"delivered": 2}
    assert (len(receiver.requests), worker.lines[-1].split()[-1]) == (2, "stopped")


@pytest.mark.slow
def test_long_outage(own_cluster: Cluster, receiver: Receiver) -> None:
    """PostgreSQL may be away for longer than any timeout; results wait, and are recorded once."""
    engine = engine_at(own_cluster.url)
    subscribe_to_all(engine, receiver)
    receiver.script = lambda _: Answer(delay=0.5)
    emit(engine, 200)
    with start_worker(own_cluster.url, "--concurrency", "20") as worker:
        receiver.wait_for(50)
        own_cluster.stop()
        worker.wait_for_line("waits for the database")
        time.sleep(30)
        own_cluster.start()
        wait_until_done(engine)
        assert worker.terminate() == 0

    assert account(engine, receiver).states == {"delivered": 200}
    assert [line for line in worker.lines if "Traceback" in line] == []


def test_stop_while_postgresql_is_away(own_cluster: Cluster) -> None:
    """A worker that waits for the database can be stopped."""
    with start_worker(own_cluster.url, "--grace", "1") as worker:
        worker.wait_for_line("started")
        own_cluster.stop()
        worker.wait_for_line("waits for the database")
        began = time.monotonic()

        assert worker.terminate() == 0
        assert time.monotonic() - began < 15


@pytest.mark.slow
def test_stop_with_a_result_that_cannot_be_recorded(
    own_cluster: Cluster, receiver: Receiver
) -> None:
    """A result that nobody takes does not keep it alive: it ends with the grace and says so."""
    engine = engine_at(own_cluster.url)
    subscribe_to_all(engine, receiver)
    receiver.script = [Answer(delay=1)]
    emit(engine, 1)
    with start_worker(own_cluster.url, "--grace", "3") as worker:
        receiver.wait_for(1)
        own_cluster.stop()
        worker.wait_for_line("waits for the database")
        began = time.monotonic()

        assert worker.terminate(timeout=20) == 1
        assert time.monotonic() - began < 15


@pytest.mark.slow
def test_a_worker_that_stood_still(committed_db: Database, receiver: Receiver) -> None:
    """A worker stopped for longer than its leases comes back too late and changes nothing."""
    engine = committed_db.engine
    subscribe_to_all(engine, receiver)
    receiver.script = lambda _: Answer(delay=0.5)
    emit(engine, 30)
    with start_worker(committed_db.url, *QUICK) as stalled:
        receiver.wait_for(20)
        os.kill(stalled.pid, signal.SIGSTOP)
        with start_worker(committed_db.url, *QUICK) as other:
            other.wait_for_line("took over a delivery")
            wait_until_done(engine)
            os.kill(stalled.pid, signal.SIGCONT)
            stalled.wait_for_line("an answer came too late")
            assert (stalled.terminate(), other.terminate()) == (0, 0)
    found = account(engine, receiver)

    assert found.states == {"delivered": 30}
    late = [sent for sent, outcomes in found.outcomes.items() if "late" in outcomes]
    assert {sent for sent in late if found.outcomes[sent] == ["lost", "late"]} == set(late)
    assert 0 < found.repeated <= len(found.lost)


@pytest.mark.slow
def test_cut_connections(committed_db: Database, receiver: Receiver) -> None:
    """All connections cut again and again: nothing is lost or repeated wildly."""
    engine = committed_db.engine
    subscribe_to_all(engine, receiver)
    slowly(receiver)
    emit(engine, 1_000)
    with start_worker(committed_db.url, *QUICK) as worker:
        for count in (200, 500, 800):
            receiver.wait_for(count, timeout=30)
            with engine.connect() as connection:
                cut = rows(connection, CUT)
            assert len(cut) >= 4
        wait_until_done(engine)
        assert worker.terminate() == 0
    found = account(engine, receiver)

    assert found.states == {"delivered": 1_000}
    assert found.repeated <= len(found.lost)
    assert [line for line in worker.lines if "Traceback" in line] == []


CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'outbox-worker' AND datname = current_database()
"""


SLOW = """
CREATE FUNCTION outbox.wait() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END';
CREATE TRIGGER wait BEFORE INSERT ON outbox.attempt
    FOR EACH ROW EXECUTE FUNCTION outbox.wait()
"""


@pytest.mark.clone
def test_a_database_that_takes_no_results(cloned_db: Database, receiver: Receiver) -> None:
    """While nothing can be recorded, no more is sent than a crash may repeat: twice the slots."""
    subscribe_to_all(cloned_db.engine, receiver)
    emit(cloned_db.engine, 200)
    with cloned_db.engine.connect() as connection:
        connection.exec_driver_sql(SLOW)
        connection.exec_driver_sql("SELECT pg_advisory_lock(42)")
        connection.commit()
        with start_worker(cloned_db.url, "--concurrency", "10"):
            receiver.wait_for(15)
            with pytest.raises(AssertionError, match="of 21 requests"):
                receiver.wait_for(21, timeout=1)
            connection.exec_driver_sql("SELECT pg_advisory_unlock(42)")
            wait_until_done(cloned_db.engine)

    assert account(cloned_db.engine, receiver).states == {"delivered": 200}
    assert len(receiver.requests) == 200
