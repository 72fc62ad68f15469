"""What the doctor asks of subscriptions: can they be signed and called, do they stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, or_, select

from . import backlog
from .addresses import check_url
from .doctor_fleet import COUNTED
from .errors import InvalidInput
from .findings import ERROR, OK, UNKNOWN, WARNING, Opinion, several
from .keyring import VARIABLE
from .tables import blocked_subject, secret, subscription, subscription_health

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from .backlog import Count
    from .findings import Patient

FAILING = 5  # failures and an hour, as it takes for `subscription.failing`


class Secrets(NamedTuple):
    """How many live secrets each key has sealed (None: in clear), and the keys that are here."""

    sealed_by: Mapping[str | None, int]
    keys: tuple[str, ...]


def secrets(patient: Patient) -> Secrets:
    """Look at what the secrets are sealed with."""
    live = or_(secret.c.expires_at.is_(None), secret.c.expires_at > func.now())
    query = select(secret.c.key_id, func.count()).where(live).group_by(secret.c.key_id)
    found = {row[0]: row[1] for row in patient.connection.execute(query)}
    return Secrets(found, tuple(patient.keyring.keys))


def judge_in_clear(seen: Secrets) -> Opinion:
    """Secrets are sealed at rest."""
    clear = seen.sealed_by.get(None, 0)
    if not clear:
        return Opinion(OK, "none is stored in clear")
    found = f"{several(clear, 'secret')} stored in clear"
    if seen.keys:
        return Opinion(WARNING, found, "outbox secrets reseal")
    remedy = f"set {VARIABLE} everywhere (outbox secrets new-key), then outbox secrets reseal"
    return Opinion(WARNING, found, remedy)


def judge_keys(seen: Secrets) -> Opinion:
    """Every key that sealed a secret is here. Without any, this machine may just not have them."""
    lacking = {
        key: number for key, number in seen.sealed_by.items() if key not in (None, *seen.keys)
    }
    if not lacking:
        return Opinion(OK, "none is missing")
    number = sum(lacking.values())
    found = f"{several(number, 'secret')} sealed with {', '.join(map(str, lacking))}"
    if not seen.keys:
        return Opinion(UNKNOWN, found, f"set {VARIABLE} as the workers have it")
    return Opinion(ERROR, f"{found}, which is not here", f"put the key into {VARIABLE}")


class Some(NamedTuple):
    """How many there are, and the first of them with what there is to say about it."""

    number: int
    id: UUID | None = None
    why: str | None = None


def disabled(patient: Patient) -> Some:
    """Look for subscriptions that a worker has disabled."""
    columns = subscription.c
    query = (
        select(func.count().over(), columns.id, columns.state_reason)
        .where(columns.state == "disabled")
        .order_by(columns.changed_at.desc())
        .limit(1)
    )
    found = patient.connection.execute(query).first()
    return Some(*found) if found else Some(0)


def judge_disabled(seen: Some) -> Opinion:
    """None was given up."""
    if not seen.number:
        return Opinion(OK, "none")
    found = f"{seen.number:,}, such as {seen.id}: {seen.why or 'no reason is kept'}"
    return Opinion(WARNING, found, f"outbox subscriptions resume {seen.id}, or remove it")


def failing(patient: Patient) -> Some:
    """Look for active subscriptions to which nothing was delivered for an hour."""
    columns = subscription_health.c
    query = (
        select(func.count().over(), columns.subscription_id, subscription.c.url)
        .join(subscription, subscription.c.id == columns.subscription_id)
        .where(subscription.c.state == "active", columns.failures >= FAILING)
        .where(columns.failing_since < func.now() - func.make_interval(0, 0, 0, 0, 1))
        .order_by(columns.failing_since)
        .limit(1)
    )
    found = patient.connection.execute(query).first()
    return Some(*found) if found else Some(0)


def judge_failing(seen: Some) -> Opinion:
    """Every receiver answers now and then."""
    if not seen.number:
        return Opinion(OK, "none for an hour")
    found = f"{seen.number:,} for an hour and more, such as {seen.id}"
    return Opinion(WARNING, found, f"outbox subscriptions show {seen.id}; outbox status")


def held(patient: Patient) -> Mapping[str, Count]:
    """Count the deliveries that are held, by reason."""
    return backlog.look(patient.connection)[0].held


def judge_held(seen: Mapping[str, Count]) -> Opinion:
    """Nothing is held but what an order of events holds for a moment."""
    stopped = {why: count for why, count in seen.items() if why != "in order"}
    if not stopped:
        return Opinion(OK, "none")
    found = ", ".join(
        f"{'' if count.exact else 'about '}{count.number:,} {why}" for why, count in stopped.items()
    )
    return Opinion(WARNING, found, "outbox status says whose; outbox subscriptions resume ID")


def blocked(patient: Patient) -> Some:
    """Look for subjects that stand still behind a dead delivery."""
    columns = blocked_subject.c
    rows = select(columns.subscription_id, columns.subject).limit(COUNTED)
    found = patient.connection.execute(rows).all()
    return Some(len(found), *found[0]) if found else Some(0)


def judge_blocked(seen: Some) -> Opinion:
    """No subject of an ordered subscription waits for a person."""
    if not seen.number:
        return Opinion(OK, "none")
    found = f"{several(seen.number, 'subject')}, such as {seen.why} of {seen.id}"
    return Opinion(WARNING, found, f"outbox subscriptions unblock {seen.id}")


def refused(patient: Patient) -> Some:
    """Look for subscriptions whose URL may not be called, as this machine is set."""
    columns = subscription.c
    query = select(columns.id, columns.url).where(columns.state != "removed").order_by(columns.id)
    wrong = []
    for id, url in patient.connection.execute(query):
        try:
            check_url(url, allow=patient.allow)
        except InvalidInput as error:
            wrong.append((id, error.rule))
    return Some(len(wrong), *wrong[0]) if wrong else Some(0)


def judge_refused(seen: Some) -> Opinion:
    """Each URL may be called."""
    if not seen.number:
        return Opinion(OK, "none is refused")
    found = f"{seen.number:,} refused, such as {seen.id}: {seen.why}"
    return Opinion(WARNING, found, "set OUTBOX_ALLOW here and for the workers, or change the URL")
