"""What the drivers of PostgreSQL have in common, which SQLAlchemy does not name."""

from __future__ import annotations


def told(error: Exception) -> tuple[str | None, str]:
    """Return the SQLSTATE of an error, None if it has none, and its first line.

    Each driver has its own place for them. The SQL and its values are not in that line.
    """
    cause = getattr(error, "orig", None) or error
    words = cause.args[0] if cause.args else None
    if isinstance(words, dict):  # pg8000
        return words.get("C"), str(words.get("M"))
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    line = str(cause).partition("\n")[0].partition("LINE 1")[0].strip()
    return code, line or type(cause).__name__
