"""`logto`: the body that Logto sends, for consumers that already read it.

The event's data is the payload: an object whose members stay in their order, written as
JSON.stringify would (Logto 1.42, libraries/hook). What a payload always has is added if
it is missing: `event`, the event's type, first; then `createdAt`, when it happened; and
`hookId`, the subscription's id, last. Data that is no object becomes the member `data`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .format import moment
from .rewritten import as_in_javascript, quoted_by_javascript, read, write

if TYPE_CHECKING:
    from .format import SentEvent


def logto(event: SentEvent, subscription_id: str) -> bytes:
    """Return the payload that `event` is."""
    try:
        data = read(event.data)
        given = data if isinstance(data, dict) else {"data": data}
        return write(_payload(event, given, subscription_id), quoted_by_javascript,
                     as_in_javascript).encode()  # fmt: skip
    except RecursionError:
        return _spliced(event, subscription_id)


def _payload(event: SentEvent, given: dict[str, Any], subscription_id: str) -> dict[str, Any]:
    first = {"event": event.type, "createdAt": moment(event.occurred_at, "milliseconds")}
    missing = {name: value for name, value in first.items() if name not in given}
    return missing | given | {"hookId": given.get("hookId", subscription_id)}


def _spliced(event: SentEvent, subscription_id: str) -> bytes:
    members = write(_payload(event, {}, subscription_id), quoted_by_javascript)
    head, tail = members.split(',"hookId":')
    return f'{head},"data":{event.data},"hookId":{tail}'.encode()
