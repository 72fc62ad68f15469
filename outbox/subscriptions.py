"""Who wants to know: webhooks, as they are now, and every change to them.

Each function works in the caller's transaction and writes the change as a fact beside
it: who made it, from which command, and what the subscription was afterwards.

    with engine.begin() as connection:
        added, secret = subscriptions.add(connection, url, ["invoice.*"], by=Author("ada", "setup"))
        subscriptions.update(connection, added.id, by=Author("ada", "setup"), rate=50)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    Delete,
    Text,
    Uuid,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import insert as insert_or_not

from . import secrets
from .addresses import ANYWHERE, PUBLIC
from .errors import InvalidInput
from .filters import check_filter
from .keyring import Keyring
from .subscription_changes import (
    COLUMNS,
    Author,
    Change,
    Subscription,
    from_row,
    history,
    lock,
    record,
    show,
    write,
)
from .subscription_settings import Settings, as_dict, changed, check, columns, differences
from .subscription_states import (
    STANDING,
    cancel_open,
    disable,
    pause,
    remove,
    resume,
    unblock,
)
from .tables import subscription, subscription_type, throttle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from sqlalchemy import Connection

    from .addresses import Allowed
    from .subscription_settings import Difference

__all__ = [
    "Author", "Change", "Changed", "Settings", "Subscription", "add", "add_wanted", "cancel_open",
    "disable", "history", "list_subscriptions", "pause", "remove", "resume", "rotate_secret",
    "show", "unblock", "update",
]  # fmt: skip

DAY = 24 * 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Changed:
    """What an update did. `secret` is a new one, if it needed one: it is not shown again."""

    before: Subscription
    after: Subscription
    secret: str | None = None

    @property
    def differs(self) -> list[Difference]:
        """What is not as it was."""
        return differences(as_dict(self.before), as_dict(self.after))


def add(
    connection: Connection,
    url: str,
    types: Sequence[str],
    *,
    by: Author,
    name: str | None = None,
    tenant: str | None = None,
    filter: str | None = None,
    method: str = "POST",
    format: str = "standard",
    schemes: Sequence[str] | None = None,
    headers: Mapping[str, str] | None = None,
    user_agent: str | None = None,
    timeout: float | None = None,
    schedule: Sequence[float] | None = None,
    max_age: float | None = None,
    max_in_flight: int | None = None,
    rate: float | None = None,
    burst: int | None = None,
    ordered: str | None = None,
    secret_text: str | None = None,
    keyring: Keyring | None = None,
    allow: Allowed = PUBLIC,
) -> tuple[Subscription, str | None]:
    """Add a subscription and return it with its secret, which is not shown again.

    `name` is unique among those not removed. Without `tenant` it gets the events of every
    tenant. `filter` is an SQL/JSON path over the data. `schedule` is the seconds before each
    attempt, `timeout` those that one may take, `max_age` those after which a delivery is
    dead. Without `schemes` the format's own signs, which is `standard` for all but `logto`.
    Without `secret_text` a new `whsec_` secret is made; the scheme `none` has none. It is
    sealed with `keyring`, or else with that of OUTBOX_SECRET_KEY.

    The limits hold for all workers together: `max_in_flight` requests at once, `rate` a
    second and in no second more than `burst` above it, `ordered` ("stop" or "skip" what is dead)
    for one event of a subject after the other. `allow` is what the operator allows besides
    public addresses (`addresses.parse_allow`). Raises InvalidInput.
    """
    wanted = Settings(
        name=name, tenant=tenant, url=url, types=tuple(types), filter=filter, method=method,
        format=format, schemes=tuple(schemes or ()), headers=headers or {}, user_agent=user_agent,
        timeout=timeout, schedule=None if schedule is None else tuple(schedule), max_age=max_age,
        max_in_flight=max_in_flight, rate=rate, burst=burst, ordered=ordered,
    )  # fmt: skip
    return add_wanted(
        connection, wanted, by=by, secret_text=secret_text, keyring=keyring, allow=allow
    )


def add_wanted(
    connection: Connection,
    wanted: Settings,
    *,
    by: Author,
    secret_text: str | None = None,
    keyring: Keyring | None = None,
    allow: Allowed = PUBLIC,
) -> tuple[Subscription, str | None]:
    """Add a subscription that is as `wanted`; all else is as `add` says."""
    wanted = check(wanted, allow=allow)
    secret_text = secrets.chosen(secret_text, wanted.schemes)
    if wanted.filter is not None:
        check_filter(connection, wanted.filter)
    row = insert_or_not(subscription).values(columns(wanted)).on_conflict_do_nothing()
    id = connection.execute(row.returning(subscription.c.id)).scalar()
    if id is None:
        raise _taken(wanted)
    _write_types(connection, id, wanted)
    if secret_text is not None:
        secrets.store(connection, keyring or Keyring.read(), id, secret_text)
    if wanted.limited:
        connection.execute(insert(throttle), {"subscription_id": id})
    return record(connection, id, "added", by), secret_text


def update(
    connection: Connection,
    id: UUID,
    *,
    by: Author,
    secret_text: str | None = None,
    keyring: Keyring | None = None,
    allow: Allowed = PUBLIC,
    **changes: Any,
) -> Changed:
    """Change what is given of the settings that `add` takes, and nothing else.

    None makes a setting what it is without it. Where nothing changes, nothing is written.
    Deliveries that are open go by the new settings from their next attempt on; what was
    fanned out stays so. If the schemes come to be such that no secret fits, it gets a new
    one, or `secret_text`, beside those it has. Raises InvalidInput, NotFound, WrongState.

        subscriptions.update(connection, id, by=me, url="https://example.com/new", rate=None)
    """
    before = lock(connection, id, STANDING, "changed")
    wanted = changed(before.settings, changes)
    wanted = check(wanted, allow=ANYWHERE if wanted.url == before.url else allow)
    if wanted.schemes == before.schemes and secret_text is not None:
        raise InvalidInput("secret", secrets.FITS)
    if wanted == before.settings:
        return Changed(before, before)
    if wanted.filter is not None and wanted.filter != before.filter:
        check_filter(connection, wanted.filter)
    _check_name_is_free(connection, wanted, before)
    write(connection, id, columns(wanted))
    if (wanted.types, wanted.tenant) != (before.types, before.tenant):
        connection.execute(_types_of(id))
        _write_types(connection, id, wanted)
    if _limits(wanted) != _limits(before.settings):
        _follow_limits(connection, id, before.settings)
    if wanted.schemes != before.schemes:
        ring = keyring or Keyring.read()
        secret_text = secrets.fit(connection, ring, id, wanted.schemes, secret_text)
    return Changed(before, record(connection, id, "updated", by), secret_text)


def _check_name_is_free(connection: Connection, wanted: Settings, before: Subscription) -> None:
    if wanted.name is None or wanted.name == before.name:
        return
    columns = subscription.c
    taken = select(columns.id).where(columns.name == wanted.name, columns.state != "removed")
    if connection.execute(taken).first() is not None:
        raise _taken(wanted)


def _taken(wanted: Settings) -> InvalidInput:
    return InvalidInput("name", f"{wanted.name} is the name of another subscription")


def _write_types(connection: Connection, id: UUID, wanted: Settings) -> None:
    pattern = {"tenant": wanted.tenant or "", "subscription_id": id}
    connection.execute(insert(subscription_type), [{"pattern": p, **pattern} for p in wanted.types])


def _types_of(id: UUID) -> Delete:
    return delete(subscription_type).where(subscription_type.c.subscription_id == id)


def _limits(settings: Settings) -> tuple[object, ...]:
    return settings.max_in_flight, settings.rate, settings.burst, settings.ordered


def _follow_limits(connection: Connection, id: UUID, before: Settings) -> None:
    """Let what is open follow the limits as they are now."""
    done = func.outbox.follow_limits(
        cast(id, Uuid), literal(before.limited, Boolean), cast(before.ordered, Text)
    )
    connection.execute(select(cast(done, Text)))


def list_subscriptions(
    connection: Connection, *, tenant: str | None = None, removed: bool = False
) -> list[Subscription]:
    """Return all subscriptions, oldest first; those of `tenant` alone if it is given."""
    query = select(*COLUMNS).order_by(subscription.c.id)
    if tenant is not None:
        query = query.where(subscription.c.tenant == tenant)
    if not removed:
        query = query.where(subscription.c.state != "removed")
    return [from_row(row) for row in connection.execute(query).mappings()]


def rotate_secret(
    connection: Connection,
    id: UUID,
    *,
    by: Author,
    overlap: float = DAY,
    secret_text: str | None = None,
    keyring: Keyring | None = None,
) -> tuple[Subscription, str]:
    """Give it a new secret and return it with that, which is not shown again.

    The old ones go on signing beside it for `overlap` seconds, at most 10 in all. Without
    `secret_text` one of the kind of the newest is made. Raises InvalidInput.
    """
    schemes = lock(connection, id, STANDING, "given a new secret").schemes
    new = secrets.rotate(
        connection, keyring or Keyring.read(), id, schemes, secret_text, overlap=overlap
    )
    write(connection, id, {})
    return record(connection, id, "rotated", by), new
