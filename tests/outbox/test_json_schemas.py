"""JSON Schemas: what is one, and what is said of data that breaks it."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest

from outbox import InvalidInput
from outbox.encoding import MAX_DEPTH, encode
from outbox.json_schemas import DIALECT, MAX_BYTES, compiled


def flaw(schema: object, data: object) -> str | None:
    """What is said of `data`; a text is JSON already."""
    text = data if isinstance(data, str) else encode(data)
    try:
        compiled(schema).check(text, "data", "t")
    except InvalidInput as error:
        return f"{error.field}: {error.rule}".removesuffix(", by the schema of t")
    return None


@pytest.mark.parametrize(
    ("schema", "data", "said"),
    [
        ({"type": "object"}, [], "data: must be of type object"),
        ({"type": ["string", "null"]}, 1, "data: must be of type string or null"),
        ({"required": ["a", "b"]}, {"a": 1}, "data: lacks the member b"),
        ({"properties": {"a": {"items": {"type": "null"}}}}, {"a": [None, 1]},
         "data.a[1]: must be of type null"),
        ({"properties": {"a": {"enum": ["x", 1]}}}, {"a": 2}, 'data.a: must be one of ["x",1]'),
        ({"const": {"a": 1}}, 1, 'data: must be {"a":1}'),
        ({"minimum": 3}, 2, "data: must be at least 3"),
        ({"exclusiveMaximum": 3}, 3, "data: must be below 3"),
        ({"maxLength": 2}, '"abc"', "data: must have at most 2 characters"),
        ({"minItems": 1}, [], "data: must have at least 1 items"),
        ({"pattern": "^a"}, '"b"', "data: must match ^a"),
        ({"uniqueItems": True}, [1, 1], "data: must not have an item twice"),
        ({"additionalProperties": False}, {"a": 1},
         "data: has a member that is not provided for"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, 1,
         "data: fits none of the alternatives"),
        ({"properties": {"a": False}}, {"a": 1}, "data: holds something that must not be there"),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, "data: must have at most 1 characters"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "data: breaks the rule dependentRequired"),
        ({"enum": ["x" * 200]}, 1, f'data: must be one of ["{"x" * 97}…'),
    ],
)  # fmt: skip
def test_flaws(schema: object, data: object, said: str) -> None:
    """It says where and which rule, and never the value, which may be a secret."""
    assert flaw(schema, data) == said


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        (True, 1),
        ({"$schema": DIALECT, "title": "anything"}, None),
        ({"type": "integer"}, "5.0"),
        ({"type": "number"}, "19.90"),
        ({"multipleOf": 0.01}, "19.90"),
        ({"enum": [19.9]}, "19.90"),
        ({"format": "email"}, '"nobody"'),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, None),
        ({"$ref": "https://a.example/b", "$defs": {"b": {"$id": "https://a.example/b"}}}, 1),
        ({"$ref": DIALECT}, {"type": "string"}),
        ({"properties": {"a": {"$ref": "#"}}}, {"a": {"a": {}}}),
    ],
)
def test_fits(schema: object, data: object) -> None:
    """What the schema allows passes; numbers are exact, and `format` is a note."""
    assert flaw(schema, data) is None


@pytest.mark.parametrize("data", ["true", "1.5", '"1"'])
def test_no_integer(data: str) -> None:
    """A truth, a fraction and a text are no integers."""
    assert flaw({"type": "integer"}, data) == "data: must be of type integer"


def test_cannot_be_judged() -> None:
    """What arithmetic cannot do is refused, and not let through."""
    assert flaw({"multipleOf": 0.01}, "1e900") == "data: cannot be judged by the schema of t"


def test_deep_data() -> None:
    """As deep as data may be, a schema that refers to itself follows it."""
    assert flaw({"items": {"$ref": "#"}}, "[" * MAX_DEPTH + "]" * MAX_DEPTH) is None


@pytest.mark.parametrize(
    ("schema", "field", "rule"),
    [
        (5, "schema", "must be of type object or boolean"),
        ({"type": "strin"}, "schema.type", "fits none of the alternatives"),
        ({"properties": {"a": {"minLength": -1}}}, "schema.properties.a.minLength", "at least 0"),
        ({"pattern": "("}, "schema.pattern", "must be a regex"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "schema.$schema", DIALECT),
        ({"$ref": "#/$defs/a"}, "schema", "not in it"),
        ({"$ref": "#/a", "a": {"$ref": "#/b"}}, "schema", "not in it"),
        ({"$ref": "#/a", "a": {"type": 1}}, "schema.type", "alternatives"),
        ({"$ref": "#/required/0", "required": ["a"]}, "schema", "must be of type"),
        ({"$ref": "#"}, "schema", "refers to itself without end"),
        ({"$dynamicRef": "#a"}, "schema", "not in it"),
        ({"title": "x" * MAX_BYTES}, "schema", "bytes as JSON"),
    ],
)
def test_no_schema(schema: object, field: str, rule: str) -> None:
    """What is no JSON Schema 2020-12, or not whole, is refused with the place and the rule."""
    with pytest.raises(InvalidInput) as caught:
        compiled(schema)

    assert caught.value.field == field
    assert rule in caught.value.rule


@pytest.mark.parametrize("scheme", ["http", "https", "file"])
def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """A reference to elsewhere is refused without a look there."""

    def connect(*_: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(InvalidInput, match="nothing is fetched"):
        compiled({"items": {"$ref": f"{scheme}://127.0.0.1/etc/passwd"}})


def test_who_has_no_schema_pays_nothing() -> None:
    """`import outbox` and the worker do not import jsonschema."""
    code = "import sys, outbox.worker.__main__; print('jsonschema' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603

    assert ended.stdout == "False\n"
