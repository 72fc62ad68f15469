"""JSON that PostgreSQL can keep, made from the values a host has at hand.

An event is checked before any SQL runs, so that a mistake is an exception in the
host's own line and never an aborted transaction. What `encode` returns can be
stored as `json` and cast to `jsonb`; what cannot be is refused with the path to it.

    a host has                  the receiver reads
    dict, Mapping               an object, in the same order; keys are strings
    list, tuple                 an array
    str, bool, None, int        themselves
    float                       a number, the shortest that reads back the same
    Decimal                     a number with exactly its digits
    datetime                    an RFC 3339 string; it must know its offset, UTC is Z
    date                        an ISO 8601 string
    UUID                        a string
    Enum                        its value, encoded by this table

Nothing else is guessed at: a set has no order, bytes have no encoding, a time has no day.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from reprlib import repr as shortened
from types import NoneType
from typing import Any
from uuid import UUID

from .errors import InvalidInput

MAX_BYTES = 262_144
MAX_DEPTH = 64
MAX_DIGITS = 1_000
MAX_PATH = 200

_TOO_LARGE = 10**MAX_DIGITS
_NUMBER_RULE = f"has more than {MAX_DIGITS:,} digits or an exponent beyond {MAX_DIGITS:,}"
_NOT_FINITE = "is NaN or infinite, which JSON cannot express"
_MINUTE = timedelta(minutes=1)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class _Refused(Exception):
    """`rule` is broken by the value that `steps` lead to, innermost first."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.steps: list[object] = []


def encode(value: object, *, field: str = "data", max_bytes: int = MAX_BYTES) -> str:
    """Return `value` as minified JSON text, keys in their order, non-ASCII unescaped.

    Takes what the table above names, at most 64 levels deep and `max_bytes` bytes long
    in UTF-8. Raises `InvalidInput`, whose field is the path that begins with `field`.

    >>> from decimal import Decimal
    >>> encode({"id": 1, "amount": Decimal("19.90"), "lines": ["é", None]})
    '{"id":1,"amount":19.90,"lines":["é",null]}'
    >>> encode({"lines": [{"price": float("nan")}]})
    Traceback (most recent call last):
    outbox.errors.InvalidInput: data.lines[0].price: is NaN or infinite, which JSON cannot express
    """
    try:
        text = _write(value, 0)
    except _Refused as refused:
        raise InvalidInput(path_of(field, refused.steps[::-1]), refused.rule) from None
    size = len(text) if text.isascii() else len(text.encode())
    if size > max_bytes:
        raise InvalidInput(field, f"takes {size:,} bytes as JSON; {max_bytes:,} are allowed")
    return text


def check_text(field: str, text: str, max_chars: int) -> str:
    """Return `text` if PostgreSQL can store it and a terminal show it.

    It is not empty, at most `max_chars` characters, and free of control characters
    and lone surrogates. Raises `InvalidInput` otherwise.

    >>> check_text("tenant", "acme", 100)
    'acme'
    """
    if not isinstance(text, str):
        raise InvalidInput(field, f"must be text, not {type(text).__name__}")
    if not 0 < len(text) <= max_chars:
        raise InvalidInput(field, f"must have 1 to {max_chars:,} characters, not {len(text):,}")
    if _CONTROL.search(text):
        raise InvalidInput(field, "contains a control character")
    if (flaw := _flaw(text)) is not None:
        raise InvalidInput(field, f"contains {flaw}")
    return text


def _write(value: Any, depth: int) -> str:
    return _WRITERS[type(value)](value, depth)


def _object(value: Mapping[object, object], depth: int) -> str:
    _check_depth(depth)
    members = []
    for key, item in value.items():
        name = _name(key)
        try:
            members.append(name + _WRITERS[type(item)](item, depth + 1))
        except _Refused as refused:
            refused.steps.append(key)
            raise
    return "{" + ",".join(members) + "}"


