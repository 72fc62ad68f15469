"""JSON documents keep the text of stored JSON."""

from __future__ import annotations

import doctest
import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.cli import documents
from outbox.cli.documents import Json, dump, pretty

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_dump_is_json(value: object) -> None:
    """A document reads back as what was put in."""
    assert json.loads(dump(value)) == value


@given(VALUES)
def test_pretty_changes_only_white_space(value: object) -> None:
    """Pretty text is what the standard library writes, if the text was its own."""
    text = json.dumps(value, ensure_ascii=False)

    assert pretty(text) == json.dumps(value, ensure_ascii=False, indent=2)


@pytest.mark.parametrize("text", ["19.90", "1E400", '{"a":1,"a":2}', '" \\u00e9 , : { "', "-0"])
def test_stored_json_is_not_rewritten(text: str) -> None:
    """Digits, doubled members and escapes stay as they are stored."""
    assert dump([Json(text)]) == f"[{text}]"
    assert "".join(pretty(text).split()) == "".join(text.split())


def test_words_of_the_database() -> None:
    """Ids and times are strings; times are UTC."""
    row = {
        "id": UUID(int=1),
        "at": datetime(2026, 1, 31, 10, tzinfo=timezone(timedelta(hours=1))),
        "precise": datetime(2026, 1, 31, 10, 0, 0, 5, tzinfo=UTC),
    }

    assert json.loads(dump(row)) == {
        "id": "00000000-0000-0000-0000-000000000001",
        "at": "2026-01-31T09:00:00Z",
        "precise": "2026-01-31T10:00:00.000005Z",
    }


def test_a_list_of_rows_has_a_line_for_each() -> None:
    """So that a long list can be read and cut by lines."""
    assert dump([{"a": 1}, {"a": [2, 3]}]) == '[{"a": 1},\n {"a": [2, 3]}]'


def test_examples() -> None:
    """The examples of the module are true."""
    assert doctest.testmod(documents).failed == 0
