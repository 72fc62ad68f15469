"""`cloudevents-binary`: CloudEvents 1.0 in binary mode, attributes in `ce-` headers.

The body is the data as stored; see "HTTP Protocol Binding for CloudEvents" 1.0, 3.1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from .cloudevents import source
from .format import moment

if TYPE_CHECKING:
    from .format import Headers, SentEvent

_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def attributes(event: SentEvent) -> Headers:
    """Return the `ce-` headers of `event`."""
    headers = (
        (b"ce-specversion", b"1.0"),
        (b"ce-id", event.event_id.encode()),
        (b"ce-source", escaped(source(event.source))),
        (b"ce-type", event.type.encode()),
        (b"ce-time", moment(event.occurred_at).encode()),
    )
    return (*headers, (b"ce-subject", escaped(event.subject))) if event.subject else headers


@lru_cache(maxsize=256)
def escaped(text: str) -> bytes:
    """Return the value of a header: what is not printable ASCII, `"` and `%` as UTF-8 in %XX.

    >>> escaped("Euro €"), escaped("100%")
    (b'Euro%20%E2%82%AC', b'100%25')
    """
    return quote(text, safe=_PLAIN).encode()
