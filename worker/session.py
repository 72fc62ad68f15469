"""What the worker's statements need of a session, also where sessions are shared.

A pooler in transaction mode (PgBouncer) gives each transaction whichever session is free,
and to a host the next moment. Settings of a session would be missing where we need them and
be found by a host that never asked for them, and so would prepared statements and LISTEN.
There the settings are made for each transaction, and the other two are done without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# Leaves the planner one plan, whatever its statistics say: nested loops over indexes,
# made once for each connection. Where a statement changes rows of a queue that it has found
# before, it says `= ANY (ARRAY[found.id])` and not `= found.id`: an equality can be joined
# from either side, and a planner that takes the queue for empty, as it was when it was last
# analyzed, would read all of it for each row that was found.
_SETTINGS = {
    "enable_seqscan": "off", "enable_bitmapscan": "off", "enable_hashjoin": "off",
    "enable_mergejoin": "off", "jit": "off", "plan_cache_mode": "force_generic_plan",
    "timezone": "UTC",
}  # fmt: skip

SESSION = "; ".join(f"SET {name} = {value}" for name, value in _SETTINGS.items())
TRANSACTION = "; ".join(f"SET LOCAL {name} = {value}" for name, value in _SETTINGS.items())

# For an event that is judged: a short statement_timeout of the role, or somebody's lock on a
# table, is no fault of the event. Who waits for a lock gives up first, and tries again.
JUDGING = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '30s'"


async def configure(connection: AsyncConnection[Any]) -> None:
    """Make the settings of a session that is ours alone."""
    await connection.execute(SESSION)
