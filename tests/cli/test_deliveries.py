"""`outbox deliveries`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import pytest

from outbox import deliveries
from outbox.cli import listing
from outbox.cli.layout import cell
from outbox.moments import moment_of
from tests.factories import value

from .rows import add_attempt, add_delivery, add_event, add_subscription

if TYPE_CHECKING:
    from uuid import UUID

    from tests.databases import Database

    from .conftest import Cli

NO_PHASES = dict.fromkeys(("dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "body_ms"))

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
GONE = 1_000_000  # a worker of whom nothing is on record
REFUSED: dict[str, Any] = {
    "worker_id": GONE, "revision": 1, "started_at": NOW, "duration_ms": 12, "status": 503,
    "error": "the receiver answered 503", "due_at": NOW + timedelta(seconds=5),
    "response_headers": '{"server": "nginx\\u001b", "retry-after": "5"}',
    "response_body": b"try later\n\x1b[2J", "recorded_at": NOW,
}  # fmt: skip
ACCEPTED: dict[str, Any] = {
    "worker_id": GONE, "revision": 1, "started_at": NOW + timedelta(seconds=5), "duration_ms": 8,
    **NO_PHASES,
    "status": 200, "recorded_at": NOW,
}  # fmt: skip


def made_at(delivery: UUID) -> str:
    return cell(moment_of(delivery))


@pytest.fixture
def subscription(committed_db: Database) -> UUID:
    """A subscription to everything."""
    return add_subscription(committed_db)


@pytest.fixture
def event(committed_db: Database) -> UUID:
    """An event that is fanned out."""
    return add_event(committed_db)


@pytest.fixture
def delivered(committed_db: Database, event: UUID, subscription: UUID) -> UUID:
    """A delivery that took two attempts."""
    id = add_delivery(committed_db, event, subscription)
    add_attempt(committed_db, id, 1, "retry", **REFUSED)
    add_attempt(committed_db, id, 2, "delivered", **ACCEPTED)
    return id


@pytest.fixture
def pending(committed_db: Database, event: UUID, subscription: UUID) -> UUID:
    """A delivery that was refused once."""
    queue = {"due_at": REFUSED["due_at"], "attempt": 1, "failures": 1}
    id = add_delivery(committed_db, event, subscription, **queue)
    add_attempt(committed_db, id, 1, "retry", **REFUSED)
    return id


def test_list_is_a_table_newest_first(cli: Cli, delivered: UUID, pending: UUID) -> None:
    """Each delivery is one line, with its state and what came last."""
    assert cli.out("deliveries", "list") == (
        "ID                                    STATE      ATTEMPT  STATUS  TYPE"
        "          MADE AT               DUE AT                URL                        ERROR\n"
        f"{pending}  pending          1     503  invoice.paid  {made_at(pending)}"
        "  2026-01-31 09:00:05Z  https://example.com/hooks  the receiver answered 503\n"
        f"{delivered}  delivered        2     200  invoice.paid  {made_at(delivered)}"
        "  -                     https://example.com/hooks  -\n"
    )


def test_list_takes_what_fits(
    cli: Cli, committed_db: Database, delivered: UUID, pending: UUID, event: UUID,
    subscription: UUID,
) -> None:  # fmt: skip
    """Event, subscription and state narrow the list; `--before` and `--limit` page it."""
    other = str(add_event(committed_db))

    def listed(*options: str) -> list[str]:
        return [each["id"] for each in cli.json("deliveries", "list", *options)]

    both = [str(pending), str(delivered)]
    assert listed("--event", str(event)) == listed("--subscription", str(subscription)) == both
    assert listed("--event", other) == listed("--subscription", other) == []
    assert listed("--state", "pending") == listed("--limit", "1") == both[:1]
    assert listed("--state", "delivered") == listed("--before", both[0]) == both[1:]


def test_show_for_a_program(cli: Cli, delivered: UUID, event: UUID, subscription: UUID) -> None:
    """A delivery, its attempts and the request have the names of the database."""
    shown = cli.json("deliveries", "show", str(delivered))
    attempts, request = shown.pop("attempts"), shown.pop("request")

    assert datetime.fromisoformat(shown.pop("made_at")) == moment_of(delivered)
    assert shown == {
        "id": str(delivered),
        "event_id": str(event),
        "type": "invoice.paid",
        "tenant": None,
        "subject": None,
        "subscription_id": str(subscription),
        "url": "https://example.com/hooks",
        "replay_id": None,
        "state": "delivered",
        "attempt": 2,
        "outcome": "delivered",
        "status": 200,
        "error_class": None,
        "error": None,
        "due_at": None,
        "held": None,
        "in_flight": False,
    }
    assert attempts[0] == {
        "delivery_id": str(delivered),
        "attempt": 1,
        "outcome": "retry",
        "worker_id": GONE,
        "worker": None,
        "revision": 1,
        "started_at": "2026-01-31T09:00:00Z",
        "duration_ms": 12,
        **NO_PHASES,
        "status": 503,
        "error_class": None,
        "error": "the receiver answered 503",
        "response_headers": {"server": "nginx\x1b", "retry-after": "5"},
        "response_body": "try later\n\x1b[2J",
        "due_at": "2026-01-31T09:00:05Z",
        "recorded_at": "2026-01-31T09:00:00Z",
    }
    assert [each["status"] for each in attempts] == [503, 200]
    assert (request["attempt"], request["revision"], request["url"]) == (2, 1, shown["url"])


def test_show_for_a_person(cli: Cli, pending: UUID, event: UUID, subscription: UUID) -> None:
    """The whole page: fields, attempts, what comes next, what was answered, what was sent."""
    result = cli("deliveries", "show", str(pending))
    head, _, request = result.stdout.partition("REQUEST OF ATTEMPT 1\n")

    assert head == (
        f"id               {pending}\n"
        f"event_id         {event}\n"
        "type             invoice.paid\n"
        "tenant           -\n"
        "subject          -\n"
        f"subscription_id  {subscription}\n"
        "url              https://example.com/hooks\n"
        "replay_id        -\n"
        f"made_at          {made_at(pending)}\n"
        "state            pending\n"
        "attempt          1\n"
        "outcome          retry\n"
        "status           503\n"
        "error_class      -\n"
        "error            the receiver answered 503\n"
        "due_at           2026-01-31 09:00:05Z\n"
        "held             -\n"
        "in_flight        no\n"
        "\n"
        "ATTEMPTS\n"
        "ATTEMPT  OUTCOME  STATUS  STARTED AT            DURATION MS  REVISION  DUE AT"
        "                ERROR\n"
        "      1  retry       503  2026-01-31 09:00:00Z           12         1"
        "  2026-01-31 09:00:05Z  the receiver answered 503\n"
        "\n"
        "NEXT\n"
        "Attempt 2 is due at 2026-01-31 09:00:05Z.\n"
        "\n"
        "ANSWER TO ATTEMPT 1\n"
        "server: nginx\\x1b\n"
        "retry-after: 5\n"
        "\n"
        "try later\n"
        "\\x1b[2J\n"
        "\n"
    )
    assert request.startswith("POST https://example.com/hooks\ncontent-type: application/json\n")
    assert f"\nwebhook-id: {event}\nwebhook-timestamp: 1769850000\n" in request
    assert result.stderr.splitlines() == [
        "Not exact: its secret is gone: signed with the secret of now.",
        "The signature is real: whoever sees it can send this request.",
    ]


def test_at_80_columns(cli: Cli, pending: UUID) -> None:
    """On a narrow terminal what does not fit stands below, and no id is cut."""
    out = cli("deliveries", "list", FORCE_COLOR="1", NO_COLOR="1").stdout.splitlines()

    assert out[0] == "ID                                    STATE    ATTEMPT  STATUS  TYPE"
    assert out[1] == f"{pending}  pending        1     503  invoice.paid"
    assert out[2].startswith("    made_at ")


@pytest.mark.parametrize("shape", ["--csv", "--jsonl"])
def test_lists_stream(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, delivered: UUID, pending: UUID, shape: str
) -> None:
    """What was fetched is printed before more is fetched, however much there is."""
    monkeypatch.setattr(listing, "CHUNK", 1)
    told: list[str] = []
    fetch, echo = deliveries.list_deliveries, click.echo

    def fetched(*arguments: Any, **options: Any) -> Any:
        told.append("fetch")
        return fetch(*arguments, **options)

    def printed(line: bytes, **options: Any) -> None:
        told.append("print" if b"invoice.paid" in line else "names")
        echo(line, **options)

    monkeypatch.setattr("outbox.deliveries.list_deliveries", fetched)
    monkeypatch.setattr("outbox.cli.output.click.echo", printed)
    out = cli.out("deliveries", "list", shape)

    assert [each for each in told if each != "names"] == ["fetch", "print"] * 2 + ["fetch"]
    assert out.count("invoice.paid") == 2


def test_phases_are_shown(cli: Cli, committed_db: Database, pending: UUID) -> None:
    """An attempt shows how long each of its phases took, and only those that it had."""
    add_attempt(committed_db, pending, 2, "retry", dns_ms=3, connect_ms=12, first_byte_ms=120)
    out = cli.out("deliveries", "show", str(pending))

    assert "  dns 3, connect 12, first byte 120  " in out


def test_the_same_body_is_shown_once(cli: Cli, committed_db: Database, pending: UUID) -> None:
    """Of answers in a row with one body all headers are shown, and the body once."""
    add_attempt(committed_db, pending, 2, "retry", **REFUSED)
    out = cli.out("deliveries", "show", str(pending))

    assert out.count("try later") == 1
    assert "ANSWER TO ATTEMPT 2\nserver: " in out
    assert "(the same body as before)" in out


def test_the_worker_is_named(cli: Cli, committed_db: Database, pending: UUID) -> None:
    """An attempt says on which host it was made, and by which process."""
    with committed_db.engine.begin() as connection:
        life = value(
            connection,
            "INSERT INTO outbox.worker (host, pid, version) VALUES ('web-1', 42, '0') RETURNING id",
        )
    add_attempt(committed_db, pending, 2, "lost", worker_id=life)

    shown = cli.json("deliveries", "show", str(pending))["attempts"]
    assert [each["worker"] for each in shown] == [None, "web-1, pid 42"]


def test_one_in_flight(cli: Cli, committed_db: Database, event: UUID, subscription: UUID) -> None:
    """While a worker has it, that is what comes next."""
    until = datetime.now(UTC) + timedelta(hours=1)  # noqa: TID251 - leases are real time
    id = add_delivery(committed_db, event, subscription, due_at=NOW, attempt=1, lease_owner=7,
                      lease_until=until)  # fmt: skip

    assert "NEXT\nAttempt 1 is in flight.\n" in cli.out("deliveries", "show", str(id))


def test_a_held_delivery_says_why(cli: Cli, pending: UUID, subscription: UUID) -> None:
    """A delivery of a paused subscription is pending, and held for the reason given."""
    cli.out("subscriptions", "pause", str(subscription), "--reason", "they migrate")
    shown = cli.json("deliveries", "show", str(pending))

    assert (shown["state"], shown["held"]) == ("pending", "paused: they migrate")
    assert "NEXT\nAttempt 2 is held: paused: they migrate\n" in cli.out(
        "deliveries", "show", str(pending)
    )
