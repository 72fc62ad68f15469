"""How much of a subscription may go out: the numbers that may be set, and their ranges.

`max_in_flight`, `rate` and `ordered` hold for the whole fleet and are exact; `timeout`
and `max_age` bound one request and one delivery. A subscription that sets none of them
is bounded by the workers alone.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

from .errors import InvalidInput

METHODS = ("POST", "PUT", "PATCH")
ORDERS = ("stop", "skip")

_RANGES = {
    "timeout": (0.1, 300),
    "max_age": (1, 366 * 24 * 3600),
    "max_in_flight": (1, 10_000),
    "rate": (0.001, 100_000),
    "burst": (1, 100_000),
}
_WHOLE = {"max_in_flight", "burst"}


def check_limits(**given: Any) -> dict[str, Any]:
    """Return `given` if each may be set so; None is no limit. Raises InvalidInput.

    >>> check_limits(rate=50, ordered="skip")
    {'rate': 50, 'ordered': 'skip'}
    """
    for name, value in given.items():
        if value is not None:
            _check(name, value)
    if given.get("burst") is not None and given.get("rate") is None:
        raise InvalidInput("burst", "needs a rate")
    return given


def parse_rate(text: str) -> float:
    """Return the requests a second that `text` means: `50/s`, `100/m`, `3600/h`, or `50`.

    >>> parse_rate("90/m")
    1.5
    """
    number, _, unit = text.partition("/")
    if unit not in _UNITS or not _NUMBER.fullmatch(number):
        raise InvalidInput("rate", "must be written as 50/s, 100/m or 1000/h")
    return float(number) / _UNITS[unit]


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)


def _check(name: str, value: Any) -> None:
    if name == "ordered":
        _check_choice(name, value, ORDERS)
    elif name == "method":
        _check_choice(name, value, METHODS)
    else:
        _check_number(name, value)


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidInput(name, f"must be one of {', '.join(known)}")


def _check_number(name: str, value: object) -> None:
    kinds = int if name in _WHOLE else (int, float)
    low, high = _RANGES[name]
    good = isinstance(value, kinds) and not isinstance(value, bool)
    if not good or not isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        kind = "a whole number" if name in _WHOLE else "a number"
        raise InvalidInput(name.replace("_", "-"), f"must be {kind} from {low:,} to {high:,}")
