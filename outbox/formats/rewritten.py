"""JSON written again as another program would have written it, always the same way.

`raw` and the formats around it send data as it was stored. Two formats must look as if
Go or JavaScript had made them, so they read the data and write it in their manner:
minified, members in their order, and numbers in the shortest form that reads back the
same (both languages agree: ECMA-262, Number::toString; Go, encoding/json). A number
that a double cannot hold keeps its digits, rather than being changed. What plain SQL
stored nested too deeply raises RecursionError, and is then sent as it was stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from json.encoder import encode_basestring as quoted
from typing import Any

Quote = Callable[[str], str]
Order = Callable[[dict[str, Any]], dict[str, Any]]


class Number(str):
    """A number as it is written in JSON."""

    __slots__ = ()


def read(data: str) -> Any:
    """Return `data` with its numbers as `Number`."""
    return json.loads(data, parse_int=_integer, parse_float=_float)


def write(value: Any, quote: Quote, order: Order = dict) -> str:
    """Return what `read` read as JSON; `order` gives an object's members their order."""
    match value:
        case Number():
            return value
        case str():
            return quote(value)
        case dict():
            members = order(value).items()
            return (
                "{" + ",".join([f"{quote(k)}:{write(v, quote, order)}" for k, v in members]) + "}"
            )
        case list():
            return "[" + ",".join([write(item, quote, order) for item in value]) + "]"
        case _:
            return {None: "null", True: "true", False: "false"}[value]


def _integer(text: str) -> Number:
    return Number("0" if text == "-0" else text)


def _float(text: str) -> Number:
    """Return the shortest form, or `text` itself if a double does not hold all its digits.

    >>> [_float(text) for text in ("1.0", "19.90", "1e21", "1E-7", "1e-6", "1.5e300")]
    ['1', '19.9', '1e+21', '1e-7', '0.000001', '1.5e+300']
    """
    held = Decimal(repr(float(text)))
    if _FAR.search(text) or held != Decimal(text):
        return Number(text)
    return Number(_shortest(held.normalize()) if held else "0")


def _shortest(value: Decimal) -> str:
    magnitude = value.adjusted()
    if -7 < magnitude < 21:
        return f"{value:f}"
    return f"{value.scaleb(-magnitude):f}e{magnitude:+d}"


_FAR = re.compile("[eE][+-]?[0-9]{5}")  # an exponent that no double has, and Decimal may not have


_INDEX = re.compile("0|[1-9][0-9]{0,9}")


def quoted_by_javascript(text: str) -> str:
    """Return `text` as JSON.stringify writes it: a lone surrogate is escaped.

    >>> quoted_by_javascript("Zoë <R&D>")
    '"Zoë <R&D>"'
    """
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted(text))


def quoted_by_go(text: str) -> str:
    """Return `text` as json.Marshal writes it: safe inside HTML, a lone surrogate is U+FFFD.

    >>> quoted_by_go("Zoë <R&D>")
    '"Zoë \\\\u003cR\\\\u0026D\\\\u003e"'
    """
    return _SURROGATE.sub("\ufffd", quoted(text)).translate(_UNSAFE_IN_HTML)


_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSAFE_IN_HTML = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def as_in_javascript(members: dict[str, Any]) -> dict[str, Any]:
    """Return the members as an object of JavaScript orders them: indices first, ascending.

    >>> as_in_javascript({"b": 1, "10": 2, "9": 3, "01": 4})
    {'9': 3, '10': 2, 'b': 1, '01': 4}
    """
    if not any(map(_is_index, members)):
        return members
    indices = sorted((name for name in members if _is_index(name)), key=int)
    return {name: members[name] for name in (*indices, *members)}


def _is_index(name: str) -> bool:
    return _INDEX.fullmatch(name) is not None and int(name) < 2**32 - 1
