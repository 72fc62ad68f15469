"""JSON Schemas of event data: what is one, and where data breaks it.

JSON Schema 2020-12, judged by the package `jsonschema`, which is imported when the first
schema comes along: most programs have none. Nothing is ever fetched: a `$ref` leads to
the schema itself, or to the standard's own. `format` is a note for readers, as the
standard has it. Numbers are exact: a `multipleOf` of 0.01 takes 19.90.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

from .encoding import encode, path_of
from .errors import InvalidInput

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON Schema that is one, compiled. `text` is how it is stored."""

    text: str
    validator: Validator

    def check(self, text: str, field: str, whose: str) -> None:
        """Raise InvalidInput unless the JSON `text` satisfies the schema of `whose`.

        Its field is the path to the value at fault, which begins with `field`.
        """
        try:
            flaw = _first(self.validator.iter_errors(parse(text)))
        except (RecursionError, ArithmeticError) as error:
            raise InvalidInput(field, f"cannot be judged by the schema of {whose}") from error
        if flaw is not None:
            where, rule = path_of(field, list(flaw.absolute_path)), _rule(flaw)
            raise InvalidInput(where, f"{rule}, by the schema of {whose}")


def compiled(schema: object) -> Schema:
    """Return `schema`, a value as `encode` takes it, ready for use.

    Raises InvalidInput if it is no JSON Schema 2020-12, or refers to what it does not hold.

    >>> whole = compiled({"properties": {"amount": {"multipleOf": 0.01}}, "required": ["id"]})
    >>> whole.check('{"id": 1, "amount": 19.90}', "data", "invoice.paid")
    >>> whole.check('{"id": 1, "amount": 0.001}', "data", "invoice.paid")
    Traceback (most recent call last):
    outbox.errors.InvalidInput: data.amount: must be a multiple of 0.01, by the schema of \
invoice.paid
    """
    return from_text(encode(schema, field="schema", max_bytes=MAX_BYTES))


@lru_cache(maxsize=256)  # the types of a catalogue often share one
def from_text(text: str) -> Schema:
    """Return the schema that `compiled` made, from how it is stored. Raises InvalidInput."""
    contents = parse(text)
    if isinstance(contents, dict) and contents.get("$schema", DIALECT) != DIALECT:
        raise InvalidInput("schema.$schema", f"must be {DIALECT}")
    _check(contents)
    _check_references(contents)
    validator = _kind()(contents, registry=_registry())
    try:
        validator.is_valid(None)
    except RecursionError as error:
        raise InvalidInput("schema", "refers to itself without end") from error
    return Schema(text, validator)


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text, its numbers exact."""
    return json.loads(text, parse_float=Decimal)


def _check(contents: object) -> None:
    kind = _kind()
    flaw = _first(kind(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER).iter_errors(contents))
    if flaw is not None:
        where = path_of("schema", list(flaw.absolute_path))
        raise InvalidInput(where, f"{_rule(flaw)}, by JSON Schema 2020-12")


def _check_references(contents: Any) -> None:
    """Follow each reference once, and what it leads to."""
    from referencing.jsonschema import DRAFT202012

    root = _registry().resolver_with_root(DRAFT202012.create_resource(contents))
    seen: dict[int, object] = {}
    todo = [(contents, root)]
    while todo:
        schema, resolver = todo.pop()
        if id(schema) in seen:
            continue
        seen[id(schema)] = schema
        resource = DRAFT202012.create_resource(schema)
        todo += [(sub.contents, resolver.in_subresource(sub)) for sub in resource.subresources()]
        for reference in _references(schema):
            found = _looked_up(resolver, reference)
            _check(found.contents)
            todo.append((found.contents, found.resolver))


def _references(schema: object) -> list[str]:
    if not isinstance(schema, Mapping):
        return []
    return [str(schema[word]) for word in ("$ref", "$dynamicRef") if word in schema]


def _looked_up(resolver: Any, reference: str) -> Any:
    from referencing.exceptions import Unresolvable

    try:
        return resolver.lookup(reference)
    except (Unresolvable, ValueError) as error:
        rule = f"refers to {shortened(reference)}, which is not in it; nothing is fetched"
        raise InvalidInput("schema", rule) from error


@cache
def _kind() -> Any:
    """Validators of the dialect, to which a decimal without a fraction is an integer."""
    from jsonschema import Draft202012Validator, validators

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    extend: Any = validators.extend
    return extend(Draft202012Validator, type_checker=checker)


def _is_integer(_: object, value: object) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


@cache
def _registry() -> Any:
    """The standard's own schemas; what is not among them is not fetched."""
    from jsonschema_specifications import REGISTRY

    return REGISTRY


def _first(flaws: Any) -> ValidationError | None:
    """Return the flaw that says most."""
    from jsonschema.exceptions import best_match

    found: ValidationError | None = best_match(flaws)
    return found


# What a rule says, without the value that breaks it: that may be a secret.


def _rule(flaw: ValidationError) -> str:
    say = _SAYINGS.get(str(flaw.validator))
    if say is None:
        return f"breaks the rule {flaw.validator}" if flaw.validator else _FORBIDDEN
    return say(flaw.validator_value, flaw.instance)


def _plainly(form: str) -> Callable[[Any, Any], str]:
    return lambda value, _: form.format(_shown(value))


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else encode(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _type(wanted: str | list[str], _: object) -> str:
    return f"must be of type {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"


def _required(names: list[str], value: Mapping[str, Any]) -> str:
    return f"lacks the member {next(name for name in names if name not in value)}"


_FORBIDDEN = "holds something that must not be there"  # of the schema false, without its key
_LONGEST = 100  # characters of a value of the schema
_SAYINGS: dict[str, Callable[[Any, Any], str]] = {
    "type": _type,
    "required": _required,
    "enum": _plainly("must be one of {}"),
    "const": _plainly("must be {}"),
    "minimum": _plainly("must be at least {}"),
    "maximum": _plainly("must be at most {}"),
    "exclusiveMinimum": _plainly("must be above {}"),
    "exclusiveMaximum": _plainly("must be below {}"),
    "multipleOf": _plainly("must be a multiple of {}"),
    "minLength": _plainly("must have at least {} characters"),
    "maxLength": _plainly("must have at most {} characters"),
    "minItems": _plainly("must have at least {} items"),
    "maxItems": _plainly("must have at most {} items"),
    "minProperties": _plainly("must have at least {} members"),
    "maxProperties": _plainly("must have at most {} members"),
    "pattern": _plainly("must match {}"),
    "anyOf": lambda *_: "fits none of the alternatives",
    "oneOf": lambda *_: "must fit exactly one of the alternatives",
    "not": lambda *_: "is what must not be",
    "format": _plainly("must be a {}"),
    "uniqueItems": lambda *_: "must not have an item twice",
    "additionalProperties": lambda *_: "has a member that is not provided for",
    "unevaluatedProperties": lambda *_: "has a member that is not provided for",
}
