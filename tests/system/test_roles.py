"""Real programs, each with a role that may do its duty and no more."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text

from outbox import Event, emit, grants
from tests.databases import engine_at, libpq_url
from tests.factories import rows
from tests.helpers import eventually, run_cli, start_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.databases import Database
    from tests.receiver import Receiver

pytestmark = pytest.mark.system


@contextmanager
def roles(database: Database) -> Iterator[dict[str, str]]:
    """A role for each duty, by its duty the URL with which it logs in."""
    names = {duty: f"outbox_test_{duty}_{os.getpid()}" for duty in grants.DUTIES}
    with database.engine.begin() as connection:
        for duty, name in names.items():
            connection.execute(text(f"CREATE ROLE {name} LOGIN"))
            grants.grant(connection, duty, name)
    parts = {name: str(value) for name, value in conninfo_to_dict(database.url).items()}
    try:
        yield {
            duty: libpq_url(parts["host"], parts["port"], name, parts["dbname"], None)
            for duty, name in names.items()
        }
    finally:
        with database.engine.begin() as connection:
            for name in names.values():
                grants.revoke(connection, name)
                connection.execute(text(f"DROP ROLE {name}"))


def test_each_with_its_duty(committed_db: Database, receiver: Receiver) -> None:
    """Operator, host, worker and reader do all of the main job, the owner none of it."""
    with roles(committed_db) as urls:
        added = run_cli("subscriptions", "add", receiver.url, "--types", "*", url=urls["operator"])
        assert added.returncode == 0, added.stderr
        with engine_at(urls["host"]).begin() as connection:
            id = emit(connection, Event(type="invoice.paid", key="pay-1"))
        with start_worker(urls["worker"]) as worker:
            receiver.wait_for(1)
            with committed_db.engine.connect() as connection:
                eventually(lambda: rows(connection, "SELECT FROM outbox.attempt"))
            assert worker.terminate() == 0
        shown = run_cli("events", "show", str(id), url=urls["reader"])
        refused = run_cli("events", "emit", "a.b", url=urls["reader"])

    assert "delivered" in shown.stdout, shown.stderr
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert [line for line in worker.lines if "permission" in line] == []
