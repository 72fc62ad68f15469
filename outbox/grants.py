"""Who may do what in the database: the least that each duty needs.

    with engine.begin() as connection:  # as the owner of the schema
        grants.grant(connection, "host", "shop")

A host inserts events and nothing else; a worker cannot change a fact; nobody but the
owner can. A reader sees all but the secrets, or what is one tenant's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Boolean, Text, column, func, literal, select, table

from .encoding import check_text
from .errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy import Connection

DUTIES = ("host", "worker", "operator", "reader")

_ROLES = table("pg_roles", column("rolname"), schema="pg_catalog")


def grant(
    connection: Connection,
    duty: str,
    role: str,
    *,
    tenant: str | None = None,
    by_setting: bool = False,
) -> None:
    """Give `role` what `duty` needs: one of DUTIES.

    A reader of one `tenant` sees nothing of the others; with `by_setting` the tenant is
    that of the setting `outbox.tenant`, which its session makes, and nothing without it.
    Takes short locks for a reader of a tenant. Raises InvalidInput.
    """
    if duty not in DUTIES:
        raise InvalidInput("duty", f"must be one of {', '.join(DUTIES)}")
    if duty != "reader" and (tenant is not None or by_setting):
        raise InvalidInput("tenant", "is for readers: the others work for all tenants")
    if tenant is not None and by_setting:
        raise InvalidInput("tenant", "is given, or comes from the setting: not both")
    if tenant is not None:
        check_text("tenant", tenant, 255)
    _check_role(connection, duty, role)
    given = func.outbox.grant_duty(duty, role, literal(tenant, Text), literal(by_setting, Boolean))
    connection.execute(select(given))


def revoke(connection: Connection, role: str) -> None:
    """Take back all that `role` may do here. Raises InvalidInput."""
    _check_role(connection, "role", role)
    connection.execute(select(func.outbox.revoke_duties(role)))


def _check_role(connection: Connection, field: str, role: str) -> None:
    found = select(_ROLES.c.rolname).where(_ROLES.c.rolname == check_text(field, role, 63))
    if connection.execute(found).first() is None:
        raise InvalidInput(field, f"there is no role {role!r} in this PostgreSQL")
