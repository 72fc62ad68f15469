"""What a receiver to develop against knows of a request: as it arrived, and what came of it.

Header names keep their case and their order. All but the body is read as Latin-1, so that
every byte stays what it was.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from outbox.verdicts import Verdict

Headers = tuple[tuple[str, str], ...]

ID_HEADERS = (
    "webhook-id", "svix-id", "ce-id", "x-github-delivery", "x-shopify-webhook-id",
    "idempotency-key",
)  # fmt: skip
_TYPE_HEADERS = ("ce-type", "x-github-event", "x-shopify-topic")
_TYPE_MEMBERS = ("type", "event", "action")
_MOST_PARSED = 1_048_576  # bytes


class Flaw(NamedTuple):
    """Why a request is not whole, and the status that answers it."""

    status: int
    reason: str


BROKEN_OFF = Flaw(400, "its body broke off")


def too_large(most: int) -> Flaw:
    """A body of more bytes than `most`."""
    return Flaw(413, f"its body is larger than {most:,} bytes; the rest was not read")


def too_slow(seconds: float) -> Flaw:
    """A body that is not there after so long."""
    return Flaw(408, f"its body did not arrive within {seconds:g} s")


def not_http(message: str) -> Flaw:
    """Bytes that are no request."""
    return Flaw(400, f"it is no HTTP: {' '.join(message.split()).rstrip(' ^')[:200]}")


@dataclass(frozen=True, slots=True)
class Request:
    """A request; `flaw` says why it is not whole, `path` has the query."""

    at: datetime
    method: str
    path: str
    headers: Headers = ()
    body: bytes = b""
    version: str = "1.1"
    peer: str = ""
    flaw: Flaw | None = None

    def named(self) -> dict[str, str]:
        """Return the headers by lower-case names; the values of equal names are joined."""
        found: dict[str, str] = {}
        for name, value in self.headers:
            key = name.lower()
            found[key] = f"{found[key]}, {value}" if key in found else value
        return found

    @property
    def text(self) -> str | None:
        """The body as text, None if it is none."""
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `note` says how it came about, if there is more to say than its status."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Repeats:
    """Others had the same id: `first` is the number of the first of `times`, `accepted` that
    of the first that was answered 2xx, `answered` the last status."""

    first: int
    times: int
    answered: int | None
    accepted: int | None
    same_body: bool

    def __str__(self) -> str:
        if self.accepted is not None:
            text = f"a duplicate of {self.accepted}, which was accepted"
        elif self.answered is not None:
            text = f"repeats {self.first}, last answered {self.answered}"
        else:
            text = f"repeats {self.first}, which has no answer yet"
        return text if self.same_body else f"{text}, but with another body"


@dataclass(frozen=True, slots=True)
class Arrival:
    """The request number `number`, what there is to say about it, and how it was answered."""

    number: int
    request: Request
    repeats: Repeats | None
    verdict: Verdict
    reply: Reply

    @property
    def attempt(self) -> int:
        """The sender's own number of this attempt, else how often its id has come."""
        told = self.request.named().get("webhook-attempt", "")
        if told.isascii() and told.isdecimal() and len(told) < 6:
            return int(told)
        return 1 if self.repeats is None else self.repeats.times + 1


def event_id(request: Request) -> str | None:
    """Return what tells the same event again: the first header of ID_HEADERS that is there."""
    named = request.named()
    found = next((named[name] for name in ID_HEADERS if named.get(name)), None)
    return None if found is None else found.strip('"')


def event_type(request: Request) -> str | None:
    """Return the event type that a request tells, in a header or in its JSON."""
    named = request.named()
    if (
        found := next((named[name] for name in _TYPE_HEADERS if named.get(name)), None)
    ) is not None:
        return found
    value = parsed(request.body)
    members = (value.get(name) for name in _TYPE_MEMBERS) if isinstance(value, dict) else ()
    return next((member for member in members if isinstance(member, str)), None)


def parsed(body: bytes) -> Any:
    """Return the JSON that a body is, None if it is none, or too large to look at."""
    if len(body) > _MOST_PARSED:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def arrival_row(found: Arrival) -> dict[str, Any]:
    """An arrival for programs; a body that is no text is in base64."""
    request, text = found.request, found.request.text
    body = {"body": text} if text is not None else {"body_base64": b64encode(request.body).decode()}
    verdict = found.verdict
    return {
        "number": found.number, "at": request.at, "method": request.method, "path": request.path,
        "type": event_type(request), "id": event_id(request), "attempt": found.attempt,
        "size": len(request.body), "repeats": found.repeats and found.repeats.first,
        "duplicate": bool(found.repeats and found.repeats.accepted),
        "signature": verdict.state, "scheme": verdict.scheme, "reason": verdict.reason,
        "answer": found.reply.status, "note": found.reply.note,
        "flaw": request.flaw and request.flaw.reason,
        "version": request.version, "peer": request.peer, "headers": request.named(), **body,
    }  # fmt: skip
