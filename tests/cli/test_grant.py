"""`outbox grant` and `outbox revoke`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.databases import Database

    from .conftest import Cli


@pytest.fixture
def role(committed_db: Database) -> Iterator[str]:
    """A role of the server."""
    name = f"outbox_test_role_{os.getpid()}"
    with committed_db.engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name}"))
    yield name
    with committed_db.engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))


def test_grant_and_revoke(cli: Cli, role: str) -> None:
    """Each role is told with its duty; revoke takes all of it back."""
    assert cli.json("grant", "--host", role, "--worker", role) == [
        {"role": role, "duty": "host", "tenant": None},
        {"role": role, "duty": "worker", "tenant": None},
    ]
    assert cli.out("grant", "--reader", role, "--tenant", "acme").split() == [
        "ROLE", "DUTY", "TENANT", role, "reader", "acme",
    ]  # fmt: skip
    assert cli.json("revoke", role) == {"role": role, "duty": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("grant",), "give a role: --host, --worker, --operator or --reader"),
        (
            ("grant", "--host", "a", "--tenant", "acme"),
            "--tenant and --by-setting are for --reader alone",
        ),
        (
            ("grant", "--reader", "a", "--tenant", "acme", "--by-setting"),
            "tenant: is given, or comes from the setting: not both",
        ),
        (("grant", "--host", "nobody"), "host: there is no role 'nobody' in this PostgreSQL"),
        (("revoke", "nobody"), "role: there is no role 'nobody' in this PostgreSQL"),
    ],
)
def test_wrong_use(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    """One line says what is wrong, and nothing is granted."""
    result = cli(*arguments)

    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"Error: {message}\n")
