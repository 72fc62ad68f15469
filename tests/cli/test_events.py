"""`outbox events`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text, update

from outbox.tables import event_queue

from .rows import add_delivery, add_event, add_subscription

if TYPE_CHECKING:
    from pathlib import Path

    from tests.databases import Database

    from .conftest import Cli

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
DATA = '{"id": 1, "amount": 19.90, "to": ["é"]}'


def test_emit_stores_the_event(cli: Cli) -> None:
    """What was typed is what is stored."""
    id = cli.json(
        "events", "emit", "invoice.paid", "--data", DATA, "--tenant", "acme", "--subject", "i/1",
        "--source", "shop", "--due-at", "2030-01-31T10:00:00+01:00",
    )["id"]  # fmt: skip
    event = cli.json("events", "show", id)
    del event["occurred_at"]

    assert event == {
        "id": id,
        "type": "invoice.paid",
        "tenant": "acme",
        "subject": "i/1",
        "source": "shop",
        "data": {"id": 1, "amount": 19.90, "to": ["é"]},
        "context": None,
        "due_at": "2030-01-31T09:00:00Z",
        "fan_out": "waiting",
        "fan_out_error": None,
        "deliveries": [],
        "is_test": False,
        "matching": [],
        "others": [],
        "others_in_all": 0,
    }


def test_emit_prints_the_id(cli: Cli) -> None:
    """A person gets the id to copy."""
    out = cli.out("events", "emit", "invoice.paid")

    assert out == f"id  {cli.json('events', 'list')[0]['id']}\n"


def test_numbers_keep_their_digits(cli: Cli) -> None:
    """19.90 and a number that no float holds come out as they went in."""
    data = '{"amount":19.90,"large":12345678901234567890.5}'
    cli.out("events", "emit", "invoice.paid", "--data", data)

    assert f'"data": {data}' in cli.out("events", "list", "--json")


@pytest.mark.parametrize("stdin", [b'{"a": "\xc3\xa9"}', b'\xef\xbb\xbf{"a": "\xc3\xa9"}'])
def test_data_from_stdin(cli: Cli, stdin: bytes) -> None:
    """`--data -` reads UTF-8 from stdin, with a byte order mark or without."""
    id = cli.json("events", "emit", "a", "--data", "-", stdin=stdin)["id"]

    assert cli.json("events", "show", id)["data"] == {"a": "é"}


def test_data_from_a_file(cli: Cli, tmp_path: Path) -> None:
    """`--data @FILE` reads the file."""
    (tmp_path / "data.json").write_text("[1, 2]")
    id = cli.json("events", "emit", "a", "--data", f"@{tmp_path / 'data.json'}")["id"]

    assert cli.json("events", "show", id)["data"] == [1, 2]


def test_the_same_key_is_the_same_event(cli: Cli) -> None:
    """A key makes `emit` idempotent."""
    first = cli.json("events", "emit", "a", "--key", "k", "--data", "1")
    again = cli.json("events", "emit", "a", "--key", "k", "--data", "1")

    assert again == first


def test_a_key_of_another_event_is_refused(cli: Cli) -> None:
    """The same key with other data fails, and names the first event."""
    first = cli.json("events", "emit", "a", "--key", "k", "--data", "1")["id"]
    result = cli("events", "emit", "a", "--key", "k", "--data", "2")

    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: key: 'k' already belongs to event {first}, whose content differs\n"
    )


def test_list_is_a_table_newest_first(cli: Cli, committed_db: Database) -> None:
    """Columns that nobody uses are left out; times are in UTC."""
    first = add_event(committed_db, occurred_at=NOW, subject="invoice/1")
    second = add_event(committed_db, occurred_at=NOW, type="user.created")

    assert cli.out("events", "list") == (
        "ID                                    OCCURRED AT           TYPE          SUBJECT\n"
        f"{second}  2026-01-31 09:00:00Z  user.created  -\n"
        f"{first}  2026-01-31 09:00:00Z  invoice.paid  invoice/1\n"
    )


def test_list_takes_what_fits(cli: Cli, committed_db: Database) -> None:
    """Pattern, tenant and subject narrow the list; `--before` and `--limit` page it."""
    ids = [
        str(add_event(committed_db, type=type, tenant=tenant, subject="s"))
        for type in ("invoice.paid", "invoice.sent", "user.created")
        for tenant in (None, "acme")
    ]

    def listed(*options: str) -> list[int]:
        return [ids.index(each["id"]) for each in cli.json("events", "list", *options)]

    assert listed("--type", "invoice.*") == [3, 2, 1, 0]
    assert listed("--type", "invoice.*", "--tenant", "acme") == [3, 1]
    assert listed("--subject", "other") == []
    assert listed("--limit", "2") == [5, 4]
    assert listed("--limit", "2", "--before", ids[4]) == [3, 2]


def test_show_for_a_person(cli: Cli, committed_db: Database) -> None:
    """The whole page: fields, data with its digits, deliveries."""
    event = add_event(committed_db, occurred_at=NOW, data={"id": 1, "to": []})
    subscription = add_subscription(committed_db)
    delivery = add_delivery(committed_db, event, subscription, due_at=NOW)

    assert cli.out("events", "show", str(event)) == (
        f"id             {event}\n"
        "type           invoice.paid\n"
        "tenant         -\n"
        "subject        -\n"
        "source         -\n"
        "context        -\n"
        "occurred_at    2026-01-31 09:00:00Z\n"
        "due_at         -\n"
        "fan_out        done\n"
        "fan_out_error  -\n"
        "\n"
        "DATA\n"
        "{\n"
        '  "id": 1,\n'
        '  "to": []\n'
        "}\n"
        "\n"
        "DELIVERIES\n"
        "ID                                    STATE    ATTEMPT  DUE AT                URL\n"
        f"{delivery}  pending        0  2026-01-31 09:00:00Z  https://example.com/hooks\n"
        "\n"
        "MATCHING\n"
        "ID                                    FATE      URL                        TYPES\n"
        f"{subscription}  delivery  https://example.com/hooks  *\n"
    )


def test_show_an_event_that_was_set_aside(cli: Cli, committed_db: Database) -> None:
    """An event whose fan-out failed says why."""
    event = add_event(committed_db, fanned_out=False)
    with committed_db.engine.begin() as connection:
        connection.execute(update(event_queue).values(due_at=text("'infinity'"), error="too deep"))
    shown = cli.json("events", "show", str(event))

    assert (shown["fan_out"], shown["fan_out_error"]) == ("set aside", "too deep")


def test_data_cannot_steer_the_terminal(cli: Cli, committed_db: Database) -> None:
    """What is not printable is shown escaped, also where JSON would allow it."""
    add_event(committed_db, data={"a": "\x9b2J"}, source="\u202eliame")
    id = cli.json("events", "list")[0]["id"]

    assert cli.out("events", "show", id).isascii()
