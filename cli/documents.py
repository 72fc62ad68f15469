"""JSON as programs and people read it, in which stored JSON keeps its exact text.

An amount of 19.90 stays 19.90, and a member keeps its place: what was stored is never
parsed and written again, `dump` puts it into the document and `pretty` only moves its
white space.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_OPENING, _CLOSING = ("{", "["), ("}", "]")


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON text that goes into a document as it is."""

    text: str


def dump(value: object) -> str:
    """Return `value` as one JSON document; the items of a list stand on lines of their own.

    >>> dump([{"id": 1, "data": Json('{"amount": 19.90}')}, {"id": 2, "data": None}])
    '[{"id": 1, "data": {"amount": 19.90}},\\n {"id": 2, "data": null}]'
    """
    match value:
        case Json():
            return value.text
        case Mapping():
            members = (f"{_quoted(str(name))}: {dump(item)}" for name, item in value.items())
            return "{" + ", ".join(members) + "}"
        case list() | tuple():
            between = ",\n " if value and isinstance(value[0], Mapping) else ", "
            return "[" + between.join(map(dump, value)) + "]"
        case _:
            return _quoted(_plain(value))


def csv_line(values: Iterable[object]) -> str:
    """Return a line of CSV (RFC 4180): no value is empty, what has parts is JSON.

    >>> csv_line(["a, b", None, 7, ["x", "y"]])
    '"a, b",,7,"[""x"", ""y""]"\\r\\n'
    """
    line = io.StringIO()
    csv.writer(line).writerow([_csv_cell(value) for value in values])
    return line.getvalue()


def _csv_cell(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case datetime() | UUID():
            return str(_plain(value))
        case _:
            return dump(value)


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case UUID():
            return str(value)
        case _:
            return value


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def pretty(text: str) -> str:
    """Return a JSON text with its members on lines of their own.

    >>> print(pretty('{"amount":19.90,"lines":[],"to":["é"]}'))
    {
      "amount": 19.90,
      "lines": [],
      "to": [
        "é"
      ]
    }
    """
    result, depth, before = "", 0, ""
    for part in _PART.findall(text):
        depth += (before in _OPENING) - (part in _CLOSING)
        if _breaks(before, part):
            result += "\n" + "  " * depth
        result += ": " if part == ":" else part
        before = part
    return result


def _breaks(before: str, part: str) -> bool:
    if part in _CLOSING:
        return before not in _OPENING
    return before in _OPENING or before == ","
