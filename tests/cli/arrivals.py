"""Requests as a receiver sees them, with defaults."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from outbox.cli.arrivals import Arrival, Repeats, Reply, Request
from outbox.verdicts import VERIFIED, Verdict

AT = datetime(2026, 11, 22, 3, 12, 6, tzinfo=UTC)
BODY = b'{"type":"invoice.paid","data":{"id":1,"amount":19.90}}'


def request(path: str = "/hooks", body: bytes = BODY, **values: Any) -> Request:
    """A request with an id; keywords with underscores that are no field are headers."""
    known = {
        name: values.pop(name) for name in ("method", "version", "peer", "flaw") if name in values
    }
    named = {
        "webhook-id": "evt_1",
        **{name.replace("_", "-"): text for name, text in values.items()},
    }
    headers = tuple((name, text) for name, text in named.items() if text is not None)
    return Request(AT, **{"method": "POST", **known}, path=path, headers=headers, body=body)


def arrival(
    found: Request | None = None,
    number: int = 1,
    status: int = 200,
    *,
    repeats: Repeats | None = None,
    verdict: Verdict | None = None,
    note: str | None = None,
) -> Arrival:
    """A request that was verified and accepted."""
    judged = verdict or Verdict(VERIFIED, "standard")
    return Arrival(number, found or request(), repeats, judged, Reply(status, note=note))
