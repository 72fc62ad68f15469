"""A request as it crosses the boundary: an `httpx.Request` that is made as far as it is asked.

httpx copies and normalizes each header, and parses the URL. A transport that sends bytes
needs neither.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import httpx

from outbox.request import Outgoing

from .route import parsed

if TYPE_CHECKING:
    from .phases import Stopwatch


class Ask(httpx.Request):
    """`outgoing`, to be sent; `watch` is told of each phase, as the extension "stopwatch".

    Whoever looks finds an httpx.Request like any other.
    """

    def __init__(self, outgoing: Outgoing, watch: Stopwatch) -> None:
        self.outgoing = outgoing
        self.method = outgoing.method
        self.stream = httpx.ByteStream(outgoing.body)
        self.extensions = {"stopwatch": watch}

    @cached_property
    def url(self) -> httpx.URL:  # type: ignore[override]
        """Where it goes."""
        return parsed(self.outgoing.url)

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        """What is said beside the body."""
        return httpx.Headers(self.outgoing.headers)


async def outgoing(request: httpx.Request) -> Outgoing:
    """Return what `request` comes to, for who sends bytes."""
    if isinstance(request, Ask):
        return request.outgoing
    body = await request.aread()
    return Outgoing(str(request.url), tuple(request.headers.raw), body, request.method)
