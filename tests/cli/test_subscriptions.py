"""`outbox subscriptions`."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select

from outbox.tables import subscription_change, subscription_health

from .rows import URL, add_delivery, add_event, add_subscription

if TYPE_CHECKING:
    from tests.databases import Database

    from .conftest import Cli

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of a test
NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)


def changes(database: Database) -> list[tuple[str, str, str]]:
    """Every change to a subscription: what, by whom, from where."""
    columns = subscription_change.c
    query = select(columns.change, columns.actor, columns.command).order_by(columns.id)
    with database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_add_prints_everything_and_the_secret_once(cli: Cli) -> None:
    """`add` stores what was asked for and shows a new secret."""
    added = cli.json(
        "subscriptions", "add", URL, "--types", "invoice.*, user.created", "--tenant", "acme",
        "--filter", "$.amount > 100", "--header", "X-Team: billing", "--schedule", "0s,5s,5m",
        "--method", "PUT", "--timeout", "3", "--max-age", "3600", "--user-agent", "acme/1",
        "--max-in-flight", "5", "--rate", "90/m", "--burst", "2", "--ordered", "skip",
        "--name", "billing",
    )  # fmt: skip
    secret = added.pop("secret")

    assert secret.startswith("whsec_")
    shown = cli.json("subscriptions", "show", added["id"])
    assert shown == added | {"failing": None, "health": shown["health"]}
    assert {
        name: added[name] for name in added if name not in {"id", "created_at", "changed_at"}
    } == {
        "name": "billing",
        "tenant": "acme",
        "url": URL,
        "types": ["invoice.*", "user.created"],
        "filter": "$.amount > 100",
        "method": "PUT",
        "format": "standard",
        "schemes": ["standard"],
        "headers": {"X-Team": "billing"},
        "user_agent": "acme/1",
        "timeout": 3.0,
        "schedule": [0.0, 5.0, 300.0],
        "max_age": 3600.0,
        "max_in_flight": 5,
        "rate": 1.5,
        "burst": 2,
        "ordered": "skip",
        "state": "active",
        "state_reason": None,
        "revision": 1,
    }


def test_add_tells_a_person_to_keep_the_secret(cli: Cli) -> None:
    """A person reads what is set and nothing else, then what to do about the secret."""
    result = cli("subscriptions", "add", URL, "--types", "*", "--schedule", "0,300")

    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["url"] == URL
    assert not {"tenant", "filter", "headers", "rate"} & set(lines)
    assert lines["schedule"] == "0s, 5m"
    assert lines["secret"].startswith("whsec_")
    assert result.stderr == (
        "Keep the secret now: it is not shown again.\n"
        "Secrets are stored in clear: OUTBOX_SECRET_KEY is not set.\n"
    )


def test_add_takes_a_secret_from_stdin(cli: Cli) -> None:
    """With --secret-stdin the given secret signs."""
    added = cli.json(
        "subscriptions", "add", URL, "--types", "*", "--secret-stdin", stdin=f"{SECRET}\n"
    )

    assert added["secret"] == SECRET


def test_add_asks_for_a_secret_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the secret is asked for and not echoed."""
    monkeypatch.setattr("outbox.cli.secret_text.has_terminal", lambda: True)
    result = cli("subscriptions", "add", URL, "--types", "*", "--secret-stdin", stdin=f"{SECRET}\n")

    assert result.exit_code == 0
    assert result.stderr.startswith("Secret: \n")


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "X-Access-Token", "x-password"])
def test_credentials_are_not_shown(cli: Cli, name: str) -> None:
    """A header that sounds like a credential is shown without its value."""
    cli.json("subscriptions", "add", URL, "--types", "*", "--header", f"{name}: hunter2")

    assert [each["headers"] for each in cli.json("subscriptions", "list")] == [{name: "[secure]"}]


def test_list_of_none_is_an_empty_array(cli: Cli) -> None:
    """A list without items is an array for a program and a word for a person."""
    assert cli.json("subscriptions", "list") == []
    assert cli.out("subscriptions", "list") == "None.\n"


def test_list_is_a_table_with_whole_ids(cli: Cli, committed_db: Database) -> None:
    """The list is one line for each subscription, the oldest first."""
    first = add_subscription(committed_db)
    second = add_subscription(committed_db, tenant="acme", filter="$.amount > 100")

    assert cli.out("subscriptions", "list") == (
        "ID                                    STATE   TYPES  TENANT"
        "  URL                        FILTER\n"
        f"{first}  active  *      -       https://example.com/hooks  -\n"
        f"{second}  active  *      acme    https://example.com/hooks  $.amount > 100\n"
    )


