"""What a running `outbox listen` can be asked by other programs on its machine.

    GET   /-/requests            all that are kept, as JSON
    GET   /-/requests/3          one of them
    GET   /-/requests/3.curl     as a command
    POST  /-/requests/3/resend   send it to the forward target again
    GET   /-/har                 all that are kept, as HAR

Only for programs that call it on loopback, by a name of loopback, and are neither a proxy
nor a web page: to all others these paths are like any other. So what a tunnel opens to
the world takes webhooks and tells nothing.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING

from .arrivals import Arrival, Reply, Request, arrival_row
from .curl import curl
from .documents import dump
from .forward import target_url
from .har import har

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .inbox import Inbox

    Resend = Callable[[Arrival], Awaitable[Reply]]

_OF_BROWSERS_AND_PROXIES = ("origin", "sec-fetch-site", "forwarded", "via", "x-forwarded-for")
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_ONE = re.compile(r"/-/requests/([0-9]{1,12})(\.curl|/resend)?")


def is_asked(request: Request) -> bool:
    """Return whether a request is for us, not a webhook."""
    named = request.named()
    return (
        request.path.startswith("/-/")
        and request.flaw is None
        and _LOOPBACK.fullmatch(named.get("host", "")) is not None
        and not any(name in named for name in _OF_BROWSERS_AND_PROXIES)
        and _is_loopback(request.peer)
    )


def _is_loopback(peer: str) -> bool:
    try:
        return ip_address(peer).is_loopback
    except ValueError:
        return False


async def answer(
    request: Request, inbox: Inbox, origin: str, forward: str | None, resend: Resend
) -> Reply:
    """Return the answer to a request that is for us."""
    one = _ONE.fullmatch(request.path)
    verb = "POST" if one and one[2] == "/resend" else "GET"
    if not one and request.path not in {"/-/requests", "/-/har"}:
        return _text(404, "there is /-/requests, /-/requests/N, …/N.curl, …/N/resend and /-/har")
    if request.method != verb:
        return _text(405, f"this takes {verb}")
    if not one:
        kept = inbox.arrivals()
        return _json(
            har(kept, origin) if request.path == "/-/har" else list(map(arrival_row, kept))
        )
    found = inbox.get(int(one[1]))
    if found is None:
        return _text(404, f"no request {one[1]} is kept")
    if one[2] == "/resend":
        again = await resend(found)
        if forward is None:
            return _text(again.status, str(again.note))
        return _json({"number": found.number, "answer": again.status, "note": again.note})
    if one[2] == ".curl":
        return _text(200, as_curl(found, origin, forward))
    return _json(arrival_row(found))


def as_curl(found: Arrival, origin: str, forward: str | None) -> str:
    """Return the command that sends a request to where it is passed on, else to us again."""
    request = found.request
    url = target_url(forward or origin, request.path)
    return curl(request.method, url, request.headers, request.body)


def _json(value: object) -> Reply:
    return Reply(200, (("Content-Type", "application/json"),), f"{dump(value)}\n".encode())


def _text(status: int, text: str) -> Reply:
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return Reply(status, (kind,), f"{text}\n".encode(errors="replace"))
