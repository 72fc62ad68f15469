"""The secrets of subscriptions, as they are stored: added, read, sealed anew, expired."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from secrets import token_bytes
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import and_, delete, extract, func, insert, or_, select, update

from .errors import InvalidInput
from .keyring import KEY_RULE, VARIABLE, Keyring, StoredSecret
from .schemes import check_secret, signature
from .signing import PRIVATE_PREFIX, new_private_key, new_secret
from .tables import secret as table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection

BATCH = 500
MAX_LIVE = 10
FITS = "it has one that signs; `subscriptions rotate-secret` gives it another"
MAX_OVERLAP = 30 * 24 * 3600  # seconds


def chosen(given: str | None, schemes: Sequence[str], *, like: str = "") -> str | None:
    """Return the secret `given`, or a new one of the kind of `like`; None for the scheme `none`.

    Raises InvalidInput unless each of `schemes` can sign with it.
    """
    if "none" in schemes and given is None:
        return None
    if "none" in schemes:
        raise InvalidInput("secret", "the scheme none signs nothing")
    make = new_private_key if like.startswith(PRIVATE_PREFIX) else new_secret
    return check_secret(make(token_bytes(32)) if given is None else given, schemes)


class Resealed(NamedTuple):
    """What a batch came to; `after` is where the next one begins, None after the last."""

    resealed: int
    unopened: int
    after: UUID | None


def store(connection: Connection, keyring: Keyring, subscription_id: UUID, secret: str) -> None:
    """Add a secret to a subscription."""
    id = connection.execute(select(func.outbox.uuid7())).scalar_one()
    key_id, sealed = keyring.seal(secret, id=id, subscription_id=subscription_id)
    row = {"id": id, "subscription_id": subscription_id, "key_id": key_id, "sealed": sealed}
    connection.execute(insert(table), row)


def live(
    connection: Connection, subscription_id: UUID, *, at: datetime | None = None
) -> list[StoredSecret]:
    """Return the secrets of a subscription that sign now, newest first.

    `at` another moment those that signed then, as far as they are still there.
    """
    query = (
        select(table.c.id, table.c.key_id, table.c.sealed, extract("epoch", table.c.expires_at))
        .where(table.c.subscription_id == subscription_id, _is_live(at))
        .order_by(table.c.created_at.desc(), table.c.id.desc())
    )
    return [
        StoredSecret(str(id), key_id, sealed, None if end is None else float(end))
        for id, key_id, sealed, end in connection.execute(query)
    ]


def rotate(
    connection: Connection,
    keyring: Keyring,
    subscription_id: UUID,
    schemes: Sequence[str],
    given: str | None,
    *,
    overlap: float,
) -> str:
    """Add the secret `given`, or a new one, and return it; the old ones end in `overlap` s."""
    if not 0 <= overlap <= MAX_OVERLAP:  # this way round a NaN is refused
        raise InvalidInput("overlap", "must be from 0 seconds to 30 days")
    new = chosen(given, schemes, like=_newest(connection, keyring, subscription_id))
    if new is None:
        raise InvalidInput("secret", "the scheme none signs nothing")
    expire(connection, subscription_id, overlap=overlap, kept=MAX_LIVE - 1)
    store(connection, keyring, subscription_id, new)
    return new


def fit(
    connection: Connection,
    keyring: Keyring,
    subscription_id: UUID,
    schemes: Sequence[str],
    given: str | None,
) -> str | None:
    """Return the new secret that a subscription gets if none of its own fits `schemes`, or None.

    It is the one `given`, or made. Those it has stay as they are. Raises InvalidInput if it
    was given one for nothing.
    """
    stored = [] if "none" in schemes else live(connection, subscription_id)
    own = [keyring.open(each, subscription_id=subscription_id) for each in stored]
    if own and _fits(own, schemes):
        if given is not None:
            raise InvalidInput("secret", FITS)
        return None
    new = chosen(given, schemes)
    if new is not None:
        store(connection, keyring, subscription_id, new)
    return new


def _fits(own: Sequence[str], schemes: Sequence[str]) -> bool:
    try:
        signature(schemes, own)
    except InvalidInput:
        return False
    return True


def _newest(connection: Connection, keyring: Keyring, subscription_id: UUID) -> str:
    """Return the newest secret, nothing if it does not open: then it is high time for another."""
    for stored in live(connection, subscription_id)[:1]:
        with suppress(InvalidInput):
            return keyring.open(stored, subscription_id=subscription_id)
    return ""


def reseal(
    connection: Connection, keyring: Keyring, *, after: UUID | None = None, limit: int = BATCH
) -> Resealed:
    """Seal the next `limit` secrets behind the id `after` that the first key has not sealed.

    Those in clear are sealed too; what does not open is left and counted. Raises
    InvalidInput without a key.
    """
    if keyring.sealing_key is None:
        raise InvalidInput(VARIABLE, f"is not set; {KEY_RULE}")
    query = (
        select(table.c.id, table.c.subscription_id, table.c.key_id, table.c.sealed)
        .where(or_(table.c.key_id.is_(None), table.c.key_id != keyring.sealing_key))
        .order_by(table.c.id)
        .limit(limit)
        .with_for_update()
    )
    if after is not None:
        query = query.where(table.c.id > after)
    found = connection.execute(query).all()
    done = [_resealed(connection, keyring, *row) for row in found]
    return Resealed(sum(done), len(done) - sum(done), found[-1][0] if found else None)


def _resealed(
    connection: Connection,
    keyring: Keyring,
    id: UUID,
    subscription_id: UUID,
    key_id: str | None,
    sealed: str,
) -> bool:
    stored = StoredSecret(str(id), key_id, sealed, None)
    try:
        secret = keyring.open(stored, subscription_id=subscription_id)
    except InvalidInput:
        return False
    key_id, sealed = keyring.seal(secret, id=id, subscription_id=subscription_id)
    change = update(table).where(table.c.id == id).values(key_id=key_id, sealed=sealed)
    connection.execute(change)
    return True


def expire(connection: Connection, subscription_id: UUID, *, overlap: float, kept: int) -> None:
    """Let the secrets of a subscription sign for `overlap` seconds more, the newest `kept` only.

    The others, and those that ended before, are deleted.
    """
    newest = (
        select(table.c.id)
        .where(table.c.subscription_id == subscription_id, _is_live())
        .order_by(table.c.created_at.desc(), table.c.id.desc())
        .limit(kept if overlap > 0 else 0)
    )
    mine = table.c.subscription_id == subscription_id
    connection.execute(delete(table).where(mine, table.c.id.not_in(newest)))
    end = func.now() + timedelta(seconds=overlap)
    ended = func.least(table.c.expires_at, end)  # LEAST leaves NULLs out
    connection.execute(update(table).where(mine).values(expires_at=ended))


def _is_live(at: datetime | None = None) -> ColumnElement[bool]:
    if at is None:
        return or_(table.c.expires_at.is_(None), table.c.expires_at > func.now())
    return and_(
        table.c.created_at <= at, or_(table.c.expires_at.is_(None), table.c.expires_at > at)
    )
