"""What is read out of a request, and which one it repeats."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from outbox.cli import answers, inbox
from outbox.cli.arrivals import arrival_row, event_id, event_type, too_large
from outbox.cli.inbox import Inbox, Place
from outbox.verdicts import Verdict

from .arrivals import AT, arrival, request


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(inbox).failed == 0
    assert doctest.testmod(answers).failed == 0


@pytest.mark.parametrize(
    ("headers", "id"),
    [
        ({}, "evt_1"),
        ({"webhook_id": None}, None),
        ({"webhook_id": None, "ce_id": "2"}, "2"),
        ({"webhook_id": None, "X_GitHub_Delivery": "3"}, "3"),
        ({"webhook_id": None, "idempotency_key": '"4"'}, "4"),
    ],
)
def test_event_id(headers: dict[str, Any], id: str | None) -> None:
    """An event is known again by its webhook-id, or by what others call it."""
    assert event_id(request(**headers)) == id


@pytest.mark.parametrize(
    ("body", "headers", "type"),
    [
        (b'{"type":"a.b"}', {}, "a.b"),
        (b'{"event":"User.Created"}', {}, "User.Created"),
        (b'{"action":"add-user"}', {}, "add-user"),
        (b'{"type":"a"}', {"ce_type": "b"}, "b"),
        (b'{"type":1}', {}, None),
        (b'["type"]', {}, None),
        (b"[" * 100_000, {}, None),
        (b'{"type":"a","x":"' + b"x" * 1_048_576 + b'"}', {}, None),
        (b"\xff", {}, None),
    ],
)
def test_event_type(body: bytes, headers: dict[str, Any], type: str | None) -> None:
    """The type stands in a header or in the JSON; what is no JSON has none."""
    assert event_type(request(body=body, **headers)) == type


@pytest.mark.parametrize(("told", "attempt"), [("3", 3), ("", 1), ("x", 1), ("٣", 1), ("9" * 9, 1)])
def test_attempt(told: str, attempt: int) -> None:
    """The sender says which attempt it is; else it is counted."""
    assert arrival(request(webhook_attempt=told)).attempt == attempt


def test_repetitions() -> None:
    """A repetition of what failed is told from a duplicate of what was accepted."""
    box, first = Inbox(), request()
    said = []
    for status, body in ((503, first.body), (200, first.body), (200, first.body), (200, b"x")):
        again = request(body=body)
        place = box.arrive(again)
        said.append(str(place.repeats))
        box.keep(arrival(again, place.number, status, repeats=place.repeats))

    assert said == [
        "None",
        "repeats 1, last answered 503",
        "a duplicate of 2, which was accepted",
        "a duplicate of 2, which was accepted, but with another body",
    ]
    assert box.duplicates == 2
    assert box.summary() == (
        "4 requests, 4 verified, 2 duplicates, 3 answered 200, 1 answered 503."
    )


def test_two_at_once() -> None:
    """A second request that comes before the first was answered repeats it all the same."""
    box = Inbox()
    box.arrive(request())

    assert str(box.arrive(request()).repeats) == "repeats 1, which has no answer yet"


def test_requests_without_an_id() -> None:
    """They repeat nothing, and go through the statuses as one webhook."""
    box = Inbox()
    places = [box.arrive(request(webhook_id=None)) for _ in range(2)]

    assert places == [Place(1, None, 0), Place(2, None, 1)]


def test_memory_is_bounded() -> None:
    """The oldest requests go when there are too many, or too much; the counts stay."""
    box = Inbox(most=3, room=100, ids=2)
    for number in range(1, 6):
        found = request(body=b"x" * (20 * number), webhook_id=str(number))
        box.keep(arrival(found, box.arrive(found).number))
    box.arrive(request(webhook_id="1"))

    assert [found.number for found in box.arrivals()] == [5]
    assert (box.get(1), box.get(None)) == (None, box.get(5))
    assert box.count == 6
    assert box.arrive(request(webhook_id="4")).repeats is None  # forgotten: two ids are remembered


def test_row() -> None:
    """A program gets all there is to know; a body that is no text in base64."""
    row = arrival_row(arrival(request(body=b"\xff", flaw=too_large(10)), 7, 413))

    assert row["at"] == AT
    assert row | {"at": 0} == {
        "number": 7, "at": 0, "method": "POST", "path": "/hooks", "type": None, "id": "evt_1",
        "attempt": 1, "size": 1, "repeats": None, "duplicate": False, "signature": "verified",
        "scheme": "standard", "reason": None, "answer": 413, "note": None,
        "flaw": "its body is larger than 10 bytes; the rest was not read",
        "version": "1.1", "peer": "", "headers": {"webhook-id": "evt_1"}, "body_base64": "/w==",
    }  # fmt: skip
    assert arrival_row(arrival(verdict=Verdict("unsigned")))["body"].startswith('{"type"')