def test_list_of_a_tenant(cli: Cli, committed_db: Database) -> None:
    """--tenant leaves the others out."""
    add_subscription(committed_db)
    acme = add_subscription(committed_db, tenant="acme")

    found = cli.json("subscriptions", "list", "--tenant", "acme")
    assert [each["id"] for each in found] == [str(acme)]


def test_pause_and_resume(cli: Cli, committed_db: Database) -> None:
    """A subscription stops with a reason, goes on without, and both changes are facts."""
    id = str(add_subscription(committed_db))
    paused = cli.json("subscriptions", "pause", id, "--reason", "they migrate")
    resumed = cli.json("subscriptions", "resume", id)

    assert (paused["state"], paused["state_reason"]) == ("paused", "they migrate")
    assert (resumed["state"], resumed["state_reason"]) == ("active", None)
    assert changes(committed_db)[1:] == [
        ("paused", getpass.getuser(), "outbox subscriptions pause"),
        ("resumed", getpass.getuser(), "outbox subscriptions resume"),
    ]


def test_remove_cancels_and_says_how_many(cli: Cli, committed_db: Database) -> None:
    """A removed subscription is in no list but --all, and its open deliveries end."""
    id = add_subscription(committed_db)
    open_ = add_delivery(committed_db, add_event(committed_db), id, due_at=NOW)
    removed = cli.json("subscriptions", "remove", str(id), "--yes")

    assert (removed["state"], removed["cancelled"]) == ("removed", 1)
    assert cli.json("deliveries", "show", str(open_))["state"] == "cancelled"
    assert cli.json("subscriptions", "list") == []
    assert [each["id"] for each in cli.json("subscriptions", "list", "--all")] == [str(id)]


@pytest.mark.parametrize(("answer", "code", "state"), [("y\n", 0, "removed"), ("n\n", 1, "active")])
def test_remove_asks_on_a_terminal(
    cli: Cli, committed_db: Database, monkeypatch: pytest.MonkeyPatch,
    answer: str, code: int, state: str,
) -> None:  # fmt: skip
    """On a terminal it says what is at stake, and only `y` removes."""
    monkeypatch.setattr("outbox.cli.options.has_terminal", lambda: True)
    id = add_subscription(committed_db)
    result = cli("subscriptions", "remove", str(id), stdin=answer)

    assert result.exit_code == code
    assert f"Remove {URL} and cancel its 0 open deliveries? [y/N]: " in result.stderr
    assert cli.json("subscriptions", "show", str(id))["state"] == state


def test_remove_without_a_terminal_needs_yes(cli: Cli, committed_db: Database) -> None:
    """Nothing is removed when nobody can be asked."""
    id = add_subscription(committed_db)
    result = cli("subscriptions", "remove", str(id))

    assert result.exit_code == 2
    assert result.stderr == "Error: there is no terminal to ask on; pass --yes\n"
    assert cli.json("subscriptions", "show", str(id))["state"] == "active"


def test_what_was_removed_stays_removed(cli: Cli, committed_db: Database) -> None:
    """A removed subscription cannot be resumed: one line and exit code 1."""
    id = add_subscription(committed_db)
    cli("subscriptions", "remove", str(id), "--yes")
    result = cli("subscriptions", "resume", str(id))

    assert result.exit_code == 1
    assert result.stderr == f"Error: subscription {id} is removed: it cannot be resumed\n"


def test_failing_is_told(cli: Cli, committed_db: Database) -> None:
    """`show` and `list` tell since when nothing succeeds, and how often it failed."""
    failing, well = add_subscription(committed_db), add_subscription(committed_db)
    row = {"subscription_id": failing, "failing_since": NOW, "failures": 57}
    with committed_db.engine.begin() as connection:
        connection.execute(insert(subscription_health), row)
    told = {"since": "2026-01-31T09:00:00Z", "failures": 57}
    line = "since: 2026-01-31 09:00:00Z, failures: 57"

    assert cli.json("subscriptions", "show", str(failing))["failing"] == told
    assert [each["failing"] for each in cli.json("subscriptions", "list")] == [told, None]
    assert f"failing     {line}" in cli("subscriptions", "show", str(failing)).stdout
    assert line in cli("subscriptions", "list").stdout
    assert cli.json("subscriptions", "show", str(well))["failing"] is None
