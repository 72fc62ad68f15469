"""`cloudevents`: CloudEvents 1.0 in structured mode, the whole event in the body.

See "JSON Event Format for CloudEvents" and "HTTP Protocol Binding for CloudEvents" 1.0.
The attributes are those of the event; `time` is when it happened.
"""

from __future__ import annotations

import re
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import TYPE_CHECKING
from urllib.parse import quote

from .format import moment

if TYPE_CHECKING:
    from .format import SentEvent

SOURCE = "outbox"  # of an event without one: the attribute is required

_URI = "!#$&'()*+,/:;=?@[]~%"  # what quote() would escape beside letters, digits and -._
_LONELY_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


def cloudevents(event: SentEvent, _subscription_id: str) -> bytes:
    """Return the event as one JSON object, with `data` spliced in as stored."""
    subject = f',"subject":{quoted(event.subject)}' if event.subject else ""
    return (
        f'{{"specversion":"1.0","id":"{event.event_id}","source":{quoted(source(event.source))},'
        f'"type":"{event.type}"{subject},"time":"{moment(event.occurred_at)}",'
        f'"datacontenttype":"application/json","data":{event.data}}}'
    ).encode()


@lru_cache(maxsize=256)
def source(text: str | None) -> str:
    """Return the attribute `source`: it must be a URI reference, so the rest is escaped.

    >>> source("/shop/eu"), source("my shop"), source(None)
    ('/shop/eu', 'my%20shop', 'outbox')
    """
    return quote(_LONELY_PERCENT.sub("%25", text), safe=_URI) if text else SOURCE
