"""Data of an event as it is typed: JSON, `@FILE`, or `-` for stdin."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from outbox import InvalidInput

from .options import read_stdin


def given_data(text: str) -> object:
    """Return the data that `text` names, with the digits of its numbers. Raises InvalidInput."""
    try:
        return json.loads(_content(text), parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("data", f"is not JSON: {error}") from error


def _content(text: str) -> str | bytes:
    if text == "-":
        return read_stdin()
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise InvalidInput("data", f"cannot be read from {text[1:]}: {error.strerror}") from error
