"""`outbox audit`: the account, what differs, and what is repaired."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.rows import add_attempt, add_delivery, add_event, add_subscription

from .conftest import Cli

if TYPE_CHECKING:
    from uuid import UUID

    from tests.databases import Database

pytestmark = pytest.mark.clone


@pytest.fixture
def cli(cloned_db: Database) -> Cli:
    """On a database of its own, of whose facts no other test deleted any."""
    return Cli(cloned_db.url)


def lose_a_delivery(database: Database) -> UUID:
    """Something for the account: one delivered, one open, one that stands nowhere."""
    to = add_subscription(database)
    for outcome, status in (("delivered", 200), ("retry", 503), ("retry", 503)):
        lost = add_delivery(database, add_event(database), to)
        add_attempt(database, lost, 1, outcome, status=status)
        if outcome == "retry":
            with database.engine.begin() as connection:
                connection.exec_driver_sql(f"""
                    INSERT INTO outbox.delivery_queue
                        (delivery_id, subscription_id, event_id, due_at, attempt, failures)
                    SELECT id, subscription_id, event_id, now(), 1, 1 FROM outbox.delivery
                    WHERE id = '{lost}'
                """)  # noqa: S608 - an id
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            f"DELETE FROM outbox.delivery_queue WHERE delivery_id = '{lost}'"  # noqa: S608 - an id
        )
    return lost


def test_nothing_differs(cli: Cli) -> None:
    """An empty outbox adds up."""
    found = cli.json("audit")

    assert (found["adds_up"], found["found"], found["findings"]) == (True, {}, [])
    assert set(found["account"].values()) == {0}
    assert "It all adds up" in cli.out("audit")


def test_what_differs(cli: Cli, cloned_db: Database) -> None:
    """It is one line, with the account below, the sum on stderr, and the exit code 1."""
    id = lose_a_delivery(cloned_db)
    result = cli("audit")

    assert result.exit_code == 1
    heading, line, *account = result.stdout.splitlines()
    assert heading.split() == ["NAME", "ID", "FACTS", "PROJECTION"]
    assert line.split()[:2] == ["queue_missing", str(id)]
    assert line.endswith("not in the queue")
    assert [each.split() for each in account if each][1:4] == [
        ["events", "3"], ["deliveries", "3"], ["open", "1"],
    ]  # fmt: skip
    assert result.stderr == (
        "Error: what the facts say and what stands in the tables differ: queue_missing 1\n"
    )

    found = json.loads(cli("audit", "--json").stdout)
    assert (found["account"]["deliveries"], found["repaired"]) == (3, {})
    assert found["found"] == {"queue_missing": 1}
    assert [each["id"] for each in found["findings"]] == [str(id)]
    assert set(found["findings"][0]) == {"name", "id", "facts", "projection"}


def test_repair(cli: Cli, cloned_db: Database) -> None:
    """What differs is made again, and then it adds up."""
    lose_a_delivery(cloned_db)
    result = cli("audit", "--repair", "--yes")

    assert result.exit_code == 0, result.stderr
    assert "REPAIRED\nqueue_missing  1\n" in result.stdout
    assert "It all adds up" in result.stdout
    assert cli.json("audit")["account"]["open"] == 2


def test_repair_asks(cli: Cli, cloned_db: Database) -> None:
    """Nobody to ask, nothing is changed; where nothing is to be repaired nobody is asked."""
    assert cli("audit", "--repair").exit_code == 0
    lose_a_delivery(cloned_db)
    result = cli("audit", "--repair")

    assert (result.exit_code, result.stderr) == (
        2, "Error: there is no terminal to ask on; pass --yes\n",
    )  # fmt: skip
    assert cli("audit").exit_code == 1


def test_facts_cannot_be_repaired(cli: Cli, cloned_db: Database) -> None:
    """A fact that is wrong stays so, and is named again."""
    id = lose_a_delivery(cloned_db)
    add_attempt(cloned_db, id, 3, "delivered", status=200)
    result = cli("audit", "--repair", "--yes", "--json")
    found = json.loads(result.stdout)

    assert result.exit_code == 1
    assert found["found"] == {"attempt_gap": 1}


def test_since(cli: Cli, cloned_db: Database) -> None:
    """Only what is not older is looked at."""
    lose_a_delivery(cloned_db)

    assert cli.json("audit", "--since", "2100-01-01")["account"]["deliveries"] == 0
    assert cli("audit", "--since", "1d").exit_code == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--since", "soon"], "since: must be a time"), (["--limit", "0"], "'--limit'")],
)
def test_wrong_use(bare_cli: Cli, options: list[str], told: str) -> None:
    """A value that breaks a rule is named before anything else happens."""
    result = bare_cli("audit", *options)

    assert result.exit_code == 2
    assert told in result.stderr
