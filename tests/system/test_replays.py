"""A replay by real workers: none of it is lost with one of them, and none is made twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.factories import subscribe
from tests.helpers import run_cli, start_worker
from tests.receiver import Answer

from .account import account, wait_until_done

if TYPE_CHECKING:
    from tests.databases import Database
    from tests.receiver import Receiver

pytestmark = [pytest.mark.system, pytest.mark.slow]

CONCURRENCY = 50
QUICK = ("--concurrency", str(CONCURRENCY), "--timeout", "5", "--lease", "10.5")
LOG = """
INSERT INTO outbox.event (type, data)
SELECT 'a.b', json_build_object('n', n) FROM generate_series(1, {}) n
"""


def past(database: Database, count: int) -> None:
    """Events that nobody got."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(LOG.format(count))
        connection.exec_driver_sql("DELETE FROM outbox.event_queue")


def test_kill_the_worker_half_way(committed_db: Database, receiver: Receiver) -> None:
    """After kill -9 another goes on; each event arrives once, but for what was in flight."""
    count = 20_000
    past(committed_db, count)
    with committed_db.engine.begin() as connection:
        to = subscribe(connection, url=receiver.url).id
    receiver.script = lambda _: Answer(delay=0.05)
    command = ("replay", "--missing", "--subscription", str(to), "--yes", "--detach", "--json")
    begun = json.loads(run_cli(*command, url=committed_db.url).stdout)
    with start_worker(committed_db.url, *QUICK) as victim:
        receiver.wait_for(count // 2, timeout=120)
        victim.kill()
    with start_worker(committed_db.url, *QUICK) as heir:
        heir.wait_for_line(f"replay {begun['id']} is done", timeout=120)
        wait_until_done(committed_db.engine)
    found = account(committed_db.engine, receiver)
    shown = json.loads(
        run_cli("replays", "show", begun["id"], "--json", url=committed_db.url).stdout
    )

    assert begun["counted"] == count
    assert (shown["made"], shown["delivered"], shown["open"]) == (count, count, 0)
    assert found.states == {"delivered": count}
    assert len({id for id, _ in found.requests}) == count
    again = {sent for sent, ends in found.outcomes.items() if "delivered" not in ends}
    assert found.repeated == len(again & found.requests.keys())
    assert len(found.lost & found.requests.keys()) <= 2 * CONCURRENCY  # some were answered
