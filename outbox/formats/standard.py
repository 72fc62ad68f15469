"""`standard`: the body that Standard Webhooks 1.0 advises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .format import moment

if TYPE_CHECKING:
    from .format import SentEvent


def standard(event: SentEvent, _subscription_id: str) -> bytes:
    """Return `{"type", "timestamp", "data"}`, with `data` spliced in as stored.

    A type needs no escaping: its grammar has nothing that JSON would escape.
    """
    at = moment(event.occurred_at)
    return f'{{"type":"{event.type}","timestamp":"{at}","data":{event.data}}}'.encode()
