"""What was sent: the request of an attempt, made once more as a worker makes it.

Requests are not stored. The body follows from the event, to the byte; the headers follow
from the revision of the subscription that the attempt used, and from secrets. Where one of
these is not there any more, a note says in what the request may differ from the one that
went out. `host` and `content-length` are added by whoever sends it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from . import secrets, subscriptions
from .errors import InvalidInput, NotFound
from .events import show_event
from .keyring import Keyring
from .previews import as_claimed
from .request import Outgoing, build, prepare
from .tables import subscription_change

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Connection

    from .deliveries import Attempt, Delivery
    from .previews import ClaimedEvent
    from .subscriptions import Subscription

    Key = tuple[str, float | None]  # a secret, and until when it signs

REVISION_UNKNOWN = "which revision it used is not on record: made with the subscription of now"
TIME_UNKNOWN = "when it began is not on record: made with the time of now"
SECRETS_CHANGED = "secrets were changed since: its signature may have been another"
SIGNED_ANEW = "its secret is gone: signed with the secret of now"
UNSIGNED = "made without its signature, for want of a secret"


@dataclass(frozen=True, slots=True)
class Sent:
    """The request of attempt number `attempt`; `notes` say in what it may not be exact.

    `own` are the lower-case names of the headers that the subscription itself put in, which
    may be credentials.
    """

    attempt: int
    revision: int
    outgoing: Outgoing
    own: frozenset[str]
    notes: tuple[str, ...] = ()


def request_of(
    connection: Connection,
    delivery: Delivery,
    attempts: Sequence[Attempt],
    number: int | None = None,
    *,
    now: float,
    keyring: Keyring | None = None,
) -> Sent:
    """Return what attempt `number` sent, or else the last; if there was none, what will be sent.

    `attempts` are all there are of the delivery. `now` (Unix seconds) stands in for a time
    that is not on record. `keyring` opens the secrets, or else that of OUTBOX_SECRET_KEY.
    Raises NotFound when there is no such attempt, or the event is not kept any more.
    """
    made = _requests(attempts)
    if number is None and not made:
        return next_request(connection, delivery, now=now, keyring=keyring)
    number = max(made) if number is None else number
    if number not in made:
        raise NotFound("attempt", str(number))
    return _rebuild(connection, delivery, made[number], now, keyring)


def next_request(
    connection: Connection, delivery: Delivery, *, now: float, keyring: Keyring | None = None
) -> Sent:
    """Return what one attempt more would send, were it made at `now` (Unix seconds)."""
    event = as_claimed(show_event(connection, delivery.event_id))
    used = subscriptions.show(connection, delivery.subscription_id)
    keys, lacking = _keys(connection, used, None, keyring)
    return _made(used, keys, event, delivery.attempts + 1, now, lacking)


def _requests(attempts: Iterable[Attempt]) -> dict[int, Attempt]:
    """Return the attempts that were requests, by number: of each the row that tells most."""
    found: dict[int, Attempt] = {}
    for each in attempts:
        known = found.get(each.attempt)
        if each.outcome != "cancelled" and (known is None or known.started_at is None):
            found[each.attempt] = each
    return found


def _rebuild(
    connection: Connection,
    delivery: Delivery,
    attempt: Attempt,
    now: float,
    keyring: Keyring | None,
) -> Sent:
    notes = []
    used = _used(connection, delivery.subscription_id, attempt.revision)
    if used is None:
        used = subscriptions.show(connection, delivery.subscription_id)
        notes.append(REVISION_UNKNOWN)
    elif _secrets_changed(connection, used):
        notes.append(SECRETS_CHANGED)
    if attempt.started_at is None:
        notes.append(TIME_UNKNOWN)
    keys, lacking = _keys(connection, used, attempt.started_at, keyring)
    timestamp = now if attempt.started_at is None else attempt.started_at.timestamp()
    event = as_claimed(show_event(connection, delivery.event_id))
    return _made(used, keys, event, attempt.attempt, timestamp, (*notes, *lacking))


def _used(connection: Connection, id: UUID, revision: int | None) -> Subscription | None:
    """Return subscription `id` with the request that it had at a revision, None if unknown."""
    query = select(subscription_change.c.after).where(
        subscription_change.c.subscription_id == id, subscription_change.c.revision == revision
    )
    after = connection.execute(query).scalar()
    if revision is None or after is None:
        return None
    current = subscriptions.show(connection, id)
    known = {name: after[name] for name in _SHAPE if name in after}
    known["schemes"] = tuple(known.get("schemes", ("standard",)))
    if known["headers"] == current.headers:  # whose order jsonb has not kept
        del known["headers"]
    return replace(current, revision=revision, **known)


_SHAPE = ("url", "method", "format", "schemes", "headers", "user_agent")


def _secrets_changed(connection: Connection, used: Subscription) -> bool:
    query = select(subscription_change.c.id).where(
        subscription_change.c.subscription_id == used.id,
        subscription_change.c.revision > used.revision,
        subscription_change.c.change.in_(("rotated", "removed")),
    )
    return connection.execute(query).first() is not None


def _keys(
    connection: Connection, used: Subscription, at: datetime | None, keyring: Keyring | None
) -> tuple[list[Key], tuple[str, ...]]:
    """Return the secrets that were live at a moment, or else now; and what there is to note."""
    if "none" in used.schemes:
        return [], ()
    notes: tuple[str, ...] = ()
    found = secrets.live(connection, used.id, at=at)
    if at is not None and not found:
        found, notes = secrets.live(connection, used.id), (SIGNED_ANEW,)
    try:
        ring = keyring or Keyring.read()
        keys = [(ring.open(each, subscription_id=used.id), each.expires_at) for each in found]
    except InvalidInput as error:
        return [], (f"{UNSIGNED}: {error}",)
    return keys, notes if keys else (UNSIGNED,)


def _made(
    used: Subscription,
    keys: Sequence[Key],
    event: ClaimedEvent,
    number: int,
    timestamp: float,
    notes: tuple[str, ...],
) -> Sent:
    target = prepare(
        str(used.id),
        used.url,
        keys,
        headers=used.headers,
        method=used.method,
        format=used.format,
        schemes=used.schemes if keys else ("none",),
        user_agent=used.user_agent,
    )
    outgoing = build(target, event, attempt=number, timestamp=int(timestamp))
    own = frozenset(name.lower() for name in used.headers)
    return Sent(number, used.revision, outgoing, own, notes)
