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
from outbox.request import Outgoing, Target, build, prepare
from outbox.signing import new_secret

TYPE = "invoice.paid"


def events(count: int, first: int = 0) -> list[Event]:
    """Return `count` events as a host would emit them, numbered from `first`."""
    return [Event(type=TYPE, data=invoice(number)) for number in range(first, first + count)]


def urls(receiver: str, fan_out: int) -> list[str]:
    """Return the url of each of so many subscriptions, which tells the receiver whose it is."""
    return [receiver] if fan_out == 1 else [f"{receiver}/{number}" for number in range(fan_out)]


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


def requests(receiver: str, count: int, fan_out: int = 1) -> list[Outgoing]:
    """Return `count` requests that such events become: as large, to the byte, as a worker's."""
    targets = [_target(url) for url in urls(receiver, fan_out)]
    moment, timestamp = datetime.fromtimestamp(time.time(), UTC), int(time.time())
    made = []
    for number in range(-(-count // fan_out)):
        data = encode(invoice(number), max_bytes=MAX_BYTES)
        event = _Event(str(uuid4()), data, moment)
        made += [build(target, event, attempt=1, timestamp=timestamp) for target in targets]
    return made[:count]


def _target(url: str) -> Target:
    secret = new_secret(secrets.token_bytes(32))
    return prepare(str(uuid4()), url, [(secret, None)], headers={})


def invoice(number: int) -> dict[str, object]:
    """Return the data of one event, of about 300 bytes."""
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
