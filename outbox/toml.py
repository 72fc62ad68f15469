"""TOML as a person would write it. Python reads TOML, but does not write it.

Only what `subscription_files` needs: tables of texts, numbers, lists of texts, and tables of
texts.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDTH = 100
_BARE = re.compile("[A-Za-z0-9_-]+")


def table(name: str, values: Mapping[str, Any]) -> str:
    r"""Return a table and its values, each on a line.

    >>> print(table("a/b", {"url": "https://x", "types": ["*"], "rate": 50.0}), end="")
    ["a/b"]
    url = "https://x"
    types = ["*"]
    rate = 50
    """
    lines = (f"{key} = {_value(value, len(key) + 3)}\n" for key, value in values.items())
    return "".join([f"[{_key(name)}]\n", *lines])


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _value(value: Any, indent: int) -> str:
    match value:
        case str():
            return _text(value)
        case dict():
            inside = ", ".join(f"{_key(name)} = {_text(each)}" for name, each in value.items())
            return f"{{ {inside} }}"
        case list():
            return _list([_text(each) for each in value], indent)
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return repr(value)


def _list(texts: list[str], indent: int) -> str:
    line = f"[{', '.join(texts)}]"
    if indent + len(line) <= WIDTH:
        return line
    return "".join(["[\n", *(f"    {text},\n" for text in texts), "]"])


def _text(text: str) -> str:
    """Quote `text`: as it is where it can be, in the manner of JSON elsewhere."""
    if ('"' in text or "\\" in text) and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)
