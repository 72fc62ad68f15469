"""What a format is, and what it is made of."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

Headers = tuple[tuple[bytes, bytes], ...]


class SentEvent(Protocol):
    """What a format reads of an event; `data` is the JSON text as it is stored."""

    @property
    def event_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def tenant(self) -> str | None: ...
    @property
    def subject(self) -> str | None: ...
    @property
    def source(self) -> str | None: ...
    @property
    def data(self) -> str: ...
    @property
    def occurred_at(self) -> datetime: ...


class Format(NamedTuple):
    """How an event becomes a body: `body(event, subscription_id)`, the same at every attempt.

    `headers` go with every body, `event_headers` depend on the event. `user_agent` is sent
    unless the subscription has its own; None is ours. `scheme` is what signs unless the
    subscription says otherwise.
    """

    headers: Headers
    body: Callable[[SentEvent, str], bytes]
    event_headers: Callable[[SentEvent], Headers] | None = None
    user_agent: str | None = None
    scheme: str = "standard"


@lru_cache(maxsize=256)  # the events of one transaction have the same time
def moment(at: datetime, timespec: str = "microseconds") -> str:
    """Return `at` in RFC 3339 with `Z`, cut to `timespec` (seconds, milliseconds, …).

    >>> moment(datetime(2026, 1, 31, 9, tzinfo=UTC), "milliseconds")
    '2026-01-31T09:00:00.000Z'
    """
    return at.astimezone(UTC).isoformat(timespec=timespec)[:-6] + "Z"
