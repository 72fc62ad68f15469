"""Nobody waits in a circle: people who change subscriptions, beside workers and each other."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from outbox import subscriptions
from tests.factories import BY, subscribe
from tests.helpers import eventually

from .conftest import LEASE, result
from .test_repairs import retry

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from outbox.repairs import Done

    from .conftest import Fleet


def add(fleet: Fleet, count: int, ordered: str | None = None) -> UUID:
    """A lane with so many deliveries that are due, each of another subject."""
    with fleet.database.engine.begin() as connection:
        lane = subscribe(connection, ordered=ordered).id
    for number in range(count):
        fleet.emit(subject=f"s/{number}")
    fleet.fan_out()
    return lane


def test_remove_waits_for_no_worker(fleet: Fleet) -> None:
    """What a worker is just at is left to it, and cancelled afterwards if it is still open."""
    lane = add(fleet, 3)
    with psycopg.connect(fleet.database.url) as worker:
        worker.execute("SELECT FROM outbox.delivery_queue LIMIT 1 FOR UPDATE")
        with fleet.database.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            subscriptions.remove(connection, lane, by=BY)
        assert fleet.queue() == [(0, 0, False)]
        assert fleet.run(fleet.a.cancel_removed()) == 0

    assert fleet.run(fleet.a.cancel_removed()) == 1
    assert fleet.attempts() == [(0, "cancelled", None)] * 3


@pytest.mark.parametrize("at_once", [True, False])
def test_removed_after_its_worker_died(fleet: Fleet, at_once: bool) -> None:
    """A request that may have gone out keeps its row, whoever cancels its delivery."""
    lane = add(fleet, 1, ordered="skip")
    fleet.run(fleet.a.claim_limited({str(lane): 1}, LEASE))
    fleet.expire_leases()
    with psycopg.connect(fleet.database.url) as other:
        if not at_once:
            other.execute("SELECT FROM outbox.delivery_queue FOR UPDATE")
        with fleet.database.engine.begin() as connection:
            subscriptions.remove(connection, lane, by=BY)
    fleet.run(fleet.a.cancel_removed())

    assert sorted(fleet.attempts()) == [(1, "cancelled", None), (1, "lost", fleet.a.owner)]
    assert fleet.value("SELECT count(*) FROM outbox.limited_claim") == 0


@pytest.mark.parametrize(
    ("change", "due_now", "made"), [(subscriptions.unblock, 1, 1), (subscriptions.remove, 0, 0)]
)
def test_a_change_beside_a_retry(
    fleet: Fleet, change: Callable[..., object], due_now: int, made: int
) -> None:
    """A retry takes nothing in hand that it then waits with for who changes the subscription."""
    lane = add(fleet, 2, ordered="stop")
    first, second = fleet.run(fleet.a.claim_limited({str(lane): 2}, LEASE)).claims
    fleet.record(fleet.a, result(first, "dead", limited=True))
    fleet.record(fleet.a, result(second, "retry", delay=3600.0, limited=True))
    done: list[Done] = []
    other = threading.Thread(target=lambda: done.append(retry(fleet, subscription_id=lane)))
    with fleet.database.engine.begin() as connection:
        subscriptions.pause(connection, lane, by=BY)
        other.start()
        eventually(lambda: fleet.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        change(connection, lane, by=BY)
    other.join()

    (retried,) = done
    assert (retried.due_now, retried.made) == (due_now, made)
