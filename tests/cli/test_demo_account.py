"""The account of the demo fits only if the three logs do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from outbox.cli.demo_account import Line, Stored, settle
from outbox.cli.demo_host import Sale
from outbox.cli.demo_receiver import Log, Received
from outbox.deliveries import Attempt, Delivery

CREATED, PAID, ROLLED_BACK, STRANGER = (UUID(int=n) for n in range(1, 5))
ALL, ONE = "http://127.0.0.1:1/", "http://127.0.0.1:2/"
SALES = [
    Sale(kept={CREATED: "invoice.created", PAID: "invoice.paid"}),
    Sale(taken_back={ROLLED_BACK: "invoice.created"}),
]


def delivery(event: UUID, url: str, state: str = "delivered") -> Delivery:
    """A delivery of an event."""
    return Delivery(
        id=event, event_id=event, type="", tenant=None, subject=None, subscription_id=event,
        url=url, replay_id=None, made_at=datetime(2026, 1, 31, tzinfo=UTC), state=state,
        attempts=1, outcome=None, status=None, error_class=None, error=None, due_at=None,
        held=None, in_flight=False,
    )  # fmt: skip


def attempt(outcome: str) -> Attempt:
    """An attempt with an outcome."""
    return Attempt(
        delivery_id=PAID, attempt=1, outcome=outcome, worker_id=1, revision=1, started_at=None,
        duration_ms=None, dns_ms=None, connect_ms=None, tls_ms=None, first_byte_ms=None,
        body_ms=None, status=None, error_class=None, error=None, response_headers=None,
        response_body=None,
        due_at=None, recorded_at=datetime(2026, 1, 31, tzinfo=UTC),
    )  # fmt: skip


def ok(event: UUID) -> Received:
    """A request that was accepted."""
    return Received(str(event), verified=True, status=204)


REFUSED = Received(str(PAID), verified=True, status=503)
STORED = Stored(
    invoices=1,
    events=[CREATED, PAID],
    deliveries=[delivery(CREATED, ALL), delivery(PAID, ALL), delivery(PAID, ONE)],
    attempts=[attempt(o) for o in ("delivered", "delivered", "retry", "delivered")],
)
LOGS = [
    Log(ALL, "invoice.*", [ok(CREATED), ok(PAID)]),
    Log(ONE, "invoice.paid", [REFUSED, ok(PAID)]),
]


def heard(*requests: Received) -> list[Log]:
    """The logs, when the second receiver heard this."""
    return [LOGS[0], replace(LOGS[1], requests=list(requests))]


def test_what_fits() -> None:
    """The whole account of a run in which all went well."""
    assert settle(SALES, STORED, LOGS) == [
        Line("invoices committed", 1, 1, None, fits=True),
        Line("events committed", 2, 2, 2, fits=True),
        Line("events rolled back", 1, 0, 0, fits=True),
        Line("deliveries, by the patterns", 3, 3, 3, fits=True),
        Line("ended delivered", 3, 3, 3, fits=True),
        Line("attempts, requests", None, 4, 4, fits=True),
        Line("  delivered, answered 204", None, 3, 3, fits=True),
        Line("  retry, answered 503", None, 1, 1, fits=True),
        Line("signatures verified", None, None, 4, fits=True),
        Line("duplicates", None, None, 0, fits=True),
    ]


WRONG = {
    "an invoice is missing": (replace(STORED, invoices=0), LOGS, {"invoices committed"}),
    "an event is missing": (replace(STORED, events=[PAID]), LOGS, {"events committed"}),
    "an event is another": (replace(STORED, events=[PAID, STRANGER]), LOGS, {"events committed"}),
    "an event was not rolled back": (
        replace(STORED, events=[CREATED, PAID, ROLLED_BACK]),
        LOGS,
        {"events committed", "events rolled back"},
    ),
    "a delivery is missing": (
        replace(STORED, deliveries=STORED.deliveries[:2]),
        LOGS,
        {"deliveries, by the patterns", "ended delivered"},
    ),
    "a delivery went to the wrong receiver": (
        replace(STORED, deliveries=[*STORED.deliveries[:2], delivery(CREATED, ONE)]),
        LOGS,
        {"deliveries, by the patterns", "ended delivered"},
    ),
    "a delivery is there twice": (
        replace(STORED, deliveries=[*STORED.deliveries, delivery(PAID, ONE)]),
        LOGS,
        {"deliveries, by the patterns", "ended delivered"},
    ),
    "a delivery is open": (
        replace(STORED, deliveries=[*STORED.deliveries[:2], delivery(PAID, ONE, "pending")]),
        LOGS,
        {"ended delivered"},
    ),
    "an attempt is not on record": (
        replace(STORED, attempts=STORED.attempts[:3]),
        LOGS,
        {"attempts, requests", "delivered, answered 204"},
    ),
    "an attempt has another outcome": (
        replace(STORED, attempts=[*STORED.attempts[:3], attempt("lost")]),
        LOGS,
        {"delivered, answered 204"},
    ),
    "what was rolled back arrived": (
        STORED,
        heard(REFUSED, ok(PAID), ok(ROLLED_BACK)),
        {
            "events committed", "events rolled back", "deliveries, by the patterns",
            "ended delivered", "attempts, requests", "delivered, answered 204",
        },
    ),
    "a signature does not verify": (
        STORED,
        heard(replace(REFUSED, verified=False), ok(PAID)),
        {"signatures verified"},
    ),
    "an event came twice": (
        STORED,
        heard(REFUSED, ok(PAID), replace(ok(PAID), again=True)),
        {"attempts, requests", "delivered, answered 204", "duplicates"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("stored", "logs", "expected"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit(stored: Stored, logs: list[Log], expected: set[str]) -> None:
    """Each kind of mistake shows in its own lines and in no other."""
    lines = settle(SALES, stored, logs)

    assert {line.what.strip() for line in lines if not line.fits} == expected


def test_patterns_of_receivers() -> None:
    """A receiver knows by itself what it wants, without asking the database."""
    assert Log(ALL, "invoice.*").wants("invoice.paid")
    assert not Log(ALL, "invoice.*").wants("user.created")
    assert Log(ALL, "invoice.paid").wants("invoice.paid")
    assert not Log(ALL, "invoice.paid").wants("invoice.paid.late")
