"""Catalogues as files: in version control, from an OpenAPI document, or of a known system.

Three forms are read, all of them JSON:

    {"types": {"invoice.paid": {"description": …, "schema": …, "example": …}}}   our own
    {"openapi": "3.1.0", "webhooks": {"invoice.paid": {"post": …}}}              OpenAPI 3.1
    {"invoice.paid": {"type": "object", …}}                                      JSON Schemas

A `$ref` from a schema into the rest of its file becomes a part of the schema, so that
each entry is whole. A webhook's body is taken to be the data of its event.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .catalogue import EventType, describe
from .errors import InvalidInput
from .json_schemas import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

READY = ("casdoor", "logto")
MAX_REFERENCES = 1_000  # that one schema may follow


def ready(name: str) -> list[EventType]:
    """Return the event types of a known system, one of READY."""
    text = files(__package__).joinpath(f"catalogues/{name}.json").read_text()
    return read(text)


def read(text: str | bytes) -> list[EventType]:
    """Return the event types of a file, checked, by name. Raises InvalidInput."""
    try:
        document = parse(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("catalogue", f"is not JSON: {error}") from error
    try:
        entries = dict(_entries(_members("catalogue", document)))
    except RecursionError as error:
        raise InvalidInput("catalogue", "is nested too deeply") from error
    return [_described(type, entries[type]) for type in sorted(entries)]


def write(types: Iterable[EventType]) -> str:
    """Return the file, in our own form, that `read` reads as `types`."""
    members = (f"{json.dumps(each.type)}:{_written(each)}" for each in types)
    return f'{{"types":{{{",".join(members)}}}}}'


def _written(entry: EventType) -> str:
    texts = {
        "description": None if entry.description is None else json.dumps(entry.description),
        "deprecated": "true" if entry.deprecated else None,
        "schema": entry.schema,
        "example": entry.example,
    }
    return "{" + ",".join(f'"{name}":{text}' for name, text in texts.items() if text) + "}"


def _described(type: str, entry: Mapping[str, Any]) -> EventType:
    try:
        return describe(type, **entry)
    except InvalidInput as error:
        raise InvalidInput(f"{type}: {error.field}", error.rule) from error


def _entries(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if "openapi" in document:
        return _webhooks(document)
    if "types" in document:
        return _own(document)
    return _schemas(document)


# Our own form.

_MEMBERS: dict[str, Any] = {
    "description": str, "schema": (dict, bool), "example": object, "deprecated": bool,
}  # fmt: skip


def _own(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for type, entry in _members("types", document["types"]).items():
        for name, value in _members(type, entry).items():
            if name not in _MEMBERS or not isinstance(value, _MEMBERS[name]):
                known = ", ".join(_MEMBERS)
                raise InvalidInput(f"{type}: {name}", f"is not one of {known}, or of another kind")
        yield type, entry | _whole(entry.get("schema"), document)


def _members(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(name, "must be an object")
    return value


# OpenAPI 3.1.


def _webhooks(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if str(document["openapi"]).startswith("3.0"):
        raise InvalidInput("openapi", "must be 3.1 or newer, whose schemas are JSON Schemas")
    for type, item in _members("webhooks", document.get("webhooks")).items():
        path = _resolved(type, item, document)
        operation = next((_members(type, path[verb]) for verb in _VERBS if verb in path), {})
        body = _resolved(type, operation.get("requestBody", {}), document)
        content = _members(type, body.get("content", {}))
        media = _members(type, content.get("application/json", {}))
        yield (
            type,
            _without_nothing(
                description=_line(operation.get("summary") or operation.get("description")),
                deprecated=operation.get("deprecated") is True,
                example=_example(type, media, document),
                **_whole(media.get("schema"), document),
            ),
        )


_VERBS = ("post", "put", "patch")


def _example(type: str, media: dict[str, Any], document: dict[str, Any]) -> object:
    if "example" in media:
        return media["example"]
    examples = list(_members(type, media.get("examples", {})).values())
    return _resolved(type, examples[0], document).get("value") if examples else None


def _resolved(name: str, value: Any, document: dict[str, Any]) -> dict[str, Any]:
    """Return the object that a reference of OpenAPI leads to, if it is one."""
    for _ in range(MAX_REFERENCES):
        found = _members(name, value)
        if not isinstance(found.get("$ref"), str):
            return found
        value = _at(document, found["$ref"])
    raise InvalidInput(name, "has references that go round in a circle")


# A map of JSON Schemas, which describe themselves.


def _schemas(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for type, schema in document.items():
        about = schema if isinstance(schema, dict) else {}
        examples = about.get("examples")
        yield (
            type,
            _without_nothing(
                description=_line(about.get("description") or about.get("title")),
                deprecated=about.get("deprecated") is True,
                example=examples[0] if isinstance(examples, list) and examples else None,
                schema=schema,
            ),
        )


def _line(text: object) -> str | None:
    return " ".join(text.split()) or None if isinstance(text, str) else None


def _without_nothing(**entry: Any) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None}


# Schemas made whole.


def _whole(schema: Any, document: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with all that it refers to in its document, at the same place."""
    if not isinstance(schema, dict):
        return {} if schema is None else {"schema": schema}
    whole, done = dict(schema), set[str]()
    todo = list(_references(schema))
    while todo:
        reference = todo.pop()
        if reference in done or not reference.startswith("#/"):
            continue
        if len(done) >= MAX_REFERENCES:
            raise InvalidInput("schema", f"refers to more than {MAX_REFERENCES:,} others")
        done.add(reference)
        if not _has(schema, reference):
            found = _at(document, reference)
            _put(whole, reference, found)
            todo += _references(found)
    return {"schema": whole}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _steps(reference: str) -> list[str]:
    """Return the keys of a JSON pointer (RFC 6901) in a fragment."""
    steps = unquote(reference.removeprefix("#/")).split("/")
    return [step.replace("~1", "/").replace("~0", "~") for step in steps]


def _has(value: Any, reference: str) -> bool:
    try:
        _at(value, reference)
    except InvalidInput:
        return False
    return True


def _at(value: Any, reference: str) -> Any:
    try:
        for step in _steps(reference):
            value = value[int(step)] if isinstance(value, list) else value[step]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InvalidInput("catalogue", f"refers to {reference}, which is not in it") from error
    return value


def _put(whole: Any, reference: str, value: Any) -> None:
    *way, last = _steps(reference)
    for step in way:
        if not isinstance(whole.get(step, {}), dict):
            return  # a list that is there as a whole
        whole[step] = dict(whole.get(step, {}))
        whole = whole[step]
    whole[last] = value
