"""Tables for people, at any width."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING

from outbox.cli import layout
from outbox.cli.layout import fields, shown, table

if TYPE_CHECKING:
    from .conftest import Cli

ID = "0190163d-8694-739b-aea5-966c26f8ad91"
URL = "https://example.com/" + "x" * 70
ROWS = [
    {"id": ID, "state": "dead", "attempt": 10, "url": URL, "held": None, "error": None},
    {"id": ID, "state": "pending", "attempt": 1, "url": "u", "held": None, "error": "no answer"},
]
NAMES = ("id", "state", "attempt", "url", "held", "error")


def lines(room: int | None) -> list[str]:
    """The table as plain text."""
    return [text.plain for text in table(ROWS, NAMES, room)]


def test_a_pipe_gets_one_line_a_row() -> None:
    """Without a terminal nothing is cut and nothing wraps; empty columns are left out."""
    assert lines(None) == [
        f"ID                                    STATE    ATTEMPT  URL{' ' * 89}ERROR",
        f"{ID}  dead          10  {URL}  -",
        f"{ID}  pending        1  u{' ' * 91}no answer",
    ]


def test_80_columns() -> None:
    """What does not fit stands below, with its name; ids stay whole."""
    assert lines(80) == [
        "ID                                    STATE    ATTEMPT",
        f"{ID}  dead          10",
        f"    url {URL}",
        f"{ID}  pending        1",
        "    url u  error no answer",
    ]


def test_a_very_narrow_terminal() -> None:
    """The first column stands however little room there is."""
    assert lines(10)[:2] == ["ID", ID]


def test_wide_characters_are_aligned() -> None:
    """Columns count cells, not characters."""
    rows = [{"tenant": "株式会社", "type": "a"}, {"tenant": "acme", "type": "b"}]

    assert [text.plain for text in table(rows, ("tenant", "type"), None)] == [
        "TENANT    TYPE",
        "株式会社  a",
        "acme      b",
    ]


def test_fields_are_names_and_values() -> None:
    """One thing is a line for each of its names."""
    row = {"id": ID, "types": ["a", "b.*"], "headers": {"K": "V", "L": "W"}, "filter": None}

    assert [text.plain for text in fields(row)] == [
        f"id       {ID}",
        "types    a, b.*",
        "headers  K: V, L: W",
        "filter   -",
    ]


def test_nothing_steers_the_terminal() -> None:
    """Escape sequences and line breaks of others are shown, not obeyed."""
    assert shown("a\x1b[31m\r\nb\u202e") == "a\\x1b[31m\\r\\nb\\u202e"
    assert shown("a\nb\t", lines=True) == "a\nb\\t"


def test_examples() -> None:
    """The examples of the module are true."""
    assert doctest.testmod(layout).failed == 0


def test_a_terminal_gets_colours_and_its_width(cli: Cli) -> None:
    """On a terminal of 80 columns the url stands below, and words have colours."""
    cli("subscriptions", "add", URL, "--types", "*")
    table = cli("subscriptions", "list", FORCE_COLOR="1").stdout

    assert "\x1b[32mactive\x1b[0m" in table
    assert f"\n    \x1b[2murl \x1b[0m{URL}\n" in table


def test_no_color(cli: Cli) -> None:
    """NO_COLOR means no escape sequence at all."""
    cli("subscriptions", "add", URL, "--types", "*")
    table = cli("subscriptions", "list", FORCE_COLOR="1", NO_COLOR="1").stdout

    assert "active" in table
    assert "\x1b" not in table
