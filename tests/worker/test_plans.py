"""The plan is part of the contract: statements touch what they need, however much is open.

Each statement of the worker is run as its sessions run it, on a thousand and on a million open
deliveries, whatever the statistics say: the same bounds hold for all. Counted is what was
read, not what EXPLAIN promises.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import psycopg
import pytest

from outbox.worker.rows import Result
from outbox.worker.session import SESSION
from outbox.worker.store import query
from tests.explained import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.backlog import Backlog

    Connection = psycopg.Connection[Any]

ZERO, LAST = UUID(int=0), UUID(int=2**128 - 1)


def lane(connection: Connection, name: str) -> UUID:
    found = "SELECT id FROM outbox.subscription WHERE name = %s"
    row = connection.execute(found, [name]).fetchone()
    assert row
    id: UUID = row[0]
    return id


def ids(connection: Connection, found: str, *values: object) -> list[Any]:
    return [row[0] for row in connection.execute(found.encode(), values or None)]


# The values of the statements; some are made ready first, in the transaction of the test.


def claims(name: str, quota: int) -> Callable[[Connection], dict[str, Any]]:
    def values(connection: Connection) -> dict[str, Any]:
        found = "SELECT id FROM outbox.subscription WHERE name ~ %s ORDER BY id"
        lanes = ids(connection, found, name)
        return {"lanes": lanes, "quotas": [quota] * len(lanes), "lease": 30.0}

    return values


def lost(connection: Connection) -> dict[str, Any]:
    """Claims of a worker that died."""
    busy = lane(connection, "busy")
    found = (
        "SELECT delivery_id FROM outbox.delivery_queue WHERE subscription_id = %s"
        " ORDER BY due_at LIMIT 100"
    )
    connection.execute(
        "UPDATE outbox.delivery_queue SET lease_owner = 8, lease_until = '2020-01-01'"
        " WHERE delivery_id = ANY (%s)",
        [ids(connection, found, busy)],
    )
    return claims("busy", 100)(connection)


LIFE = {
    "host": "here", "pid": 1, "started_at": datetime(2026, 1, 31, tzinfo=UTC), "silence": 30.0,
}  # fmt: skip


def fan_out(matches: int) -> Callable[[Connection], dict[str, Any]]:
    def values(connection: Connection) -> dict[str, Any]:
        connection.execute(
            "INSERT INTO outbox.subscription_type SELECT 'invoice.paid', '', id"
            " FROM outbox.subscription WHERE name LIKE 'quiet-%%' ORDER BY id LIMIT %s",
            [matches - 1],
        )
        return {"limit": 100, "only": None}

    return values


def in_hand(connection: Connection) -> list[UUID]:
    """Deliveries that we have claimed; all of them are at their second attempt."""
    taken = ids(
        connection,
        "SELECT q.delivery_id FROM outbox.subscription s CROSS JOIN LATERAL ("
        " SELECT q.delivery_id FROM outbox.delivery_queue q WHERE q.subscription_id = s.id"
        " ORDER BY q.due_at LIMIT 100) q WHERE s.name LIKE 'quiet-%' LIMIT 200",
    )
    connection.execute(
        "UPDATE outbox.delivery_queue SET lease_owner = 7, lease_until = now() + interval '1 h',"
        " attempt = 2 WHERE delivery_id = ANY (%s)",
        [taken],
    )
    return taken


def results(*outcomes: str, again: bool = False) -> Callable[[Connection], dict[str, Any]]:
    def values(connection: Connection) -> dict[str, Any]:
        status = {"delivered": 200, "retry": 503, "dead": 503}
        outcome = [outcomes[n % len(outcomes)] for n in range(200)]
        made = [
            Result(
                delivery_id=str(id), attempt=2, outcome=what, counts=True, delay=1.0, revision=1,
                started_at=1.8e9, duration_ms=1, status=status[what],
                error_class=None, error=None, response_body=None,
            )
            for id, what in zip(in_hand(connection), outcome, strict=False)
        ]  # fmt: skip
        columns = zip(*made, strict=True)
        return dict(zip(Result._fields, map(list, columns), strict=True)) | {"again": again}

    return values


def recorded_before(connection: Connection) -> dict[str, Any]:
    """The answer to an earlier run was lost: what it did record is left as it is."""
    values = results("delivered", "retry", again=True)(connection)
    connection.execute(
        "INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status, worker_id)"
        " SELECT unnest(%s::uuid[]), 2, 'delivered', 200, 7",
        [values["delivery_id"]],
    )
    return values


def given(connection: Connection) -> dict[str, Any]:
    found = in_hand(connection)
    return {"delivery_id": found, "attempt": [2] * len(found), "cut": True}


def settled(connection: Connection) -> dict[str, Any]:
    """Heads of their subjects, which are gone."""
    found = ids(connection, "SELECT delivery_id FROM outbox.limited_claim LIMIT 100")
    connection.execute("DELETE FROM outbox.delivery_queue WHERE delivery_id = ANY (%s)", [found])
    return {"delivery_id": found, "attempt": [1] * len(found)}


def pairs(mode: str) -> Callable[[Connection], dict[str, Any]]:
    def values(connection: Connection) -> dict[str, Any]:
        """Events that were fanned out; nothing waits for its fan-out."""
        middle = "SELECT event_id FROM outbox.delivery ORDER BY id LIMIT 1"
        connection.execute("TRUNCATE outbox.event_queue")
        nothing = dict.fromkeys(("only_to", "type", "tenant", "subject"))
        return nothing | {
            "mode": mode, "asked_at": datetime(2099, 1, 1, tzinfo=UTC),
            "after_event": ids(connection, middle)[0], "after_subscription": ZERO,
            "last_event": LAST, "apart": False, "lanes": [], "after_events": [],
            "scan": 50, "limit": 500,
        }  # fmt: skip

    return values


def all_of(lanes: str, **values: Any) -> Callable[[Connection], dict[str, Any]]:
    return lambda connection: {"lanes": claims(lanes, 1)(connection)["lanes"], **values}


def waiting(connection: Connection) -> dict[str, Any]:
    first = "SELECT event_id FROM outbox.event_queue ORDER BY due_at LIMIT 1"
    return {"error": "broken", "event_id": ids(connection, first)[0]}


def nothing(_: Connection) -> dict[str, Any]:
    return {}


class Statement(NamedTuple):
    """A statement, its values, the rows that it works on, and what it may read for each.

    `pages` are buffers, a half more than were measured; `reads` are rows of large tables. One
    of so many open deliveries, a `share`, is a row that it works on as well.
    """

    name: str
    values: Callable[[Connection], dict[str, Any]]
    rows: int
    pages: int
    reads: int
    share: int = 0


STATEMENTS = {
    "claim a little of many lanes": Statement("claim", claims("quiet", 1), 40, 26, 3),
    "claim much of one lane": Statement("claim", claims("busy", 100), 100, 24, 3),
    "claim what a dead worker had": Statement("claim", lost, 100, 36, 3),
    "claim from one with limits": Statement("claim_limited", claims("ordered", 50), 50, 28, 4),
    "lock throttles": Statement("lock_throttles", all_of("ordered"), 1, 5, 0),
    "fan out to one": Statement("fan_out", fan_out(1), 100, 35, 4),
    "fan out to ten": Statement("fan_out", fan_out(10), 1_000, 22, 1),
    "oldest": Statement("oldest", nothing, 1, 10, 1),
    "set aside": Statement("set_aside", waiting, 1, 30, 2),
    "record delivered": Statement("record", results("delivered"), 200, 19, 2),
    "record both": Statement("record", results("delivered", "retry"), 200, 29, 2),
    "record deaths": Statement("record", results("dead"), 200, 35, 3),
    "record again": Statement("record", recorded_before, 200, 10, 1),
    "settle": Statement("settle", settled, 5, 90, 6),
    "release": Statement("release", given, 200, 28, 2),
    "sweep": Statement("sweep", lambda _: {"after": ZERO, "limit": 1_000}, 43, 18, 3),
    "recipients": Statement("recipients", lambda c: {"ids": all_of("quiet")(c)["lanes"]}, 40, 4, 0),
    "heartbeat": Statement("heartbeat", lambda _: LIFE, 1, 6, 0),
    "rooms": Statement("rooms", all_of("quiet", open=10, waiting=10), 40, 45, 21),
    "cancel removed": Statement("cancel_removed", nothing, 1, 5, 0),
    "promote forgotten": Statement("promote_forgotten", nothing, 1, 45, 4, share=100),
    "disable failing": Statement("disable_failing", nothing, 43, 4, 2, share=50),
    "replay all": Statement("replay_pairs", pairs("all"), 51, 41, 5),
    "replay missing": Statement("replay_pairs", pairs("missing"), 51, 20, 5),
    "replay dead": Statement("replay_pairs", pairs("dead"), 51, 60, 12),
}


@pytest.fixture(scope="module")
def worker(backlog: Backlog) -> Iterator[Connection]:
    """A session of the worker."""
    with psycopg.connect(backlog.url, autocommit=True) as connection:
        connection.execute(SESSION.encode())
        connection.execute("SET max_parallel_workers_per_gather = 0; SET statement_timeout = '20s'")
        yield connection


@pytest.mark.parametrize("statement", STATEMENTS)
def test_reads(backlog: Backlog, worker: Connection, statement: str) -> None:
    """A statement scans and sorts no large table, and reads no more than it works on."""
    each = STATEMENTS[statement]
    with worker.transaction(force_rollback=True):
        cost = explain(worker, query(each.name), {**each.values(worker), "owner": 7})
    rows = each.rows + (backlog.count // each.share if each.share else 0)

    assert cost.scanned <= 5  # claims of one with limits, which are never many
    assert cost.fetched <= rows * each.reads
    assert cost.sorted <= rows
    assert cost.buffers <= rows * each.pages + backlog.dead


@pytest.mark.parametrize("statement", [*STATEMENTS][:3])
def test_there_is_work(backlog: Backlog, worker: Connection, statement: str) -> None:
    """What is measured finds what it is to work on."""
    each = STATEMENTS[statement]
    with worker.transaction(force_rollback=True):
        cost = explain(worker, query(each.name), {**each.values(worker), "owner": 7})

    assert len(cost.found) == each.rows


def test_the_account_is_kept(backlog: Backlog, worker: Connection) -> None:
    """A scan of a large table would be seen."""
    with worker.transaction(force_rollback=True):
        worker.execute("SET LOCAL enable_seqscan = on; SET LOCAL enable_indexonlyscan = off")
        cost = explain(worker, "SELECT count(*) FROM outbox.attempt WHERE attempt > 0", {})

    assert cost.scanned >= backlog.count
    assert cost.buffers > backlog.count / 100
