"""Catalogues as files: three forms, and two that are ready."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outbox import Catalogue, InvalidInput, catalogue_files
from outbox.catalogue import EventType, describe
from outbox.encoding import encode

VECTORS = Path(__file__).parents[1] / "vectors" / "identity.json"
WHOLE = describe(
    "invoice.paid", description='It is "paid".', schema={"required": ["id"]},
    example={"id": 1}, deprecated=True,
)  # fmt: skip


def read(document: object) -> list[EventType]:
    return catalogue_files.read(json.dumps(document))


def test_our_own_form() -> None:
    """What is written is read as it was."""
    types = [describe("a"), WHOLE]

    assert catalogue_files.read(catalogue_files.write(types)) == types
    assert catalogue_files.read('{"types": {}}') == []


def test_schemas() -> None:
    """An object of JSON Schemas is a catalogue; they describe themselves."""
    schema = {
        "title": "Not\n this",
        "description": "It  is\npaid.",
        "examples": [7],
        "deprecated": True,
    }
    (described, plain) = read({"a": schema, "b": True})

    assert described == EventType("a", "It is paid.", encode(schema), "7", True)
    assert plain == EventType("b", schema="true")


OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {},
    "webhooks": {
        "invoice.paid": {
            "post": {
                "summary": "An invoice was paid.",
                "deprecated": True,
                "requestBody": {"$ref": "#/components/requestBodies/Invoice"},
            }
        },
        "user.created": {"$ref": "#/components/pathItems/User"},
        "bare": {"post": {}},
    },
    "components": {
        "requestBodies": {
            "Invoice": {
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/Invoice"},
                        "examples": {"one": {"value": {"lines": [{"sku": "x"}]}}},
                    }
                }
            }
        },
        "pathItems": {"User": {"post": {"description": "A user."}}},
        "schemas": {
            "Invoice": {
                "type": "object",
                "properties": {"lines": {"items": {"$ref": "#/components/schemas/A%20line~1"}}},
            },
            "A line/": {
                "required": ["sku"],
                "properties": {"of": {"$ref": "#/components/schemas/Invoice"}},
            },
            "Other": {"type": "string"},
        },
    },
}


def test_openapi() -> None:
    """Webhooks of OpenAPI are event types, each with the schemas that it refers to."""
    bare, paid, user = read(OPENAPI)

    assert bare == EventType("bare")
    assert user == EventType("user.created", "A user.")
    assert (paid.description, paid.deprecated) == ("An invoice was paid.", True)
    assert paid.example == '{"lines":[{"sku":"x"}]}'
    assert set(json.loads(paid.schema or "")["components"]["schemas"]) == {"Invoice", "A line/"}
    with pytest.raises(InvalidInput) as caught:
        Catalogue([paid]).check("invoice.paid", '{"lines": [{"sku": "x", "of": {"lines": [{}]}}]}')
    assert caught.value.field == "data.lines[0].of.lines[0]"


def test_shared_definitions() -> None:
    """In our own form too a schema may refer to the rest of its file, or to itself."""
    document = {
        "$defs": {"id": {"type": "integer"}, "list": [{"type": "null"}], "unused": {}},
        "types": {
            "a": {"schema": {"properties": {"id": {"$ref": "#/$defs/id"}}}},
            "b": {"schema": {"$ref": "#/$defs/id", "$defs": {"id": {"type": "string"}}}},
            "c": {"schema": {"$ref": "#/$defs/list/0"}},
        },
    }
    a, b, c = read(document)

    assert json.loads(a.schema or "")["$defs"] == {"id": {"type": "integer"}}
    assert json.loads(b.schema or "")["$defs"] == {"id": {"type": "string"}}
    Catalogue([c]).check("c", "null")


@pytest.mark.parametrize(
    ("field", "document"),
    [
        ("catalogue", []),
        ("catalogue", "a"),
        ("types", {"types": []}),
        ("a", {"types": {"a": []}}),
        ("a: descripton", {"types": {"a": {"descripton": "x"}}}),
        ("a: deprecated", {"types": {"a": {"deprecated": "yes"}}}),
        ("a: schema", {"types": {"a": {"schema": "x"}}}),
        ("a b: type", {"types": {"a b": {}}}),
        ("a: example", {"types": {"a": {"schema": False, "example": 1}}}),
        ("a: schema.type", {"a": {"type": "strin"}}),
        ("a: schema", {"a": 5}),
        ("openapi", {"openapi": "3.0.3", "webhooks": {}}),
        ("webhooks", {"openapi": "3.1.0"}),
        ("webhooks", {"openapi": "3.1.0", "webhooks": []}),
        ("a", {"openapi": "3.1.0", "webhooks": {"a": {"post": []}}}),
        ("a", {"openapi": "3.1.0", "webhooks": {"a": {"post": {"requestBody": {"content": 1}}}}}),
        ("catalogue", {"openapi": "3.1.0", "webhooks": {"a": {"$ref": "#/components/x"}}}),
        ("a", {"openapi": "3.1.0", "webhooks": {"a": {"$ref": "#/webhooks/a"}}}),
        ("catalogue", {"types": {"a": {"schema": {"$ref": "#/$defs/none"}}}}),
        ("a: schema", {"types": {"a": {"schema": {"$ref": "https://example.com/"}}}}),
    ],
)
def test_wrong_files(field: str, document: object) -> None:
    """A file that is none is refused with the place."""
    with pytest.raises(InvalidInput) as caught:
        read(document)

    assert caught.value.field == field


@pytest.mark.parametrize(
    "text", ["", "{", b"\xff", "[" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000]
)
def test_no_json(text: str | bytes) -> None:
    """What is no JSON, or too deep, is refused."""
    with pytest.raises(InvalidInput):
        catalogue_files.read(text)


# Ready ones.


@pytest.mark.parametrize(("name", "count"), [("casdoor", 146), ("logto", 31)])
def test_ready(name: str, count: int) -> None:
    """Every event of the system is there, with a sentence about it and a schema."""
    types = catalogue_files.ready(name)

    assert len(types) == count
    assert all(each.description and each.schema and not each.deprecated for each in types)
    assert len({each.description for each in types}) == count


def test_what_they_send_fits() -> None:
    """What Casdoor and Logto really sent satisfies the schemas."""
    known = Catalogue(
        [each for name in catalogue_files.READY for each in catalogue_files.ready(name)]
    )
    for vector in json.loads(VECTORS.read_text())["vectors"]:
        body = json.loads(vector["body"])
        known.check(body.get("event") or body["action"], vector["body"])


@pytest.mark.parametrize(
    ("type", "data", "field"),
    [
        ("login", {"object": {"password": "x"}}, "data.object"),
        ("add-user", {"statusCode": "200"}, "data.statusCode"),
        ("PostSignIn", {"user": {"createdAt": "2026-01-31"}}, "data.user.createdAt"),
        ("Organization.Membership.Updated", {"addedUserIds": ["a"]}, "data"),
        ("Identifier.Lockout", {"type": "email"}, "data"),
    ],
)
def test_what_they_would_not_send(type: str, data: object, field: str) -> None:
    """Mistakes that are easily made are found."""
    known = Catalogue(
        [each for name in catalogue_files.READY for each in catalogue_files.ready(name)]
    )
    with pytest.raises(InvalidInput) as caught:
        known.check(type, encode(data))

    assert caught.value.field == field