def _array(value: Sequence[object], depth: int) -> str:
    _check_depth(depth)
    items = []
    for index, item in enumerate(value):
        try:
            items.append(_WRITERS[type(item)](item, depth + 1))
        except _Refused as refused:
            refused.steps.append(index)
            raise
    return "[" + ",".join(items) + "]"


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise _Refused(f"is nested deeper than {MAX_DEPTH} levels, or contains itself")


@lru_cache(maxsize=1024)  # hosts write the same keys again and again
def _name(key: object) -> str:
    if not isinstance(key, str):
        raise _Refused(f"has a key of the type {type(key).__name__}; keys are strings")
    if (flaw := _flaw(key)) is not None:
        raise _Refused(f"has the key {shortened(key)}, which contains {flaw}")
    return quoted(key) + ":"


def _string(value: str, _depth: int) -> str:
    if ("\0" in value or not value.isascii()) and (flaw := _flaw(value)) is not None:
        raise _Refused(f"contains {flaw}")
    return quoted(value)


def _flaw(text: str) -> str | None:
    if "\0" in text:
        return "a NUL character, which PostgreSQL cannot store"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a lone surrogate, which is half a character"
    return None


def _integer(value: int, _depth: int) -> str:
    if abs(value) >= _TOO_LARGE:
        raise _Refused(_NUMBER_RULE)
    return int.__repr__(value)


def _float(value: float, _depth: int) -> str:
    if not math.isfinite(value):
        raise _Refused(_NOT_FINITE)
    return float.__repr__(value)


def _decimal(value: Decimal, _depth: int) -> str:
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise _Refused(_NOT_FINITE)
    if len(digits) > MAX_DIGITS or abs(exponent) > MAX_DIGITS:
        raise _Refused(_NUMBER_RULE)
    return Decimal.__str__(value)


def _datetime(value: datetime, _depth: int) -> str:
    offset = value.utcoffset()
    if offset is None:
        raise _Refused("is a datetime without a time zone; give it one, such as datetime.UTC")
    if offset % _MINUTE:  # old local mean time; RFC 3339 knows no seconds in an offset
        value = _in_utc(value)
    text = datetime.isoformat(value)
    return f'"{text[:-6]}Z"' if text.endswith("+00:00") else f'"{text}"'


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise _Refused("is a datetime outside the years 1 to 9999 in UTC") from None


def _enum(value: Enum, depth: int) -> str:
    return _write(value.value, depth)


class _Writers(dict[type, Callable[[Any, int], str]]):
    """The writer of each type, found for a subclass by its first base here."""

    def __missing__(self, kind: type) -> Callable[[Any, int], str]:
        for base, writer in self.items():
            if issubclass(kind, base):
                return writer
        raise _Refused(f"is of the type {kind.__name__}, which has no JSON form here")


_WRITERS = _Writers(
    {
        Enum: _enum,  # before str and int, which its members may be as well
        str: _string,
        bool: lambda value, _: "true" if value else "false",
        int: _integer,
        float: _float,
        NoneType: lambda _value, _: "null",
        Mapping: _object,
        dict: _object,
        list: _array,
        tuple: _array,
        Decimal: _decimal,
        UUID: lambda value, _: f'"{UUID.__str__(value)}"',
        datetime: _datetime,  # before date, which it is as well
        date: lambda value, _: f'"{date.isoformat(value)}"',
    }
)


def path_of(field: str, steps: Sequence[object]) -> str:
    """Return the way into `field` by keys and indices, outermost first, shortened if it is long.

    >>> path_of("data", ["lines", 0, "unit price"])
    "data.lines[0]['unit price']"
    """
    text = field + "".join(map(_step, steps))
    return text if len(text) <= MAX_PATH else text[: MAX_PATH - 1] + "…"


def _step(step: object) -> str:
    if isinstance(step, str) and re.fullmatch("[A-Za-z_][A-Za-z0-9_-]*", step):
        return f".{step}"
    return f"[{shortened(step)}]"
