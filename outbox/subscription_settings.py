"""What a subscription is asked to be: one value, and one place that says what it may be.

Whoever asks, `add`, `update` or a file, makes a `Settings`; `check` judges it whole, before
any SQL runs. Only the filter is left for PostgreSQL to judge, whose language it is.

    wanted = check(Settings(url="https://example.com/hooks", types=("invoice.*",), rate=50))
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from .addresses import PUBLIC, check_url
from .encoding import check_text
from .errors import InvalidInput
from .event_types import check_pattern
from .formats import FORMATS
from .headers import shown_value
from .limits import check_limits
from .request import check_choices
from .schedule import check_schedule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .addresses import Allowed

MAX_NAME = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a person can set. `None` is no bound, no narrowing, or what is usual.

    `schemes` left empty are the format's own. `timeout`, `schedule` and `max_age` are in
    seconds, `rate` in requests a second.
    """

    name: str | None = None
    tenant: str | None = None
    url: str
    types: tuple[str, ...]
    filter: str | None = None
    method: str = "POST"
    format: str = "standard"
    schemes: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    user_agent: str | None = None
    timeout: float | None = None
    schedule: tuple[float, ...] | None = None
    max_age: float | None = None
    max_in_flight: int | None = None
    rate: float | None = None
    burst: int | None = None
    ordered: str | None = None

    @property
    def limited(self) -> bool:
        """Whether it has a limit that holds for the whole fleet."""
        return any(each is not None for each in (self.max_in_flight, self.rate, self.ordered))


NAMES = tuple(each.name for each in fields(Settings))
DEFAULTS: dict[str, Any] = {
    each.name: each.default if each.default_factory is MISSING else each.default_factory()
    for each in fields(Settings)
    if each.name not in {"url", "types"}
}


def check(wanted: Settings, *, allow: Allowed = PUBLIC) -> Settings:
    """Return `wanted` as it is stored; raises InvalidInput.

    `allow` is what the operator allows besides public addresses.

    >>> check(Settings(url="https://bücher.example", types=("*", "*"))).url
    'https://xn--bcher-kva.example'
    """
    check_choices(
        wanted.headers, format=wanted.format, schemes=wanted.schemes or None,
        user_agent=wanted.user_agent,
    )  # fmt: skip
    check_limits(**{name: getattr(wanted, name) for name in _BOUNDED})
    return replace(
        wanted,
        name=None if wanted.name is None else check_name(wanted.name),
        tenant=None if wanted.tenant is None else check_text("tenant", wanted.tenant, 255),
        url=check_url(wanted.url, allow=allow),
        types=_check_types(wanted.types),
        schemes=tuple(wanted.schemes) or (FORMATS[wanted.format].scheme,),
        headers=dict(wanted.headers),
        schedule=None if wanted.schedule is None else check_schedule(wanted.schedule),
    )


_BOUNDED = ("method", "timeout", "max_age", "max_in_flight", "rate", "burst", "ordered")


def check_name(name: str) -> str:
    """Return `name` if a subscription may be called so; raises InvalidInput.

    >>> check_name("acme/billing")
    'acme/billing'
    """
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidInput("name", _NAME_RULE)
    if is_id(name):
        raise InvalidInput("name", "must not look like an id")
    return name


def is_id(text: str) -> bool:
    """Return whether `text` is an id as the database writes it."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


_NAME = re.compile("[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
_NAME_RULE = f"must be 1 to {MAX_NAME} of A-Z a-z 0-9 . _ / -, a letter or digit at both ends"


def _check_types(types: Sequence[str]) -> tuple[str, ...]:
    checked = tuple(dict.fromkeys(check_pattern(pattern) for pattern in types))
    if not checked:
        raise InvalidInput("types", "must have at least one event type or pattern")
    return checked


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return `settings` with `changes`, in which None is what is usual. Raises InvalidInput.

    >>> put = Settings(url="https://a.example", types=("*",), method="PUT")
    >>> changed(put, {"method": None}).method
    'POST'
    """
    for name, value in changes.items():
        if name not in NAMES:
            raise InvalidInput(name, "is nothing that a subscription has")
        if value is None and name not in DEFAULTS:
            raise InvalidInput(name, "is needed: it cannot be unset")
    values = {name: DEFAULTS[name] if value is None else value for name, value in changes.items()}
    return replace(settings, **values)


def columns(settings: Settings) -> dict[str, Any]:
    """Return `settings` as they stand in a row of `outbox.subscription`."""
    values = as_dict(settings)
    for name in ("types", "schemes", "schedule"):
        values[name] = None if values[name] is None else list(values[name])
    return values | {"headers": json.dumps(dict(settings.headers))}


def as_dict(settings: Any) -> dict[str, Any]:
    """Return the settings of a `Settings`, or of a subscription, by name."""
    return {name: getattr(settings, name) for name in NAMES}


@dataclass(frozen=True, slots=True)
class Difference:
    """`name` was `before` and is `after`. Header by header: `header X-Team`."""

    name: str
    before: Any
    after: Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what differs, in the order of `after`. Values that look like credentials are hidden.

    >>> differences({"url": "a", "headers": {}}, {"url": "a", "headers": {"X-Token": "hunter2"}})
    [Difference(name='header X-Token', before=None, after='[secure]')]
    """
    found: list[Difference] = []
    for name in after:
        if name == "headers":
            found += _header_differences(before.get(name) or {}, after[name] or {})
        elif before.get(name) != after[name]:
            found.append(Difference(name, before.get(name), after[name]))
    return found


def _header_differences(
    before: Mapping[str, str], after: Mapping[str, str]
) -> Iterator[Difference]:
    names: Iterable[str] = dict.fromkeys((*before, *after))
    for name in names:
        if before.get(name) != after.get(name):
            was, is_ = before.get(name), after.get(name)
            yield Difference(
                f"header {name}",
                None if was is None else shown_value(name, was),
                None if is_ is None else shown_value(name, is_),
            )
