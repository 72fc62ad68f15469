"""What an event type is, and what a subscription may ask for.

A type says what happened: parts of letters, digits, `_` and `-`, joined by
single dots, slashes or colons (`invoice.paid`, `mfa/setup/verify`, `User:Created`).
A pattern is a type, or the beginning of one followed by `*` (`invoice.*`, `add-*`, `*`).

The star stands only at the end, so matching is equality: a type has as many
candidate patterns as it has prefixes, and an index finds each of them.
`TYPE_RULE` and `PATTERN_RULE` mean the same to Python and to PostgreSQL;
the CHECK constraints of `schema.sql` repeat them.
"""

from __future__ import annotations

import re
from reprlib import repr as shortened

from .errors import InvalidInput

TYPE_RULE = "^[A-Za-z0-9_-]+([./:][A-Za-z0-9_-]+)*$"
PATTERN_RULE = "^([A-Za-z0-9_-]+[./:])*([A-Za-z0-9_-]+|[A-Za-z0-9_-]*[*])$"
MAX_TYPE = 128
MAX_PATTERN = MAX_TYPE + 1

_PARTS = "parts of A-Z a-z 0-9 _ - joined by single . / or :"
_TYPE = f"must be {_PARTS}, 1 to {MAX_TYPE} characters"
_PATTERN = f"must be {_PARTS}, or the beginning of such a type and *, 1 to {MAX_PATTERN} characters"


def check_type(text: str) -> str:
    """Return `text` if it is an event type, else raise `InvalidInput`.

    >>> check_type("invoice.paid")
    'invoice.paid'
    >>> check_type("invoice..paid")
    Traceback (most recent call last):
    outbox.errors.InvalidInput: type: must be parts of A-Z a-z 0-9 _ - \
joined by single . / or :, 1 to 128 characters; got 'invoice..paid'
    """
    return _check("type", text, TYPE_RULE, MAX_TYPE, _TYPE)


def check_pattern(text: str, field: str = "types") -> str:
    """Return `text` if it is a pattern of event types, else raise `InvalidInput` for `field`.

    >>> check_pattern("invoice.*")
    'invoice.*'
    """
    return _check(field, text, PATTERN_RULE, MAX_PATTERN, _PATTERN)


def parse_patterns(text: str) -> tuple[str, ...]:
    """Return the patterns of a comma-separated list, in order, each once.

    An empty list, an empty entry and anything that is no pattern raise `InvalidInput`.

    >>> parse_patterns("invoice.*, user.created, invoice.*")
    ('invoice.*', 'user.created')
    """
    return tuple(dict.fromkeys(check_pattern(part.strip()) for part in text.split(",")))


def matches(pattern: str, type: str) -> bool:
    """Return whether `pattern` means `type`.

    >>> matches("invoice.*", "invoice.paid"), matches("invoice", "invoice.paid")
    (True, False)
    """
    return type.startswith(pattern[:-1]) if pattern.endswith("*") else type == pattern


def _check(field: str, text: str, regex: str, longest: int, rule: str) -> str:
    if not isinstance(text, str):
        raise InvalidInput(field, f"must be text, not {type(text).__name__}")
    if len(text) > longest or not re.fullmatch(regex, text):
        raise InvalidInput(field, f"{rule}; got {shortened(text)}")
    return text
