"""What exactly goes out: event, subscription, secrets and now become bytes and headers.

A decision without I/O: the worker sends what it returns, a preview shows it. The body
is made of the text that was stored, so it is the same byte for byte at every attempt;
only `webhook-timestamp`, `webhook-signature` and `webhook-attempt` tell attempts apart
(Standard Webhooks 1.0).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from .addresses import ANYWHERE, check_url
from .errors import InvalidInput
from .headers import check_headers
from .signing import secret_key, signature_header
from .version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

USER_AGENT = f"outbox-webhooks/{__version__}"

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Key:
    """A key that signs until `expires_at` (Unix seconds; None: for good)."""

    key: bytes
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Target:
    """A subscription made ready: what all its requests have in common. Keys newest first."""

    url: str
    headers: Headers
    keys: tuple[Key, ...]

    def live_keys(self, now: float) -> list[bytes]:
        """Return the keys that sign at `now` (Unix seconds)."""
        return [k.key for k in self.keys if k.expires_at is None or k.expires_at > now]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it leaves."""

    url: str
    headers: Headers
    body: bytes


def prepare(
    url: str, headers: Mapping[str, str], secrets: Sequence[tuple[str, float | None]]
) -> Target:
    """Return the Target of a subscription; `secrets` are (secret, expires at), newest first.

    Raises InvalidInput if the url, a header or a secret could not be sent or used; whether
    its address is allowed is judged at each connection.
    """
    own = tuple((k.lower().encode(), v.encode()) for k, v in check_headers(headers).items())
    fixed = ((b"content-type", b"application/json"), (b"user-agent", USER_AGENT.encode()))
    keys = tuple(Key(secret_key(secret), expires_at) for secret, expires_at in secrets)
    if not keys:
        raise InvalidInput("secret", "there is none that is still valid")
    return Target(check_url(url, allow=ANYWHERE), (*fixed, *own), keys)


def standard_body(type: str, occurred_at: datetime, data: str) -> bytes:
    """Return the body `{"type", "timestamp", "data"}`, with `data` spliced in as stored.

    A type needs no escaping: its grammar has nothing that JSON would escape.
    """
    moment = occurred_at.astimezone(UTC).isoformat(timespec="microseconds")[:-6]
    return f'{{"type":"{type}","timestamp":"{moment}Z","data":{data}}}'.encode()


def build(
    target: Target,
    body: bytes,
    *,
    event_id: str,
    attempt: int,
    timestamp: int,
    traceparent: str | None = None,
) -> Outgoing:
    """Return the request that attempt `attempt` sends at `timestamp` (Unix seconds).

    Raises InvalidInput when no key is live any more: nothing goes out unsigned.
    """
    id = event_id.encode()
    headers = (
        *target.headers,
        (b"webhook-id", id),
        (b"webhook-timestamp", b"%d" % timestamp),
        (b"idempotency-key", b'"%s"' % id),
        (b"webhook-attempt", b"%d" % attempt),
    )
    signature = signature_header(target.live_keys(timestamp), event_id, timestamp, body)
    headers += ((b"webhook-signature", signature.encode()),)
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent):
        headers += ((b"traceparent", traceparent.encode()),)
    return Outgoing(target.url, headers, body)


_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context
