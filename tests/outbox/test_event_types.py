"""The grammar of event types and patterns."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from outbox import event_types
from outbox.errors import InvalidInput
from outbox.event_types import (
    PATTERN_RULE,
    TYPE_RULE,
    check_pattern,
    check_type,
    parse_patterns,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = Path(__file__).parents[2] / "schema.sql"

parts = st.text("abcXYZ019_-", min_size=1, max_size=8)
types = st.builds(
    lambda first, rest: first + "".join(joint + part for joint, part in rest),
    parts,
    st.lists(st.tuples(st.sampled_from("./:"), parts), max_size=8),
)
near_types = st.text("aZ9_-./:*\n é", max_size=12)


def accepted(check: Callable[[str], str], value: str) -> bool:
    try:
        return check(value) == value
    except InvalidInput:
        return False


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(event_types).failed == 0


@pytest.mark.parametrize(
    "name", ["a", "invoice.paid", "add-user", "mfa/setup/verify", "User.Data.Updated", "a:b", "-"]
)
def test_type_is_returned(name: str) -> None:
    """A type of this or another system is a type."""
    assert check_type(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "a./b", "a b", "a\n", "é", "a*", "*", "a\0", "\ud800", None, 7],
)
def test_what_is_no_type(name: object) -> None:
    """Empty parts, other characters, stars and what is no text are refused."""
    with pytest.raises(InvalidInput, match=r"^type: must be "):
        check_type(name)  # type: ignore[arg-type]


def test_length() -> None:
    """A type has at most 128 characters, a pattern one more for its star."""
    longest = "a" * 128

    assert check_type(longest) == longest
    assert check_pattern(f"{longest}*") == f"{longest}*"
    assert not accepted(check_type, longest + "a")
    assert not accepted(check_pattern, f"{longest}a*")


def test_error_is_short() -> None:
    """However long the text, the message shows the ends of it only."""
    with pytest.raises(InvalidInput) as error:
        check_type("é" * 1_000_000)

    assert len(str(error.value)) < 200


@pytest.mark.parametrize("pattern", ["*", "invoice.*", "add-*", "invoice.pa*", "mfa/*", "a.b"])
def test_pattern_is_returned(pattern: str) -> None:
    """A type, or the beginning of one and a star, is a pattern."""
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern", ["", "**", "*.paid", "a.*.b", "a..*", ".*", "a*b", "a.", "a*\n"]
)
def test_what_is_no_pattern(pattern: str) -> None:
    """A star anywhere but at the end, and the beginning of no type, are refused."""
    with pytest.raises(InvalidInput, match=r"^types: must be "):
        check_pattern(pattern)


@given(types, st.data())
def test_every_prefix_is_a_pattern(name: str, data: st.DataObject) -> None:
    """Each beginning of a type, from none of it to all of it, makes a pattern."""
    prefix = name[: data.draw(st.integers(0, len(name)))]

    assert check_pattern(check_type(name)) == name
    assert check_pattern(f"{prefix}*") == f"{prefix}*"


def test_list_of_patterns() -> None:
    """A list keeps its order and drops what it says twice."""
    assert parse_patterns("b.*,a ,b.*, c") == ("b.*", "a", "c")


@pytest.mark.parametrize("listed", ["", " ", "a,", ",a", "a,,b", "a b"])
def test_bad_list_of_patterns(listed: str) -> None:
    """An empty list, an empty entry and a bad one are refused."""
    with pytest.raises(InvalidInput, match=r"^types: "):
        parse_patterns(listed)


def test_schema_repeats_the_rules() -> None:
    """The CHECK constraints of the schema use the very same expressions."""
    schema = SCHEMA.read_text()

    assert f"'{TYPE_RULE}'" in schema
    assert f"'{PATTERN_RULE}'" in schema


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=near_types | types)
def test_postgresql_agrees(db: Connection, name: str) -> None:
    """PostgreSQL and Python read the rules in the same way."""
    query = text("SELECT :name ~ :type, :name ~ :pattern")

    found = db.execute(query, {"name": name, "type": TYPE_RULE, "pattern": PATTERN_RULE}).one()

    assert tuple(found) == (
        re.fullmatch(TYPE_RULE, name) is not None,
        re.fullmatch(PATTERN_RULE, name) is not None,
    )
