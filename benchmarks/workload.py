"""What the benchmarks send: the same invoice, over and over, of about 300 bytes."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from outbox import Event
from outbox.encoding import encode
from outbox.events import MAX_BYTES
from outbox.request import Outgoing, build, prepare
from outbox.signing import new_secret

TYPE = "invoice.paid"


def events(count: int) -> list[Event]:
    """Return `count` events as a host would emit them."""
    return [Event(type=TYPE, data=_invoice(number)) for number in range(count)]


@dataclass(frozen=True, slots=True)
class _Event:
    """An event as a worker claims it."""

    event_id: str
    data: str
    occurred_at: datetime
    type: str = TYPE
    tenant: str | None = None
    subject: str | None = None
    source: str | None = None
    traceparent: str | None = None


def requests(url: str, count: int) -> list[Outgoing]:
    """Return the requests that such events become: as large, to the byte, as a worker's."""
    target = prepare(str(uuid4()), url, [(new_secret(secrets.token_bytes(32)), None)], headers={})
    moment, timestamp = datetime.fromtimestamp(time.time(), UTC), int(time.time())
    made = (encode(_invoice(number), max_bytes=MAX_BYTES) for number in range(count))
    return [
        build(target, _Event(str(uuid4()), data, moment), attempt=1, timestamp=timestamp)
        for data in made
    ]


def _invoice(number: int) -> dict[str, object]:
    return {
        "id": f"in_{number:010}",
        "customer": "cus_4QFJOjw2pOmAGJ",
        "currency": "eur",
        "amount": 129_900,
        "lines": [
            {"description": "Subscription, team plan, monthly", "quantity": 12, "amount": 118_800},
            {"description": "Support, hours", "quantity": 1, "amount": 11_100},
        ],
    }
