"""A request passed on to a program of one's own, and what that answered.

It goes on byte for byte: its method, its headers in their order and case, its body as it
came. Only what belongs to a connection is made anew, as in every proxy. Redirects are
answers like any other, nothing is taken from the environment, and no URL is logged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import httpx

from outbox import InvalidInput
from outbox.addresses import ANYWHERE, check_url

from .arrivals import Reply, Request
from .curl import CONNECTION

if TYPE_CHECKING:
    from .arrivals import Headers

TIMEOUT = 30.0  # seconds for the whole answer
MOST = 4 * 1_048_576  # bytes of an answer
BAD_GATEWAY = 502


@dataclass(frozen=True, slots=True)
class Forward:
    """Where requests go on to, and through what."""

    url: str
    transport: httpx.AsyncBaseTransport

    async def send(self, request: Request) -> Reply:
        """Pass a request on; return the answer, or a 502 whose note says why there is none."""
        extensions: dict[str, Any] = {"timeout": httpx.Timeout(TIMEOUT).as_dict()}
        if target_url(self.url, request.path) != self.url:  # httpx would tidy the path
            extensions["target"] = request.path.encode("latin-1")
        headers = passed_on(request.headers)
        outgoing = httpx.Request(
            request.method, self.url, headers=_raw(headers), content=request.body,
            extensions=extensions,
        )  # fmt: skip
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._answer(outgoing)
        except TimeoutError:
            reason = f"no answer within {TIMEOUT:g} s"
        except httpx.HTTPError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        return _failed(f"{self.url} gave no answer: {reason}")

    async def _answer(self, outgoing: httpx.Request) -> Reply:
        answer = await self.transport.handle_async_request(outgoing)
        body = bytearray()
        try:
            async for chunk in cast("httpx.AsyncByteStream", answer.stream):
                body += chunk
                if len(body) > MOST:
                    return _failed(f"{self.url} answered with more than {MOST:,} bytes")
        finally:
            await answer.aclose()
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw
        ]
        note = f"{self.url} answered {answer.status_code}"
        return Reply(answer.status_code, passed_on(tuple(headers)), bytes(body), note)


def check_forward(url: str) -> str:
    """Return `url` if requests may be passed on there: any host, by http or https."""
    try:
        return check_url(url, allow=ANYWHERE)
    except InvalidInput as error:
        raise InvalidInput("forward", error.rule) from error


def target_url(url: str, path: str) -> str:
    """Return where a request for `path` goes: to `url`, or to its own path if that has none.

    >>> target_url("http://localhost:3000", "/hooks?a=1")
    'http://localhost:3000/hooks?a=1'
    >>> target_url("http://localhost:3000/in", "/hooks?a=1")
    'http://localhost:3000/in'
    """
    has_path = "/" in url.partition("://")[2]
    return url if has_path or not path.startswith("/") else url + path


def passed_on(headers: Headers) -> Headers:
    """Return the headers without those of the connection (RFC 9110, 7.6.1)."""
    named = [value for name, value in headers if name.lower() == "connection"]
    own = {part.strip().lower() for value in named for part in value.split(",")}
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() not in CONNECTION and name.lower() not in own
    )


def _raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _failed(reason: str) -> Reply:
    return Reply(BAD_GATEWAY, (("Content-Type", "text/plain"),), f"{reason}\n".encode(), reason)
