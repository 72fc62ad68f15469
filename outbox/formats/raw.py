"""`raw`: the data alone, as it was stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .format import SentEvent


def raw(event: SentEvent, _subscription_id: str) -> bytes:
    """Return the data, byte for byte."""
    return event.data.encode()
