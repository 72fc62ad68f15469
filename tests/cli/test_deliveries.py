"""`outbox deliveries`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from .rows import add_attempt, add_delivery, add_event, add_subscription

if TYPE_CHECKING:
    from uuid import UUID

    from tests.databases import Database

    from .conftest import Cli

NO_PHASES = dict.fromkeys(("dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "body_ms"))

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
REFUSED: dict[str, Any] = {
    "worker_id": 7, "revision": 1, "started_at": NOW, "duration_ms": 12, "status": 503,
    "error": "the receiver answered 503", "due_at": NOW + timedelta(seconds=5),
    "response_body": b"try later\n\x1b[2J", "recorded_at": NOW,
}  # fmt: skip
ACCEPTED: dict[str, Any] = {
    "worker_id": 7, "revision": 1, "started_at": NOW + timedelta(seconds=5), "duration_ms": 8,
    **NO_PHASES,
    "status": 200, "recorded_at": NOW,
}  # fmt: skip


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
        "          DUE AT                URL                        ERROR\n"
        f"{pending}  pending          1     503  invoice.paid"
        "  2026-01-31 09:00:05Z  https://example.com/hooks  the receiver answered 503\n"
        f"{delivered}  delivered        2     200  invoice.paid"
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
    """A delivery and its attempts have the names of the database."""
    assert cli.json("deliveries", "show", str(delivered)) == {
        "id": str(delivered),
        "event_id": str(event),
        "type": "invoice.paid",
        "subscription_id": str(subscription),
        "url": "https://example.com/hooks",
        "state": "delivered",
        "attempt": 2,
        "due_at": None,
        "held": None,
        "in_flight": False,
        "status": 200,
        "error": None,
        "attempts": [
            {
                "delivery_id": str(delivered),
                "attempt": 1,
                "outcome": "retry",
                "worker_id": 7,
                "revision": 1,
                "started_at": "2026-01-31T09:00:00Z",
                "duration_ms": 12,
                **NO_PHASES,
                "status": 503,
                "error_class": None,
                "error": "the receiver answered 503",
                "response_headers": None,
                "response_body": "try later\n\x1b[2J",
                "due_at": "2026-01-31T09:00:05Z",
                "recorded_at": "2026-01-31T09:00:00Z",
            },
            {
                "delivery_id": str(delivered),
                "attempt": 2,
                "outcome": "delivered",
                "worker_id": 7,
                "revision": 1,
                "started_at": "2026-01-31T09:00:05Z",
                "duration_ms": 8,
                **NO_PHASES,
                "status": 200,
                "error_class": None,
                "error": None,
                "response_headers": None,
                "response_body": None,
                "due_at": None,
                "recorded_at": "2026-01-31T09:00:00Z",
            },
        ],
    }


def test_show_for_a_person(cli: Cli, pending: UUID, event: UUID, subscription: UUID) -> None:
    """The whole page: fields, attempts, and what was kept of the responses, made harmless."""
    assert cli.out("deliveries", "show", str(pending)) == (
        f"id               {pending}\n"
        f"event_id         {event}\n"
        "type             invoice.paid\n"
        f"subscription_id  {subscription}\n"
        "url              https://example.com/hooks\n"
        "state            pending\n"
        "attempt          1\n"
        "due_at           2026-01-31 09:00:05Z\n"
        "held             -\n"
        "in_flight        no\n"
        "status           503\n"
        "error            the receiver answered 503\n"
        "\n"
        "ATTEMPTS\n"
        "ATTEMPT  OUTCOME  STATUS  STARTED AT            DURATION MS  DUE AT"
        "                ERROR\n"
        "      1  retry       503  2026-01-31 09:00:00Z           12  2026-01-31 09:00:05Z"
        "  the receiver answered 503\n"
        "\n"
        "RESPONSE TO ATTEMPT 1\n"
        "try later\n"
        "\\x1b[2J\n"
    )


def test_phases_are_shown(cli: Cli, committed_db: Database, pending: UUID) -> None:
    """An attempt shows how long each of its phases took, and only those that it had."""
    add_attempt(committed_db, pending, 2, "retry", dns_ms=3, connect_ms=12, first_byte_ms=120)
    out = cli.out("deliveries", "show", str(pending))

    assert "  dns 3, connect 12, first byte 120  " in out


def test_the_same_response_is_shown_once(cli: Cli, committed_db: Database, pending: UUID) -> None:
    """Attempts in a row that were answered alike share one body."""
    add_attempt(committed_db, pending, 2, "retry", **REFUSED)
    out = cli.out("deliveries", "show", str(pending))

    assert out.count("try later") == 1
    assert "RESPONSE TO ATTEMPT 1, 2\n" in out


def test_a_held_delivery_says_why(cli: Cli, pending: UUID, subscription: UUID) -> None:
    """A delivery of a paused subscription is pending, and held for the reason given."""
    cli.out("subscriptions", "pause", str(subscription), "--reason", "they migrate")
    shown = cli.json("deliveries", "show", str(pending))

    assert (shown["state"], shown["held"]) == ("pending", "paused: they migrate")
