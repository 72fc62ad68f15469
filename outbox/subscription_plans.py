"""What it takes to make subscriptions as a file wants them: first the plan, then the doing.

    steps = plan(load(text, environ=os.environ), list_subscriptions(connection))
    made = carry_out(connection, steps, by=me, environ=os.environ)

A plan is a pure decision, so that it can be shown before anything happens. It is carried out
in the caller's transaction: all of it, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import subscriptions
from .addresses import PUBLIC
from .errors import InvalidInput, NotFound, WrongState
from .headers import HIDDEN
from .subscription_changes import Subscription, lock
from .subscription_files import variable
from .subscription_settings import DEFAULTS, Settings, as_dict, differences, is_id
from .subscription_states import STANDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from uuid import UUID

    from sqlalchemy import Connection

    from .addresses import Allowed
    from .keyring import Keyring
    from .subscription_changes import Author
    from .subscription_files import Entry
    from .subscription_settings import Difference


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about one: `added`, `changed` or `removed`."""

    change: str
    key: str
    before: Subscription | None
    wanted: Settings | None
    secret_env: str | None = None

    @property
    def differs(self) -> list[Difference]:
        """What is not as it was; of one that is removed nothing."""
        if self.wanted is None:
            return []
        before = DEFAULTS if self.before is None else as_dict(self.before)
        after = as_dict(self.wanted)
        return differences(before, {name: after[name] for name in after if name != "name"})


@dataclass(frozen=True, slots=True)
class Made:
    """A subscription that a step was about; `secret` was made for it and is not shown again."""

    id: UUID
    secret: str | None = None


def plan(
    entries: Sequence[Entry],
    found: Sequence[Subscription],
    *,
    prune: bool = False,
    tenant: str | None = None,
) -> list[Step]:
    """Return what makes `found` as `entries` want it; those that there are come first, by id.

    With `prune` those that have a name and are not wanted are removed. With `tenant` all
    entries must be of that tenant. Raises InvalidInput and NotFound.
    """
    known = {str(each.id): each for each in found}
    known |= {each.name: each for each in found if each.name}
    met: dict[UUID, str] = {}
    steps: list[Step] = []
    for entry in entries:
        before = known.get(entry.key)
        _check_entry(entry, before, met, tenant)
        steps += _step(entry, before)
    if prune:
        gone = (each for each in found if each.name and each.id not in met)
        steps += (Step("removed", str(each.name), each, None) for each in gone)
    return sorted(steps, key=lambda step: "~" if step.before is None else str(step.before.id))


def _check_entry(
    entry: Entry, before: Subscription | None, met: dict[UUID, str], tenant: str | None
) -> None:
    if before is None and is_id(entry.key):
        raise NotFound("subscription", entry.key)
    if tenant is not None and entry.settings.tenant != tenant:
        raise InvalidInput(f"{entry.key}: tenant", f"is not {tenant}")
    if before is not None and met.setdefault(before.id, entry.key) != entry.key:
        raise InvalidInput(entry.key, f"is the same subscription as {met[before.id]}")


def _step(entry: Entry, before: Subscription | None) -> Iterator[Step]:
    wanted = replace(entry.settings, headers=_kept(entry, before))
    if before is None:
        yield Step("added", entry.key, None, wanted, entry.secret_env)
        return
    wanted = replace(wanted, name=before.name)
    if wanted != before.settings:
        yield Step("changed", entry.key, before, wanted)


def _kept(entry: Entry, before: Subscription | None) -> dict[str, str]:
    """Return the headers; those that are to stay have the values that they have."""
    headers = dict(entry.settings.headers)
    for name in [name for name, value in headers.items() if value == HIDDEN]:
        if before is None or name not in before.headers:
            rule = f'{HIDDEN} leaves it as it is, but there is none: say {{ env = "NAME" }}'
            raise InvalidInput(f"{entry.key}: header {name}", rule)
        headers[name] = before.headers[name]
    return headers


def carry_out(
    connection: Connection,
    steps: Iterable[Step],
    *,
    by: Author,
    environ: Mapping[str, str],
    keyring: Keyring | None = None,
    allow: Allowed = PUBLIC,
) -> list[Made]:
    """Do what each step says, and return what it made of its subscription.

    `environ` has the secrets that new ones name. Raises InvalidInput, and WrongState if a
    subscription was changed since the plan was made: then nothing may be committed.
    """
    return [_do(connection, step, by, environ, keyring, allow) for step in steps]


def _do(
    connection: Connection,
    step: Step,
    by: Author,
    environ: Mapping[str, str],
    keyring: Keyring | None,
    allow: Allowed,
) -> Made:
    try:
        match step.before, step.wanted:
            case Subscription() as before, Settings() as wanted:
                _check_unchanged(connection, before, "changed")
                done = subscriptions.update(
                    connection, before.id, by=by, keyring=keyring, allow=allow, **as_dict(wanted)
                )
                return Made(before.id, done.secret)
            case Subscription() as before, None:
                _check_unchanged(connection, before, "removed")
                return Made(subscriptions.remove(connection, before.id, by=by).id)
            case _, Settings() as wanted:
                secret = step.secret_env and variable("secret", step.secret_env, environ)
                added, new = subscriptions.add_wanted(
                    connection, wanted, by=by, secret_text=secret, keyring=keyring, allow=allow
                )
                return Made(added.id, None if secret else new)
            case _:
                raise ValueError("a step about nothing")
    except InvalidInput as error:
        raise InvalidInput(f"{step.key}: {error.field}", error.rule) from error


def _check_unchanged(connection: Connection, before: Subscription, verb: str) -> None:
    if lock(connection, before.id, STANDING, verb) != before:
        state = "not as it was when this was planned"
        raise WrongState("subscription", str(before.id), state, verb)
