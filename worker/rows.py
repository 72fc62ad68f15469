"""What the statements take and return: the words of the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from outbox.keyring import StoredSecret

    from .claim import Claim


class Life(NamedTuple):
    """A process life as it is on record."""

    id: int
    host: str
    pid: int
    version: str
    started_at: datetime


class Heartbeat(NamedTuple):
    """What the database answers: the schema's version, and whether it knows this life.

    Of the `workers` that live, this one has the place `place`, from 0.
    """

    version: int
    known: bool
    place: int
    workers: int


@dataclass(frozen=True, slots=True)
class FannedOut:
    """What one fan-out did: `lanes` got deliveries, and so did those that have limits.

    `heads` are the subjects of ordered ones that may go; `error` is why its event was set
    aside.
    """

    events: int
    deliveries: int
    lanes: list[str]
    limited: list[str]
    heads: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane of the sweep: in `due_in` seconds its next free delivery is due (None: none is)."""

    subscription_id: str
    due_in: float | None
    limited: bool


@dataclass(frozen=True, slots=True)
class LimitedClaims:
    """Claims from lanes that have limits.

    `full` lanes have as much in flight as they may; those of `waits` may have the next
    request in so many seconds; `busy` ones are in another worker's hand just now.
    """

    claims: list[Claim]
    full: set[str] = field(default_factory=set)
    waits: dict[str, float] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A subscription as it is to be sent to. Its live secrets are newest first, as stored."""

    subscription_id: str
    revision: int
    url: str
    method: str
    format: str
    schemes: tuple[str, ...]
    headers: dict[str, str]
    user_agent: str | None
    timeout: float | None
    schedule: tuple[float, ...] | None
    max_age: float | None
    secrets: list[StoredSecret]


class Result(NamedTuple):
    """What an attempt came to, as it is recorded.

    `counts` is whether a failure moves the delivery on in its schedule; `delay` is the
    seconds until the next attempt. `started_at` is in Unix seconds, `response_headers` is
    a JSON object.
    """

    delivery_id: str
    attempt: int
    outcome: str
    counts: bool
    delay: float | None
    revision: int
    started_at: float
    duration_ms: int
    status: int | None
    error_class: str | None
    error: str | None
    response_body: bytes | None
    dns_ms: int | None = None
    connect_ms: int | None = None
    tls_ms: int | None = None
    first_byte_ms: int | None = None
    body_ms: int | None = None
    response_headers: str | None = None
    limited: bool = False  # its claim counts against a limit of its subscription
    operational: bool = False  # its event is one of ours: its fate makes no other


class Gone(NamedTuple):
    """Why a subscription is to be disabled, and whether the operator is told of it."""

    reason: str
    tell: bool


class Recorded(NamedTuple):
    """What the database made of a Result: `late` when the claim was lost before."""

    delivery_id: str
    attempt: int
    outcome: str
    due_in: float | None


class RunningReplay(NamedTuple):
    """A replay in hand: whom it is for, where its cursor stands, what its bucket holds.

    Its tokens are those of `seconds` before `at`.
    """

    mode: str
    subscription_id: str | None
    type: str | None
    tenant: str | None
    subject: str | None
    rate: float | None
    created_at: datetime
    after_event: str
    after_subscription: str
    last_event: str
    tokens: float
    at: datetime
    seconds: float
    is_new: bool


class LaneApart(NamedTuple):
    """A lane that a replay has set apart: behind `after_event` it goes on, if it is active."""

    subscription_id: str
    after_event: str
    state: str


class Fullness(NamedTuple):
    """How full a lane is: what is open, what of it waits to be claimed, the first for how long."""

    subscription_id: str
    is_active: bool
    limited: bool
    open: int
    waiting: int
    seconds: float
