"""What is passed on, byte for byte, and what is made of the answer."""

from __future__ import annotations

import asyncio
import doctest
from typing import TYPE_CHECKING

import httpx
import pytest

from outbox import InvalidInput
from outbox.cli import forward as module
from outbox.cli.arrivals import Reply
from outbox.cli.forward import Forward, check_forward, passed_on

from .arrivals import request

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.cli.arrivals import Request

URL = "http://localhost:3000"


def sent(
    found: Request, handler: Callable[[httpx.Request], httpx.Response], url: str = URL
) -> Reply:
    """The answer to a request that is passed on."""
    return asyncio.run(Forward(url, httpx.MockTransport(handler)).send(found))


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(module).failed == 0


def test_byte_for_byte() -> None:
    """Method, path, headers and body go on as they came; those of the connection are new."""
    seen: list[httpx.Request] = []

    def handler(found: httpx.Request) -> httpx.Response:
        seen.append(found)
        return httpx.Response(
            201, headers=[("X-B", "1"), ("x-b", "2"), ("Connection", "close")], content=b"ok"
        )

    found = request(
        "/a%2Fb/../c?x=%1B", b"\xff\0", X_Odd="\xe9", Connection="keep-alive, X-Gone", X_Gone="1",
        Host="shop.example", method="PATCH", Content_Length="99",
    )  # fmt: skip
    reply = sent(found, handler)

    assert (seen[0].method, str(seen[0].url)) == ("PATCH", URL)
    assert seen[0].extensions["target"] == b"/a%2Fb/../c?x=%1B"
    assert seen[0].content == b"\xff\0"
    assert seen[0].headers.raw == [
        (b"Host", b"localhost:3000"), (b"webhook-id", b"evt_1"), (b"X-Odd", b"\xe9"),
        (b"Content-Length", b"2"),
    ]  # fmt: skip
    assert reply == Reply(201, (("X-B", "1"), ("x-b", "2")), b"ok", f"{URL} answered 201")


def test_a_compressed_answer_stays_so() -> None:
    """The body of the answer is not touched either."""
    packed = httpx.Response(
        200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"\x1f\x8b")
    )

    assert sent(request(), lambda _: packed).body == b"\x1f\x8b"


def test_no_answer() -> None:
    """A program that is down, or says too much, is a 502 with its reason."""

    def down(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("All connection attempts\n failed")

    large = httpx.Response(200, content=b"x" * (module.MOST + 1))
    reply = sent(request(), down)

    assert (reply.status, reply.note) == (
        502, f"{URL} gave no answer: All connection attempts failed",
    )  # fmt: skip
    assert "more than 4,194,304 bytes" in str(sent(request(), lambda _: large).note)


def test_an_answer_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for it has an end."""
    monkeypatch.setattr(module, "TIMEOUT", 0.01)

    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    reply = asyncio.run(Forward(URL, httpx.MockTransport(never)).send(request()))

    assert reply.note == f"{URL} gave no answer: no answer within 0.01 s"


@pytest.mark.parametrize("url", ["ftp://a", "localhost:3000", "http://u:p@a", "http://a#b", ""])
def test_wrong_targets(url: str) -> None:
    """Only http and https, and the message holds no password."""
    with pytest.raises(InvalidInput, match=r"^forward: ") as error:
        check_forward(url)

    assert "u:p" not in str(error.value)


def test_hop_by_hop() -> None:
    """What Connection names belongs to the connection as well."""
    headers = (("TE", "x"), ("Connection", "A , b"), ("a", "1"), ("B", "2"), ("C", "3"))

    assert passed_on(headers) == (("C", "3"),)
