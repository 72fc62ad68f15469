"""`outbox grant` and `outbox revoke`: who may do what in the database."""

from __future__ import annotations

import click

from outbox import grants

from . import output
from .listing import shape_of, shape_options
from .options import database_option, json_option, text_option
from .program import WrongUse
from .session import transaction

_COLUMNS = ("role", "duty", "tenant")


@click.command()
@click.option("--host", multiple=True, metavar="ROLE", help="May insert events, and no more.")
@click.option("--worker", multiple=True, metavar="ROLE", help="May run outbox-worker.")
@click.option("--operator", multiple=True, metavar="ROLE", help="May use this command line.")
@click.option("--reader", multiple=True, metavar="ROLE", help="May see all but the secrets.")
@text_option("--tenant", help="The reader sees this tenant alone.", max_chars=255)
@click.option(
    "--by-setting", is_flag=True,
    help="The reader sees the tenant of its setting outbox.tenant alone.",
)  # fmt: skip
@shape_options
@database_option()
def grant(
    host: tuple[str, ...], worker: tuple[str, ...], operator: tuple[str, ...],
    reader: tuple[str, ...], tenant: str | None, by_setting: bool, **wanted: bool,
) -> None:  # fmt: skip
    """Let roles of the database do their duty, and no more.

    Run it as the owner of the schema. The roles must exist; each option may be repeated.
    Nobody but the owner may change or delete a fact. All of it or nothing is granted.

    \b
    Example:
      outbox grant --host shop --worker outbox_worker
      outbox grant --reader acme_portal --tenant acme
    """
    shape = shape_of(wanted)
    roles = {"host": host, "worker": worker, "operator": operator, "reader": reader}
    asked = [(duty, role) for duty, names in roles.items() for role in names]
    if not asked:
        raise WrongUse("give a role: --host, --worker, --operator or --reader")
    if (tenant is not None or by_setting) and any(duty != "reader" for duty, _ in asked):
        raise WrongUse("--tenant and --by-setting are for --reader alone")
    with transaction() as connection:
        for duty, role in asked:
            grants.grant(connection, duty, role, tenant=tenant, by_setting=by_setting)
    whose = "outbox.tenant" if by_setting else tenant
    rows = [{"role": role, "duty": duty, "tenant": whose} for duty, role in asked]
    output.many(rows, _COLUMNS, shape)


@click.command()
@click.argument("role")
@json_option
@database_option()
def revoke(role: str, as_json: bool) -> None:
    """Take back all that a role may do in the outbox.

    \b
    Example:
      outbox revoke acme_portal
    """
    with transaction() as connection:
        grants.revoke(connection, role)
    output.one({"role": role, "duty": None}, as_json=as_json)
