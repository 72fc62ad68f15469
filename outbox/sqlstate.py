"""What PostgreSQL said when it refused something, whatever the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError


def told(error: DBAPIError) -> tuple[str | None, str]:
    """Return SQLSTATE and message: each driver has its own place for them."""
    detail = error.orig.args[0] if error.orig is not None and error.orig.args else None
    if isinstance(detail, dict):  # pg8000
        return detail.get("C"), str(detail.get("M"))
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return code, str(error.orig).partition("\n")[0].partition("LINE 1")[0].strip()
