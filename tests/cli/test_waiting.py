"""`outbox events wait`, and `outbox events emit --wait`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from .rows import URL, add_attempt, add_delivery, add_event, add_subscription

if TYPE_CHECKING:
    from uuid import UUID

    from tests.databases import Database

    from .conftest import Cli

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
WORKER = "INSERT INTO outbox.worker (host, pid, version) VALUES ('a', 1, '1')"


def add_answer(database: Database, event: UUID, outcome: str, status: int, body: bytes) -> UUID:
    """A delivery that has ended."""
    delivery = add_delivery(database, event, add_subscription(database))
    add_attempt(database, delivery, 1, outcome, status=status, response_body=body)
    return delivery


def test_all_have_it(cli: Cli, committed_db: Database) -> None:
    """The whole page: how far it is, the answers, and what they said."""
    event = add_event(committed_db)
    delivery = add_answer(committed_db, event, "delivered", 200, b'{"allow": true}\n')

    assert cli.out("events", "wait", str(event)) == (
        f"id          {event}\n"
        "fanned_out  yes\n"
        "ended       yes\n"
        "\n"
        "ANSWERS\n"
        "DELIVERY ID                           STATE      ATTEMPT  STATUS  URL\n"
        f"{delivery}  delivered        1     200  {URL}\n"
        "\n"
        "RESPONSES\n"
        f"{delivery}:\n"
        '{"allow": true}\n'
    )


def test_for_programs(cli: Cli, committed_db: Database) -> None:
    """A program gets one document, with all that is known."""
    event = add_event(committed_db)
    delivery = add_answer(committed_db, event, "delivered", 200, b"\xff")
    document = cli.json("events", "wait", str(event))
    answer = document["answers"][0]

    assert {**document, "answers": []} == {
        "id": str(event), "fanned_out": True, "ended": True, "answers": [],
    }  # fmt: skip
    assert (answer["delivery_id"], answer["status"]) == (str(delivery), 200)
    assert (answer["attempt"], answer["body"], answer["held"]) == (1, "\ufffd", None)


def test_nobody_wants_it(cli: Cli, committed_db: Database) -> None:
    """An event that matched nothing is with all who want it."""
    out = cli.out("events", "wait", str(add_event(committed_db)))

    assert out.endswith("\n\nANSWERS\nNo subscription wants it.\n")


def test_one_is_dead(cli: Cli, committed_db: Database) -> None:
    """What ended otherwise is a failure of the command, whose output is whole all the same."""
    event = add_event(committed_db)
    add_answer(committed_db, event, "delivered", 200, b"")
    add_answer(committed_db, event, "dead", 410, b"")
    result = cli("events", "wait", str(event), "--json")

    assert result.exit_code == 1
    assert '"state": "dead"' in result.stdout
    assert result.stderr == "Error: 1 of 2 deliveries ended without being delivered\n"


def test_the_time_is_over(cli: Cli, committed_db: Database) -> None:
    """When the time is over it says how far it is, and whether there is a worker at all."""
    event = add_event(committed_db)
    add_delivery(committed_db, event, add_subscription(committed_db), due_at=NOW)
    alone = cli("events", "wait", str(event), "--timeout", "0.05")
    with committed_db.engine.begin() as connection:
        connection.exec_driver_sql(WORKER)
    busy = cli("events", "wait", str(event), "--timeout", "0.05")

    assert (alone.exit_code, busy.exit_code) == (1, 1)
    assert busy.stderr == "Error: after 0.05 s 1 of 1 deliveries are not delivered\n"
    assert alone.stderr == f"{busy.stderr[:-1]}: no worker is running\n"


def test_emit_and_wait(cli: Cli) -> None:
    """`emit --wait` tells the id before it waits, in case it is interrupted."""
    result = cli("events", "emit", "invoice.paid", "--wait", "0.05")
    id = cli.json("events", "list")[0]["id"]

    assert result.exit_code == 1
    assert result.stdout == f"id          {id}\nfanned_out  no\nended       no\n\nANSWERS\nNone.\n"
    assert result.stderr == (
        f"Waiting for the answers to {id}.\n"
        "Error: after 0.05 s the event is not fanned out: no worker is running\n"
    )


def test_unknown(cli: Cli) -> None:
    """An unknown event is not waited for."""
    id = "0190163d-8694-739b-aea5-966c26f8ad91"
    result = cli("events", "wait", id)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: event: there is none with the id {id}\n"


@pytest.mark.parametrize("seconds", ["0", "-1", "3601", "soon", "nan"])
def test_wrong_seconds(bare_cli: Cli, seconds: str) -> None:
    """A timeout that is none is refused before anything is asked."""
    result = bare_cli(
        "events", "wait", "0190163d-8694-739b-aea5-966c26f8ad91", "--timeout", seconds
    )

    assert result.exit_code == 2
    assert "Invalid value for '--timeout'" in result.stderr
