"""What a check of the doctor comes to: a verdict, what was found, and the remedy.

Verdicts: `ok`, `warning` (it will hurt, or it needs a look), `error` (something is not
delivered, or can be lost), `unknown` (this role or this schema does not show it).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .addresses import PUBLIC
from .keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sqlalchemy import Connection

    from .addresses import Allowed

OK, WARNING, ERROR, UNKNOWN = "ok", "warning", "error", "unknown"

MINUTE, HOUR = 60.0, 3_600.0


class Opinion(NamedTuple):
    """What a check thinks; the remedy is a command or a setting, None if there is nothing to do."""

    verdict: str
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at: a database, and what this machine is set to."""

    connection: Connection
    allow: Allowed = PUBLIC
    keyring: Keyring = field(default_factory=Keyring)


class Check(NamedTuple):
    """A check: `look` reads what `judge` has an opinion on. Most need the schema's version."""

    name: str
    look: Callable[[Patient], Any]
    judge: Callable[[Any], Opinion]
    any_schema: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """The opinion of the check `name`."""

    name: str
    verdict: str
    found: str
    remedy: str | None = None


def by_age(age: float, *, warning: float, error: float) -> str:
    """Return the verdict on something that lasts for `age` seconds."""
    return ERROR if age >= error else WARNING if age >= warning else OK


def ago(seconds: float) -> str:
    """Return so many seconds roughly, in the largest unit that fits.

    >>> ago(42), ago(600), ago(90_000)
    ('42 s', '10 min', '25 h')
    """
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    return f"{seconds / HOUR:.0f} h" if seconds < 48 * HOUR else f"{seconds / (24 * HOUR):.0f} d"


def several(number: int, what: str) -> str:
    """Return a number of things.

    >>> several(1, "event"), several(2_000, "event")
    ('1 event', '2,000 events')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"
