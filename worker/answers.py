"""Which headers of an answer are kept, for who asks later what the receiver said.

Of an answer that did not deliver, all of them but those that may be credentials: they say
who refused, and why. Of a 2xx only those that name the request in the receiver's own
logs, so that a usual delivery keeps nothing.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from outbox.headers import sounds_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_KEPT = 4_096  # characters of names and values together

_NAMES = (
    b"request-id", b"requestid", b"trace-id", b"traceid", b"correlation-id", b"correlationid",
    b"traceparent", b"cf-ray", b"x-amz-cf-id", b"x-azure-ref", b"x-vercel-id",
)  # fmt: skip
_CHALLENGES = frozenset({"www-authenticate", "proxy-authenticate"})  # they hold no credential
_QUERY = re.compile("[?#].*", re.DOTALL)
_USER = re.compile("//[^/]*@")

Headers = tuple[tuple[str, str], ...]


def decoded(raw: Iterable[tuple[bytes, bytes]], *, delivered: bool) -> Headers:
    """Return headers with lower-case names; of an answer that `delivered` those that name it.

    >>> decoded([(b"Server", b"nginx"), (b"X-Request-Id", b"7")], delivered=True)
    (('x-request-id', '7'),)
    """
    if delivered:
        raw = [header for header in raw if header[0].lower().endswith(_NAMES)]
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw)


def kept(headers: Sequence[tuple[str, str]]) -> str | None:
    """Return `headers` as the JSON object that is kept of them, None if nothing is.

    Values of one name are joined by commas (RFC 9110, 5.3). A header that has no room in
    what is left of 4 KiB is left out.

    >>> kept([("server", "nginx"), ("set-cookie", "session=1"), ("via", "a"), ("via", "b")])
    '{"server": "nginx", "via": "a, b"}'
    """
    found: dict[str, str] = {}
    room = MAX_KEPT
    for name, value in headers:
        cost = len(name) + len(value) + len(", ")
        if cost > room or (sounds_secret(name) and name not in _CHALLENGES):
            continue
        room -= cost
        shown = bare_url(value) if name == "location" else value
        found[name] = f"{found[name]}, {shown}" if name in found else shown
    return json.dumps(found) if found else None


def bare_url(url: str) -> str:
    """Return `url` without its query, fragment and user, which may be secret.

    >>> bare_url("https://me:pw@example.com/a?token=1")
    'https://example.com/a'
    """
    return _USER.sub("//", _QUERY.sub("", url))
