"""Keys that are typed while something runs."""

from __future__ import annotations

import doctest

import pytest

from outbox.cli import keyboard
from outbox.cli.keyboard import Key, typed


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(keyboard).failed == 0


@pytest.mark.parametrize(
    ("text", "digits", "keys"),
    [
        ("", "", []),
        ("R", "", [Key("r", None)]),
        ("1\x1b[A2\x1bOP\x1b[1;5Cr", "", [Key("r", 12)]),
        ("\x1bq", "", [Key("q", None)]),
        ("٣", "", [Key("٣", None)]),
        ("9" * 99, "9" * 12, []),
    ],
)
def test_typed(text: str, digits: str, keys: list[Key]) -> None:
    """Digits wait for their letter; arrows and other sequences mean nothing."""
    assert typed("", text) == (digits, keys)
