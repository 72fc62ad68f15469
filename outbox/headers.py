"""The headers that a subscription may add to its requests (RFC 9110, section 5).

Names that say how the message is framed, signed or identified are ours, so that no
subscription can break a request or pretend to be another's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_HEADERS = 20
MAX_VALUE = 4_096

RESERVED = frozenset({
    "connection", "cookie", "date", "expect", "host", "idempotency-key", "keep-alive", "te",
    "traceparent", "trailer", "trailers", "transfer-encoding", "upgrade", "user-agent",
})  # fmt: skip
RESERVED_PREFIXES = ("ce-", "content-", "proxy-", "svix-", "webhook-")

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"[!-~]([ \t!-~]*[!-~])?")
_CREDENTIAL = re.compile(
    "auth|cookie|credential|key|password|secret|signature|token", re.IGNORECASE
)
HIDDEN = "[secure]"


def parse_headers(lines: Iterable[str]) -> dict[str, str]:
    """Return the headers of lines such as `X-Team: billing`, checked.

    >>> parse_headers(["X-Team: billing"])
    {'X-Team': 'billing'}
    """
    return check_headers(split_headers(lines))


def split_headers(lines: Iterable[str]) -> dict[str, str]:
    """Return the names and values of lines; a value may be empty. Raises InvalidInput."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise InvalidInput("header", "must be written as 'Name: value'")
        if name.lower() in {known.lower() for known in headers}:
            raise InvalidInput("header", f"{name} is given twice")
        headers[name] = value.strip()
    return headers


def merged(headers: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` with `changes`; an empty value takes a header away.

    >>> merged({"X-Team": "billing", "X-Old": "1"}, {"x-team": "sales", "X-Old": ""})
    {'x-team': 'sales'}
    """
    replaced = {name.lower() for name in changes}
    kept = {name: value for name, value in headers.items() if name.lower() not in replaced}
    return kept | {name: value for name, value in changes.items() if value}


def shown_value(name: str, value: str) -> str:
    """Return the value of a header as it may be shown: not if it sounds like a credential."""
    return HIDDEN if sounds_secret(name) else value


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` if a subscription may send them; raises InvalidInput.

    The message names a header, never its value, which may be a credential.
    """
    if len(headers) > MAX_HEADERS:
        raise InvalidInput("headers", f"must be at most {MAX_HEADERS}")
    for name, value in headers.items():
        _check_header(name, value)
    return dict(headers)


def sounds_secret(name: str) -> bool:
    """Return whether the value of a header of this name may be a credential.

    >>> sounds_secret("X-Api-Key"), sounds_secret("X-Team")
    (True, False)
    """
    return _CREDENTIAL.search(name) is not None


def check_user_agent(value: str) -> str:
    """Return `value` if it may be sent as user-agent; raises InvalidInput."""
    if not isinstance(value, str) or len(value) > 255 or not _VALUE.fullmatch(value):
        raise InvalidInput("user-agent", "must be printable ASCII, 1 to 255 characters")
    return value


def check_name(name: str) -> str:
    """Return `name` if a subscription may set a header of this name; raises InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput("header", f"{name!r} is not a header name")
    lower = name.lower()
    if lower in RESERVED or lower.startswith(RESERVED_PREFIXES):
        raise InvalidInput("header", f"{name} is set by the outbox itself")
    return name


def _check_header(name: str, value: str) -> None:
    check_name(name)
    if not isinstance(value, str) or len(value) > MAX_VALUE or not _VALUE.fullmatch(value):
        raise InvalidInput(
            "header", f"the value of {name} must be printable ASCII, 1 to {MAX_VALUE} characters"
        )
