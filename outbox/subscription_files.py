"""Subscriptions as a file in version control: written and read.

The file is TOML: each subscription is a table under its name, in the words of the database,
with nothing in it but what is set. One that has no name stands under its id.

    [billing]
    url = "https://example.com/hooks"
    types = ["invoice.*", "user.created"]
    filter = "$.amount > 100"
    schedule = "0s, 5s, 5m"
    headers = { X-Team = "billing" }

TOML, because a person likes to read and edit it, Python reads it, and a pattern such as `*`
is nothing special in it, as it is in YAML. The same as JSON is read too.

No secret is in it. A new subscription gets one that is shown once, or the one that
`secret = { env = "NAME" }` names. Values of headers that look like credentials stand there
as `[secure]`, which leaves them as they are; `{ env = "NAME" }` says what they are to be.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .addresses import ANYWHERE
from .errors import InvalidInput
from .formats import FORMATS
from .headers import shown_value
from .limits import parse_rate
from .schedule import format_schedule, parse_schedule
from .subscription_settings import DEFAULTS, NAMES, Settings, as_dict, check, is_id
from .toml import table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .subscription_changes import Subscription

HEAD = "# Subscriptions; `outbox subscriptions apply` makes them so.\n"
_WORDS = tuple(name for name in NAMES if name != "name")


@dataclass(frozen=True, slots=True)
class Entry:
    """A subscription as a file wants it, under its name, or its id if it has none.

    `secret_env` is the variable that holds the secret of a new one.
    """

    key: str
    settings: Settings
    secret_env: str | None = None


# Writing.


def dump(found: Iterable[Subscription]) -> str:
    """Return subscriptions as a file that `load` reads."""
    return "\n".join([HEAD, *(table(key, words) for key, words in as_document(found).items())])


def as_document(found: Iterable[Subscription]) -> dict[str, dict[str, Any]]:
    """Return what the file says, as plain values."""
    return {each.name or str(each.id): _words(each.settings) for each in found}


def _words(settings: Settings) -> dict[str, Any]:
    usual = DEFAULTS | {"schemes": (FORMATS[settings.format].scheme,)}
    values = as_dict(settings)
    words = {name: values[name] for name in _WORDS if values[name] != usual.get(name, ())}
    if "schedule" in words:
        words["schedule"] = format_schedule(words["schedule"])
    if "headers" in words:
        headers: Mapping[str, str] = words["headers"]
        words["headers"] = {name: shown_value(name, value) for name, value in headers.items()}
    return {name: list(word) if isinstance(word, tuple) else word for name, word in words.items()}


# Reading.


def load(text: str, *, environ: Mapping[str, str]) -> list[Entry]:
    """Return what a file wants, checked but for filters. Raises InvalidInput.

    `environ` is where the values of headers are taken from that name a variable.
    """
    document = _parse(text)
    return [_entry(key, words, environ) for key, words in document.items()]


def _parse(text: str) -> dict[str, Any]:
    is_json = text.lstrip().startswith("{")
    try:
        found = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if is_json else "TOML"
        raise InvalidInput("file", f"is not {kind}: {error}") from error
    return dict(found)


def _entry(key: str, words: Any, environ: Mapping[str, str]) -> Entry:
    if not isinstance(words, Mapping):
        raise InvalidInput("file", f"{key!r} must be the table of a subscription")
    try:
        return _checked(key, words, environ)
    except InvalidInput as error:
        raise InvalidInput(f"{key}: {error.field}", error.rule) from error


def _checked(key: str, words: Mapping[str, Any], environ: Mapping[str, str]) -> Entry:
    for word in words:
        if word not in {*_WORDS, "secret"}:
            raise InvalidInput(word, "is nothing that a subscription has")
    for word in ("url", "types"):
        if word not in words:
            raise InvalidInput(word, "is missing")
    values = {word: _read(word, words[word], environ) for word in words if word != "secret"}
    wanted = Settings(name=None if is_id(key) else key, **values)
    secret = _variable("secret", words["secret"]) if "secret" in words else None
    return Entry(key, check(wanted, allow=ANYWHERE), secret)


def _read(word: str, value: Any, environ: Mapping[str, str]) -> Any:
    match word, value:
        case (("types" | "schemes"), list()):
            return tuple(_text(word, each) for each in value)
        case (("types" | "schemes"), _):
            raise InvalidInput(word, 'must be a list, such as ["invoice.*"]')
        case "headers", Mapping():
            return {name: _header(name, each, environ) for name, each in value.items()}
        case "headers", _:
            raise InvalidInput(word, 'must be a table, such as { X-Team = "billing" }')
        case "schedule", _:
            return parse_schedule(_text(word, value))
        case "rate", str():
            return parse_rate(value)
        case (("timeout" | "max_age" | "max_in_flight" | "rate" | "burst"), _):
            return value
        case _:
            return _text(word, value)


def _header(name: str, value: Any, environ: Mapping[str, str]) -> str:
    if isinstance(value, str):
        return value
    return variable(f"header {name}", _variable(f"header {name}", value), environ)


def _text(word: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(word, "must be text")
    return value


def _variable(word: str, value: Any) -> str:
    match value:
        case {"env": str(name)} if len(value) == 1:
            return name
        case _:
            raise InvalidInput(word, 'must name a variable: { env = "NAME" }')


def variable(word: str, name: str, environ: Mapping[str, str]) -> str:
    """Return the value of an environment's variable. Raises InvalidInput."""
    if not environ.get(name):
        raise InvalidInput(word, f"the environment has no {name}")
    return environ[name]
