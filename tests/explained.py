"""What a statement costs, as PostgreSQL itself tells it: EXPLAIN (ANALYZE, BUFFERS).

The statement is prepared and has run once before it is explained, as in a session that is
at work: its plan is the generic one where the session says so, and catalogues are at hand.

    cost = explain(connection, query("claim"), values)
    assert cost.buffers <= 10 * len(cost.found)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.sql import SQL, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psycopg

    Connection = psycopg.Connection[Any]

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_LARGE = "^(event|delivery|attempt|limited_claim|blocked_subject|subscription_health)"


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took to find `found`, functions and triggers included.

    `buffers` are the pages that were asked for, `scanned` the rows of large tables that were
    read by sequential scans, `fetched` those found by an index, `sorted` the most rows that
    one sort had.
    """

    found: list[Any]
    buffers: int
    scanned: int
    fetched: int
    sorted: int


def explain(connection: Connection, statement: str, values: Mapping[str, Any]) -> Cost:
    """Return the cost of a statement with psycopg's named placeholders; undo what it did."""
    execute = _prepare(connection, statement, values)
    with connection.transaction(force_rollback=True):
        found = connection.execute(execute).fetchall()
    with connection.transaction(force_rollback=True):
        before = _read(connection)
        told = connection.execute(
            b"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) " + execute
        ).fetchone()
        scanned, fetched = (after - b for after, b in zip(_read(connection), before, strict=True))
    assert told
    plan = told[0][0]["Plan"]
    sorts = [_rows(node) for node in _nodes(plan) if node["Node Type"].endswith("Sort")]
    return Cost(found, _buffers(plan), scanned, fetched, max(sorts, default=0))


def _prepare(connection: Connection, statement: str, values: Mapping[str, Any]) -> bytes:
    """Prepare a statement; return the command that runs it."""
    names = list(dict.fromkeys(_PLACEHOLDER.findall(statement)))
    numbered = _PLACEHOLDER.sub(lambda found: f"${names.index(found[1]) + 1}", statement)
    connection.execute("DEALLOCATE ALL")
    connection.execute(f"PREPARE explained AS {numbered.replace('%%', '%')}".encode())
    if not names:
        return b"EXECUTE explained"
    given = SQL(", ").join(Literal(values[name]) for name in names)
    return b"EXECUTE explained (%b)" % given.as_bytes(connection)


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


def _buffers(plan: Mapping[str, Any]) -> int:
    """Return the pages of a whole statement.

    A part that writes and that nobody reads from is not in the account of the top node.
    """
    nodes = list(_nodes(plan))
    read = {f"CTE {node['CTE Name']}" for node in nodes if "CTE Name" in node}
    named = [node for node in nodes if node.get("Subplan Name", "").startswith("CTE ")]
    apart = [node for node in named if node["Subplan Name"] not in read]
    pages: int = sum(n["Shared Hit Blocks"] + n["Shared Read Blocks"] for n in (plan, *apart))
    return pages


def _rows(node: Mapping[str, Any]) -> int:
    rows: float = node["Actual Rows"] * node["Actual Loops"]
    return round(rows)


def _read(connection: Connection) -> tuple[int, int]:
    """Rows of large tables read in this transaction, by sequential scans and by index."""
    row = connection.execute(
        "SELECT coalesce(sum(seq_tup_read), 0)::int, coalesce(sum(idx_tup_fetch), 0)::int"
        " FROM pg_stat_xact_user_tables WHERE schemaname = 'outbox' AND relname ~ %s",
        [_LARGE],
    ).fetchone()
    assert row
    return row[0], row[1]
