"""What a database error means for a worker: wait, or set something aside.

Judged by SQLSTATE, not by class: psycopg files a failover under InternalError and a lost
connection under OperationalError without any code (PostgreSQL, appendix A).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg_pool import PoolTimeout

if TYPE_CHECKING:
    import psycopg

# Classes that tell of the server, the connection or the transaction, not of data.
_STATE = ("08", "0P", "25", "26", "28", "3D", "3F", "40", "53", "55", "57", "58")
# No privilege; no such table, column, function; a pooler gave us another's statements.
_SCHEMA = {"42501", "42P01", "42703", "42883", "42P05"}
_STATEMENT_TIMEOUT = "57014"


def is_data(error: psycopg.Error) -> bool:
    """Return whether the rows of a statement made it fail, however often it is tried."""
    code = error.sqlstate
    if code is None or code in _SCHEMA:
        return False
    return code == _STATEMENT_TIMEOUT or not code.startswith(_STATE)


def is_transient(error: psycopg.Error) -> bool:
    """Return whether it is a matter of a moment (deadlock, lock timeout), not an outage."""
    return (error.sqlstate or "") in {"40001", "40P01", "55P03"}


def in_a_line(error: Exception) -> str:
    """Return the first line of what `error` says."""
    if isinstance(error, PoolTimeout):
        return "no connection"
    return " ".join(str(error).split("\n")[0].split()) or type(error).__name__
