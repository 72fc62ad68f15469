"""`outbox retention`, `outbox prune` and `outbox events erase`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outbox import Event, emit
from tests.days import add_event, make_day
from tests.factories import rows

if TYPE_CHECKING:
    from tests.databases import Database

    from .conftest import Cli


def test_policy_and_prune(cli: Cli, committed_db: Database) -> None:
    """Set how long, see what would go, let it go."""
    with committed_db.engine.begin() as connection:
        day = make_day(connection, 10)
        add_event(connection, day)

    assert cli.json("retention", "show")["keep"] is None
    assert "forever" in cli.out("retention", "show")
    assert cli.json("prune", "--dry-run") == []
    assert cli.json("retention", "set", "7d")["keep"] == 7 * 86_400
    (found,) = cli.json("prune", "--dry-run")
    asked = cli("prune")
    pruned = cli("prune", "--yes", "--json")

    assert (found["day"], found["held"], found["bytes"] > 0) == (day.isoformat(), None, True)
    assert (asked.exit_code, asked.stderr) == (
        2, "Error: there is no terminal to ask on; pass --yes\n",
    )  # fmt: skip
    assert (pruned.exit_code, '"dropped": 1' in pruned.stdout) == (0, True)
    assert cli.out("prune", "--yes") == "None.\n"
    assert "forever" in cli.out("retention", "set", "forever")
    with committed_db.engine.connect() as connection:
        assert rows(connection, "SELECT FROM outbox.event") == []


def test_erase(cli: Cli, committed_db: Database) -> None:
    """Counted first; then the data of the subject is gone and the event is not."""
    with committed_db.engine.begin() as connection:
        id = emit(connection, Event(type="user.created", data={"n": "Ada"}, subject="user/42"))

    assert cli.json("events", "erase", "--subject", "user/42", "--dry-run") == {"events": 1}
    erased = cli("events", "erase", "--subject", "user/42", "--yes", "--json")
    shown = cli.json("events", "show", str(id))

    assert (erased.exit_code, erased.stdout) == (0, '{"erased": 1, "cancelled": 0}\n')
    assert (shown["data"], list(shown["context"])) == (None, ["erased_at"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("retention", "set", "soon"),
            "keep: must be a number of seconds, or a number and s, m, h or d",
        ),
        (("retention", "set", "1h"), "keep: must be from 1d to 36500d, or forever"),
        (("events", "erase"), "--subject is missing: whose data is to go?"),
    ],
)
def test_wrong_use(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    """One line says what is wrong."""
    result = cli(*arguments)

    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"Error: {message}\n")
