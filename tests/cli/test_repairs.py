"""`outbox deliveries retry` and `cancel`, and `outbox events retry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text, update

from outbox import repairs
from outbox.tables import event_queue
from tests.factories import rows, value

from .rows import add_attempt, add_delivery, add_event, add_subscription

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from tests.databases import Database

    from .conftest import Cli

LATER = "2100-01-01"
MANY = 1_100  # more than fit into two slices


@pytest.fixture
def subscription(committed_db: Database) -> UUID:
    return add_subscription(committed_db)


@pytest.fixture
def make(committed_db: Database, subscription: UUID) -> Callable[..., UUID]:
    """Makes a delivery that is pending, or that has ended."""

    def make(end: str | None = None, **event: Any) -> UUID:
        queue = {} if end else {"due_at": LATER, "attempt": 1, "failures": 1}
        id = add_delivery(committed_db, add_event(committed_db, **event), subscription, **queue)
        status = 200 if end == "delivered" else 503
        add_attempt(committed_db, id, 1, end or "retry", status=status)
        return id

    return make


def ask(database: Database, query: str) -> Any:
    with database.engine.connect() as connection:
        return value(connection, query)


def states(cli: Cli) -> list[str]:
    """The states of all deliveries, oldest first."""
    return [each["state"] for each in cli.json("deliveries", "list", "--limit", "9999")][::-1]


DUE = "SELECT count(*) FROM outbox.delivery_queue WHERE due_at <= now()"


def test_retry_by_id(cli: Cli, committed_db: Database, make: Callable[..., UUID]) -> None:
    """Those that are named, and nobody is asked: pending, dead and cancelled ones."""
    named = [str(make()), str(make("dead")), str(make("cancelled"))]
    make()
    make("dead")
    told = cli.json("deliveries", "retry", *named, named[0])

    assert (told["due_now"], told["made"], told["dry_run"]) == (1, 2, False)
    assert states(cli) == ["pending", "dead", "cancelled", "pending", "dead", *["pending"] * 2]
    assert ask(committed_db, DUE) == 3


def test_retry_by_filter(cli: Cli, make: Callable[..., UUID]) -> None:
    """What fits, of pending and dead ones; cancelled ones only if they are asked for."""
    for end in (None, "dead", "cancelled", "delivered"):
        make(end, tenant="acme")
    make("dead")

    told = cli.json("deliveries", "retry", "--tenant", "acme", "--yes")
    assert (told["due_now"], told["made"]) == (1, 1)
    told = cli.json("deliveries", "retry", "--state", "cancelled", "--yes")
    assert (told["due_now"], told["made"]) == (0, 1)
    assert states(cli) == [
        "pending", "dead", "cancelled", "delivered", "dead", "pending", "pending",
    ]  # fmt: skip


def test_who_asked_is_known(cli: Cli, committed_db: Database, make: Callable[..., UUID]) -> None:
    """What is made again bears the id of a replay that is done, with the one who asked."""
    make("dead")
    told = cli.json("deliveries", "retry", "--status", "503", "--yes")

    assert [each["replay_id"] for each in cli.json("deliveries", "list")] == [
        told["replay_id"], None,
    ]  # fmt: skip
    (made,) = cli.json("deliveries", "list", "--replay", told["replay_id"])
    assert made["state"] == "pending"
    with committed_db.engine.connect() as connection:
        query = "SELECT id::text, mode, state, counted, made, command FROM outbox.replay"
        assert rows(connection, query) == [
            (told["replay_id"], "dead", "done", 1, 1, "outbox deliveries retry"),
        ]  # fmt: skip


def test_cancel(cli: Cli, make: Callable[..., UUID]) -> None:
    """By id or by filter, with a reason that is kept."""
    named, other = str(make()), str(make(tenant="acme"))
    make("dead", tenant="acme")

    assert cli.json("deliveries", "cancel", named) == {"cancelled": 1, "dry_run": False}
    told = cli.json("deliveries", "cancel", "--tenant", "acme", "--reason", "sent by mail", "--yes")
    assert told["cancelled"] == 1
    assert states(cli) == ["cancelled", "cancelled", "dead"]
    assert cli.json("deliveries", "show", other)["error"].endswith(": sent by mail")


@pytest.mark.parametrize("verb", ["retry", "cancel"])
def test_a_dry_run_changes_nothing(cli: Cli, make: Callable[..., UUID], verb: str) -> None:
    """It counts what would be done, and neither asks nor does it."""
    make()
    make("dead")
    before = cli.json("deliveries", "list")
    told = cli.json("deliveries", verb, "--type", "*", "--dry-run")

    assert told.pop("dry_run")
    assert told == {
        "retry": {"due_now": 1, "made": 1, "replay_id": None}, "cancel": {"cancelled": 1},
    }[verb]  # fmt: skip
    assert cli.json("deliveries", "list") == before


@pytest.mark.parametrize(
    ("verb", "question", "otherwise"),
    [
        ("retry", "Let 1 be due now, and make 1 again? [y/N]: ", "nothing was retried"),
        ("cancel", "Cancel 1 deliveries? [y/N]: ", "nothing was cancelled"),
    ],
)
def test_a_filter_asks(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, make: Callable[..., UUID], verb: str, question: str,
    otherwise: str,
) -> None:  # fmt: skip
    """A person is asked with the numbers; without a terminal --yes is needed."""
    make()
    make("dead")
    before = cli.json("deliveries", "list")
    command = ("deliveries", verb, "--type", "*")

    result = cli(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: there is no terminal to ask on; pass --yes\n"

    monkeypatch.setattr("outbox.cli.options.has_terminal", lambda: True)
    result = cli(*command, stdin="n\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(question)
    assert result.stderr.endswith(f"Error: {otherwise}\n")
    assert cli.json("deliveries", "list") == before
    assert cli(*command, stdin="y\n").exit_code == 0


def test_nothing_to_do(cli: Cli, make: Callable[..., UUID]) -> None:
    """Where nothing fits nobody is asked."""
    make("delivered")

    assert cli.json("deliveries", "cancel", "--type", "*")["cancelled"] == 0
    told = cli.json("deliveries", "retry", "--type", "*")
    assert (told["due_now"], told["made"], told["replay_id"]) == (0, 0, None)


DEAD = """
WITH event AS (
    INSERT INTO outbox.event (type, data) SELECT 'a.b', '1' FROM generate_series(1, :many)
    RETURNING id
), delivery AS (
    INSERT INTO outbox.delivery (event_id, subscription_id) SELECT id, :subscription FROM event
    RETURNING id
)
INSERT INTO outbox.attempt (delivery_id, attempt, outcome) SELECT id, 1, 'dead' FROM delivery
"""


def test_interrupted_it_goes_on(
    cli: Cli, committed_db: Database, monkeypatch: pytest.MonkeyPatch, subscription: UUID
) -> None:
    """Ctrl-C leaves done what was done and says how far; run again, each is made once."""
    with committed_db.engine.begin() as connection:
        connection.execute(text(DEAD), {"many": MANY, "subscription": subscription})
    some, calls = repairs.retry_some, []

    def interrupt(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        done = some(*arguments, **options)
        if len(calls) == 2:
            raise KeyboardInterrupt  # the slice was not committed yet
        return done

    monkeypatch.setattr("outbox.repairs.retry_some", interrupt)
    result = cli("deliveries", "retry", "--state", "dead", "--yes")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "Error: interrupted after 500 of 1,100; run it again to go on\n"

    assert cli.json("deliveries", "retry", "--state", "dead", "--yes")["made"] == 600
    replays = "SELECT sum(made) FROM outbox.replay"
    assert ask(committed_db, replays) == ask(committed_db, DUE) == MANY


def test_a_delivered_one_is_refused(cli: Cli, make: Callable[..., UUID]) -> None:
    """It says how its event is brought again, and does nothing of the rest."""
    pending, delivered = str(make()), str(make("delivered"))
    event = cli.json("deliveries", "show", delivered)["event_id"]
    result = cli("deliveries", "retry", pending, delivered)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: delivery {delivered} is delivered: it cannot be retried; "
        f"`outbox replay --event {event}` brings its event again\n"
    )
    assert cli("deliveries", "cancel", pending, delivered).stderr == (
        f"Error: delivery {delivered} is delivered: it cannot be cancelled\n"
    )
    assert states(cli) == ["pending", "delivered"]


# Events.


@pytest.fixture
def set_aside(committed_db: Database) -> list[str]:
    """Two events whose fan-out failed."""
    ids = [str(add_event(committed_db, fanned_out=False)) for _ in range(2)]
    with committed_db.engine.begin() as connection:
        connection.execute(update(event_queue).values(due_at=text("'infinity'"), error="too deep"))
    return ids


def test_events_retry(cli: Cli, set_aside: list[str]) -> None:
    """Events that were set aside go back into the queue."""
    assert cli.json("events", "retry", set_aside[0]) == {"retried": 1}

    shown = cli.json("events", "show", set_aside[0])
    assert (shown["fan_out"], shown["fan_out_error"]) == ("waiting", None)
    assert [each["id"] for each in cli.json("events", "list", "--waiting")] == [set_aside[0]]
    assert [each["id"] for each in cli.json("events", "list", "--set-aside")] == [set_aside[1]]


def test_events_retry_all(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, set_aside: list[str]
) -> None:  # fmt: skip
    """All of them, slice after slice."""
    monkeypatch.setattr("outbox.cli.events.SLICE", 1)

    assert cli.json("events", "retry", "--all") == {"retried": 2}
    assert cli.json("events", "retry", "--all") == {"retried": 0}


def test_events_that_were_fanned_out(
    cli: Cli, committed_db: Database, set_aside: list[str]
) -> None:  # fmt: skip
    """Only what was set aside can be retried; if one is not, none is."""
    done = str(add_event(committed_db))
    result = cli("events", "retry", set_aside[0], done)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: the fan-out of event {done} is done: it cannot be retried\n"
    assert cli.json("events", "show", set_aside[0])["fan_out"] == "set aside"
