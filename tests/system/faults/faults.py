"""What the nemesis can do. Each fault says whether it really happened."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from outbox import replays, subscriptions
from outbox.replays import Selection
from tests.factories import BY
from tests.helpers import eventually, happens

from . import people, receivers, servers
from .workers import LEASE

if TYPE_CHECKING:
    from collections.abc import Callable

    from .run import Run

    Fault = Callable[[Run], bool]


def named(fault: Fault, name: str) -> Fault:
    """Give a fault that was made the name under which it is counted."""
    fault.name = name  # type: ignore[attr-defined]
    return fault


IN_FLIGHT = """
SELECT 1 FROM outbox.delivery_queue q JOIN outbox.worker w ON w.id = q.lease_owner
WHERE w.pid = {} AND q.lease_until > now()
"""


# Workers.


def kill_a_worker(run: Run) -> bool:
    """kill -9, and another one starts."""
    run.fleet.lost()
    run.fleet.one().kill()
    run.fleet.start(2)
    return True


def stop_a_worker(run: Run) -> bool:
    """SIGTERM with requests in flight; it must end well."""
    worker = run.fleet.one()
    worker.wait_for_line("started")
    code = worker.terminate()
    run.fleet.start(2)
    return code == 0


def stop_a_worker_twice(run: Run) -> bool:
    """SIGTERM with requests in flight, and again at once: they are given up."""
    worker = run.fleet.one()
    run.fleet.lost()
    worker.wait_for_line("started")
    happens(lambda: bool(run.ask(IN_FLIGHT.format(worker.pid))))
    os.kill(worker.pid, signal.SIGTERM)
    worker.wait_for_line("stopping")
    worker.terminate()
    run.fleet.start(2)
    return any("stopped at once" in line for line in worker.lines)


def clock_off(run: Run) -> bool:
    """The clock of a worker is an hour ahead; leases do not care, its signatures are dated so."""
    worker = run.fleet.add(
        LD_PRELOAD=str(FAKETIME), FAKETIME="+3600s", FAKETIME_DONT_FAKE_MONOTONIC="1"
    )
    run.clocks.append(HOUR)
    ahead = time.time() + HOUR / 2
    came = happens(lambda: any(at > ahead for at in run.dates()))
    worker.terminate()
    return came


def stall_a_worker(run: Run) -> bool:
    """SIGSTOP for longer than its leases, and back."""
    worker = run.fleet.one()
    run.fleet.lost()
    before = taken_over(run)
    worker.wait_for_line("started")
    eventually(lambda: run.ask(IN_FLIGHT.format(worker.pid)))
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        eventually(lambda: taken_over(run) > before, 3 * LEASE)
    except AssertionError:  # nothing was in flight
        return False
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    return True


def taken_over(run: Run) -> int:
    """How many deliveries workers took over from each other."""
    return sum("took over a delivery" in line for line in run.fleet.lines)


def crash(point: str, number: int = 1) -> Fault:
    """A worker that dies at a crash point."""

    def fault(run: Run) -> bool:
        run.fleet.lost()
        worker = run.fleet.add(OUTBOX_CRASH_AT=f"{point}:{number}")
        try:
            return worker.wait(timeout=15) == -signal.SIGKILL
        except Exception:  # noqa: BLE001 - it was never there
            worker.kill()
            return False

    return named(fault, f"crash at {point}")


# The database.


def crash_postgresql(run: Run) -> bool:
    """An immediate stop, and recovery."""
    run.fleet.lost()
    run.fleet.lost()
    run.cluster.restart_immediate()
    return True


def crash_postgresql_thrice(run: Run) -> bool:
    """Again before anybody has recovered."""
    return all(crash_postgresql(run) for _ in range(3))


def kill_backends(run: Run) -> bool:
    """All connections of workers are ended by the server."""
    run.fleet.ready()
    run.fleet.lost()
    return len(eventually(lambda: run.ask(servers.END_WORKERS), 15)) > 0


def cut(where: str, number: int = 5) -> Fault:
    """The next statements of workers are cut off by the proxy."""

    def fault(run: Run) -> bool:
        run.fleet.ready()
        run.fleet.lost()
        before = run.proxy.cuts[where]
        run.proxy.cut(where, number)
        eventually(lambda: run.proxy.cuts[where] == before + number, 40)
        return True

    return named(fault, f"cut {where}")


def lock_the_queue(run: Run) -> bool:
    """Somebody holds the queue for longer than anyone likes to wait."""
    with run.engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE outbox.delivery_queue IN ACCESS EXCLUSIVE MODE")
        time.sleep(1.5)
    return True


def use_up_connections(run: Run) -> bool:
    """No connection is left, while those of the workers are ended."""
    held: list[psycopg.Connection[Any]] = []
    full = False
    kill_backends(run)
    try:
        for _ in range(200):
            held.append(psycopg.connect(run.cluster.url, autocommit=True))  # noqa: PERF401
    except psycopg.OperationalError as error:
        full = "too many clients" in str(error) or "reserved" in str(error)
    time.sleep(1.5)
    for connection in held:
        connection.close()
    return full


def read_only(run: Run) -> bool:
    """The database takes no writes for a while, as a standby does."""
    run.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    run.execute("SELECT pg_reload_conf()")
    time.sleep(1.5)
    with psycopg.connect(run.cluster.url, autocommit=True) as connection:
        was = connection.execute("SHOW default_transaction_read_only").fetchone()
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        connection.execute("SELECT pg_reload_conf()")
    return was == ("on",)


# The operator.


def pause_and_resume(run: Run) -> bool:
    """A subscription is paused in flight, and goes on."""
    id = run.ids["edited"]
    with run.engine.begin() as connection:
        subscriptions.pause(connection, id, by=BY)
    time.sleep(0.7)
    with run.engine.begin() as connection:
        return subscriptions.resume(connection, id, by=BY).state == "active"


def rotate_a_secret(run: Run) -> bool:
    """A secret is rotated in flight; the old one signs along."""
    id = run.ids["edited"]
    with run.engine.begin() as connection:
        _, new = subscriptions.rotate_secret(connection, id, by=BY, overlap=60)
    run.secrets[id].append(str(new))
    return True


CRASHES: tuple[Fault, ...] = (
    *(crash(point) for point in ("fan-out", "fanned-out", "claim", "claimed")),
    *(crash(point, 5) for point in ("send", "half", "headers", "answered")),
    *(crash(point) for point in ("record", "recorded")),
)


def replay_all(run: Run) -> bool:
    """Everything so far is asked for again."""
    with run.engine.begin() as connection:
        running = [each for each in replays.list_replays(connection) if each.state == "running"]
        for each in running:  # the same may not run twice at once
            replays.cancel(connection, each.id, by=BY)
        selection = Selection(type="*", subscription_id=run.ids["acme"])
        replays.start(connection, selection, rate=None, by=BY)
    return True


def crash_in_a_replay(point: str) -> Fault:
    """A worker that dies before or after a slice of a replay is committed."""
    dies = crash(point, 2)

    def fault(run: Run) -> bool:
        run.fleet.end()
        died = replay_all(run) and dies(run)
        run.fleet.start(2)
        return died

    return named(fault, f"crash at {point}")


HOUR = 3600.0  # seconds
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
HERE: tuple[Fault, ...] = (  # what this machine may not be able to do
    *([clock_off] if FAKETIME else []),
    *([servers.fill_the_disk] if servers.can_mount() else []),
)

ALL: tuple[Fault, ...] = (
    kill_a_worker, stop_a_worker, stop_a_worker_twice, stall_a_worker,
    crash_postgresql, crash_postgresql_thrice, servers.restart_in_a_loop, kill_backends,
    cut("before"), cut("after"), lock_the_queue, servers.statement_timeout, servers.lock_timeout,
    use_up_connections, read_only,
    receivers.refuse, receivers.reset, receivers.truncate, receivers.hang,
    pause_and_resume, rotate_a_secret, people.remove_and_add, people.edit_a_url,
    people.switch_limits, people.cancel_and_retry, people.prune_a_day,
    replay_all, crash_in_a_replay("replay"), crash_in_a_replay("replayed"),
    *CRASHES, *HERE,
)  # fmt: skip
