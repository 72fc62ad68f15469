"""What a running receiver can be asked, and by whom."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from outbox.cli.arrivals import Arrival, Reply, Request
from outbox.cli.inbox import Inbox
from outbox.cli.listen_control import answer, is_asked

from .arrivals import arrival, request

ORIGIN, THERE = "http://127.0.0.1:8000", "http://localhost:3000/in"


def asked(path: str, method: str = "GET", **values: Any) -> Request:
    values = {"Host": "localhost:8000", "peer": "127.0.0.1", **values}
    return request(path, method=method, **values)


def answered(path: str, method: str = "GET", *, forward: str | None = THERE) -> Reply:
    """The answer of a receiver that has one request, number 3."""
    box = Inbox()
    box.keep(arrival(number=3))

    async def resend(found: Arrival) -> Reply:
        return Reply(204 if forward else 409, note=f"sent {found.number}")

    return asyncio.run(answer(asked(path, method), box, ORIGIN, forward, resend))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "127.3.2.1", "::1"])
def test_a_program_on_this_machine(host: str, peer: str) -> None:
    """A program that calls by loopback may ask."""
    assert is_asked(asked("/-/requests", Host=host, peer=peer))


@pytest.mark.parametrize(
    "values",
    [
        {"Host": "example.com"},
        {"Host": "localhost.evil.example"},
        {"Host": None},
        {"peer": "192.0.2.1"},
        {"peer": ""},
        {"Origin": "http://localhost:8000"},
        {"Sec_Fetch_Site": "cross-site"},
        {"X_Forwarded_For": "192.0.2.1"},
        {"Via": "1.1 tunnel"},
    ],
)
def test_others(values: dict[str, Any]) -> None:
    """To a web page, a tunnel or another machine it is a path like any other."""
    assert not is_asked(asked("/-/requests", **values))
    assert not is_asked(asked("/hooks"))


def test_requests() -> None:
    """All or one, as JSON."""
    rows = json.loads(answered("/-/requests").body)

    assert [row["number"] for row in rows] == [3]
    assert json.loads(answered("/-/requests/3").body) == rows[0]
    assert json.loads(answered("/-/har").body)["log"]["version"] == "1.2"


def test_curl() -> None:
    """As a command that goes to the forward target, or to where it was received."""
    here = answered("/-/requests/3.curl", forward=None)
    there = answered("/-/requests/3.curl")

    assert here.body.startswith(
        f"curl --include --globoff --path-as-is --request POST {ORIGIN}/hooks \\\n".encode()
    )
    assert there.body.startswith(
        f"curl --include --globoff --path-as-is --request POST {THERE} \\\n".encode()
    )


def test_resend() -> None:
    """Only by POST: what is only looked at sends nothing."""
    assert json.loads(answered("/-/requests/3/resend", "POST").body) == {
        "number": 3, "answer": 204, "note": "sent 3",
    }  # fmt: skip
    assert answered("/-/requests/3/resend", "POST", forward=None).status == 409
    assert answered("/-/requests/3/resend").status == 405
    assert answered("/-/requests/3", "POST").status == 405


@pytest.mark.parametrize(
    "path", ["/-/", "/-/requests/4", "/-/requests/x", "/-/requests/3.curl/", "/-/har?"]
)
def test_what_is_not_there(path: str) -> None:
    """A number that is not kept, or another path."""
    assert answered(path).status == 404
