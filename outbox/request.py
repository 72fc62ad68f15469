"""What exactly goes out: event, subscription, secrets and now become bytes and headers.

A decision without I/O: the worker sends what it returns, a preview shows it. The body
is made of what was stored, so it is the same byte for byte at every attempt; only
`webhook-timestamp`, `webhook-attempt` and the signatures tell attempts apart (Standard
Webhooks 1.0). What the requests of a subscription have in common is made once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .addresses import ANYWHERE, check_url
from .errors import InvalidInput
from .formats import FORMATS, SentEvent
from .headers import check_headers, check_user_agent
from .schemes import check_schemes, header_names, signature
from .version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .formats import Format, Headers
    from .schemes import Sign

USER_AGENT = f"outbox-webhooks/{__version__}"


class TracedEvent(SentEvent, Protocol):
    """What a request needs of an event: what its format reads, and the trace it belongs to."""

    @property
    def traceparent(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """A subscription made ready: what all its requests have in common.

    `signing` has what signs, by the Unix time until which it does: at each of them one
    secret less is live.
    """

    subscription_id: str
    url: str
    method: str
    headers: Headers
    format: Format
    signing: tuple[tuple[float, Sign], ...]

    def sign_at(self, now: float) -> Sign | None:
        """Return what signs at `now` (Unix seconds), None if no secret is live any more."""
        for until, sign in self.signing:
            if now < until:
                return sign
        return None


class Outgoing(NamedTuple):
    """A request as it leaves."""

    url: str
    headers: Headers
    body: bytes
    method: str = "POST"


def prepare(
    subscription_id: str,
    url: str,
    secrets: Sequence[tuple[str, float | None]],
    *,
    headers: Mapping[str, str],
    method: str = "POST",
    format: str = "standard",
    schemes: Sequence[str] = ("standard",),
    user_agent: str | None = None,
) -> Target:
    """Return the Target of a subscription; `secrets` are (secret, expires at), newest first.

    Raises InvalidInput if the url, a header or a secret could not be sent or used; whether
    its address is allowed is judged at each connection.
    """
    check_choices(headers, format=format, schemes=schemes, user_agent=user_agent)
    chosen = FORMATS[format]
    agent = user_agent or chosen.user_agent or USER_AGENT
    own = tuple((name.lower().encode(), value.encode()) for name, value in headers.items())
    return Target(
        subscription_id,
        check_url(url, allow=ANYWHERE),
        method,
        (*chosen.headers, (b"user-agent", agent.encode()), *own),
        chosen,
        _signing(schemes, secrets),
    )


def check_choices(
    headers: Mapping[str, str],
    *,
    format: str,
    schemes: Sequence[str] | None,
    user_agent: str | None,
) -> None:
    """Raise InvalidInput unless a subscription may have these, and all of them together.

    `schemes` of None are the format's own.
    """
    if format not in FORMATS:
        raise InvalidInput("format", f"must be one of {', '.join(FORMATS)}")
    signed = header_names(check_schemes(schemes or (FORMATS[format].scheme,)))
    for name in check_headers(headers):
        if name.lower() in signed:
            raise InvalidInput("header", f"{name} is set by the scheme that signs")
    if user_agent is not None:
        check_user_agent(user_agent)


def _signing(
    schemes: Sequence[str], secrets: Sequence[tuple[str, float | None]]
) -> tuple[tuple[float, Sign], ...]:
    ends = [float("inf") if end is None else end for _, end in secrets]
    if "none" in schemes:
        ends = [float("inf")]
    if not ends:
        raise InvalidInput("secret", "there is none that is still valid")
    return tuple((until, signature(schemes, _live(secrets, until))) for until in sorted({*ends}))


def _live(secrets: Sequence[tuple[str, float | None]], until: float) -> list[str]:
    return [secret for secret, end in secrets if end is None or end >= until]


def build(target: Target, event: TracedEvent, *, attempt: int, timestamp: int) -> Outgoing:
    """Return the request that attempt `attempt` sends at `timestamp` (Unix seconds).

    Raises InvalidInput when no secret is live any more: nothing goes out unsigned.
    """
    sign = target.sign_at(timestamp)
    if sign is None:
        raise InvalidInput("secret", "there is none that is still valid")
    id, seconds = event.event_id.encode(), b"%d" % timestamp
    body = target.format.body(event, target.subscription_id)
    headers = (
        *target.headers,
        (b"webhook-id", id),
        (b"webhook-timestamp", seconds),
        (b"idempotency-key", b'"%s"' % id),
        (b"webhook-attempt", b"%d" % attempt),
        *sign(id, seconds, body),
    )
    if target.format.event_headers is not None:
        headers += target.format.event_headers(event)
    if event.traceparent is not None and _TRACEPARENT.fullmatch(event.traceparent):
        headers += ((b"traceparent", event.traceparent.encode()),)
    return Outgoing(target.url, headers, body, target.method)


_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context
