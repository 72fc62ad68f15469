"""Requests as a HAR 1.2 document, which browsers and proxies read, and back again.

A body that is no text is written in base64, which HAR knows for answers only; a member of
our own says so. What there was to say of a signature is the entry's comment.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from outbox import InvalidInput, __version__

from .arrivals import Arrival, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .arrivals import Headers

_RULE = "is no HAR document: "


def har(arrivals: Iterable[Arrival], origin: str) -> dict[str, Any]:
    """Return the document; `origin` is where it was listened, such as `http://127.0.0.1:8000`."""
    return {
        "log": {
            "version": "1.2",
            "creator": {"name": "outbox listen", "version": __version__},
            "entries": [_entry(found, origin) for found in arrivals],
        }
    }


def read_har(text: str | bytes) -> list[tuple[Request, int]]:
    """Return the requests of a HAR document, and how they were answered. Raises InvalidInput."""
    try:
        entries = json.loads(text)["log"]["entries"]
        return [(_request(entry), int(entry["response"]["status"])) for entry in entries]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput("load", _RULE + " ".join(reason.split())[:200]) from error


def _entry(found: Arrival, origin: str) -> dict[str, Any]:
    return {
        "startedDateTime": found.request.at.astimezone(UTC).isoformat(),
        "time": 0,
        "request": _of_request(found.request, origin),
        "response": _of_reply(found.reply),
        "cache": {},
        "timings": {"send": 0, "wait": 0, "receive": 0},
        "comment": "; ".join(filter(None, _said(found))),
    }


def _said(found: Arrival) -> Iterator[str | None]:
    yield f"signature {found.verdict.state}"
    yield found.verdict.reason
    yield None if found.repeats is None else str(found.repeats)
    yield None if found.request.flaw is None else found.request.flaw.reason
    yield found.reply.note


def _of_request(request: Request, origin: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "method": request.method, "url": origin + request.path,
        "httpVersion": f"HTTP/{request.version}", "cookies": [],
        "headers": _of_headers(request.headers), "queryString": [],
        "headersSize": -1, "bodySize": len(request.body),
    }  # fmt: skip
    if request.body:
        made["postData"] = {
            "mimeType": request.named().get("content-type", ""),
            **_of_body(request),
        }
    return made


def _of_body(request: Request) -> dict[str, Any]:
    if (text := request.text) is not None:
        return {"params": [], "text": text}
    return {"params": [], "text": b64encode(request.body).decode(), "_encoding": "base64"}


def _of_reply(reply: Reply) -> dict[str, Any]:
    phrase = HTTPStatus(reply.status).phrase if reply.status in set(HTTPStatus) else ""
    kind = next((value for name, value in reply.headers if name.lower() == "content-type"), "")
    text = b64encode(reply.body).decode()
    content = {"size": len(reply.body), "mimeType": kind, "text": text, "encoding": "base64"}
    return {
        "status": reply.status, "statusText": phrase, "httpVersion": "HTTP/1.1", "cookies": [],
        "headers": _of_headers(reply.headers), "content": content, "redirectURL": "",
        "headersSize": -1, "bodySize": len(reply.body),
    }  # fmt: skip


def _of_headers(headers: Headers) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in headers]


def _request(entry: dict[str, Any]) -> Request:
    found = entry["request"]
    headers = tuple((_bytes(each["name"]), _bytes(each["value"])) for each in found["headers"])
    at = datetime.fromisoformat(entry["startedDateTime"])
    version = _text(found.get("httpVersion", "")).removeprefix("HTTP/") or "1.1"
    return Request(
        at if at.tzinfo else at.replace(tzinfo=UTC), _bytes(found["method"]),
        _path(_bytes(found["url"])), headers, _body(found.get("postData") or {}), version,
    )  # fmt: skip


def _body(data: dict[str, Any]) -> bytes:
    text = _text(data.get("text", ""))
    if data.get("_encoding") == "base64":
        return b64decode(text, validate=True)
    return text.encode(errors="surrogatepass")


def _path(url: str) -> str:
    """What stands behind the host."""
    rest = url.partition("://")[2] or url
    place = next((n for n, character in enumerate(rest) if character in "/?"), None)
    return "/" if place is None else rest[place:]


def _bytes(value: object) -> str:
    """Read as Latin-1 what another program read as UTF-8."""
    text = _text(value)
    return text if max(text, default="") <= "\xff" else text.encode().decode("latin-1")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
