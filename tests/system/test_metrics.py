"""`--metrics-port`, asked over HTTP as a monitoring system does."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

import outbox
from outbox import Event
from tests.factories import rows, subscribe
from tests.helpers import eventually, start_worker

from .account import wait_until_done

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.databases import Database
    from tests.receiver import Receiver

    from .pg import Cluster

pytestmark = pytest.mark.system

PROCESSES = ("--processes", "2", "--concurrency", "20", "--log-level", "info")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Monitoring:
    """What a monitoring system sees of a worker."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self._url}{path}", timeout=5)

    def is_ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def sums(self) -> dict[str, float]:
        """Each metric by its name, over all its labels; of a histogram only `_count`."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0) + sample.value
        return found

    def outcomes(self) -> dict[str, int]:
        """Deliveries by outcome."""
        found: dict[str, int] = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == "outbox_deliveries_total" and sample.value:
                    outcome = sample.labels["outcome"]
                    found[outcome] = found.get(outcome, 0) + int(sample.value)
        return found


def emit(engine: Engine, count: int) -> None:
    with engine.begin() as connection:
        outbox.emit_many(connection, [Event(type="a.b")] * count)


def test_sums_over_processes(committed_db: Database, receiver: Receiver) -> None:
    """One port tells what all processes did, as the database does, also when one is killed.

    What the killed one had counted stays counted: no counter falls, and its successor
    counts on. Another process answers meanwhile.
    """
    engine, port = committed_db.engine, free_port()
    monitoring = Monitoring(port)
    with engine.begin() as connection:
        subscribe(connection, url=receiver.url)
    emit(engine, 300)
    with start_worker(committed_db.url, *PROCESSES, "--metrics-port", str(port)) as worker:
        eventually(monitoring.is_ready)
        wait_until_done(engine)
        eventually(lambda: monitoring.outcomes() == {"delivered": 300})
        before = eventually(lambda: (s := monitoring.sums())["outbox_processes"] == 2 and s)
        assert before["outbox_delivery_latency_seconds_count"] == 300
        assert before["outbox_fanned_out_events_total"] == 300
        assert before["outbox_made_deliveries_total"] == 300
        assert before["outbox_slots"] == 40

        children = psutil.Process(worker.pid).children()
        os.kill(children[0].pid, signal.SIGKILL)
        worker.wait_for_line("starting another")
        after = monitoring.sums()
        counters = [name for name in before if name.endswith(("_total", "_count", "_bucket"))]
        assert counters
        assert not [name for name in counters if after[name] < before[name]]
        eventually(lambda: monitoring.sums()["outbox_process_starts_total"] == 3)
        emit(engine, 300)
        wait_until_done(engine)
        eventually(lambda: monitoring.outcomes() == {"delivered": 600})
        assert monitoring.get("/healthz").status_code == 200
        worker.terminate()
    with engine.connect() as connection:
        assert rows(connection, "SELECT outcome, count(*) FROM outbox.attempt GROUP BY 1") == [
            ("delivered", 600)
        ]


@pytest.mark.slow
def test_ready_and_away(own_cluster: Cluster) -> None:
    """While PostgreSQL is away the worker is not ready, but healthy; then it is ready again."""
    port = free_port()
    monitoring = Monitoring(port)
    with start_worker(own_cluster.url, *PROCESSES, "--metrics-port", str(port)) as worker:
        eventually(monitoring.is_ready)
        own_cluster.stop()
        away = eventually(lambda: (r := monitoring.get("/readyz")).status_code == 503 and r)
        assert away.text.startswith("database: ")
        assert monitoring.get("/healthz").status_code == 200
        eventually(lambda: monitoring.sums()["outbox_database_up"] == 0, timeout=20)
        own_cluster.start()
        eventually(monitoring.is_ready, timeout=20)
        worker.terminate()
