"""How a request is shown to a person."""

from __future__ import annotations

import doctest
import re

import pytest
from rich.cells import cell_len

from outbox.cli import arrival_lines as module
from outbox.cli.arrival_lines import arrival_lines, body_lines, headings, whole
from outbox.cli.arrivals import Arrival, Repeats, too_large
from outbox.verdicts import Verdict

from .arrivals import arrival, request

LONG = request("/a/rather/long/path/for/hooks?x=1", b'{"type":"user.data.updated.by.someone"}')


def shown(found: Arrival, room: int | None, *, bodies: bool = False) -> list[str]:
    return [line.plain for line in arrival_lines(found, room, bodies=bodies)]


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(module).failed == 0


def test_at_80_columns() -> None:
    """A line fits the terminal exactly; what is too long is cut."""
    assert headings(80).plain == (
        "  NO  UTC       REQUEST       TYPE              SIZE  SIGNATURE  ATTEMPT  ANSWER"
    )
    assert shown(arrival(), 80) == [
        "   1  03:12:06  POST /hooks   invoice.paid      54 B  verified         1     200"
    ]
    assert shown(arrival(LONG, 1234), 80) == [
        "1234  03:12:06  POST /a/rat…  user.data.u…      39 B  verified         1     200"
    ]


def test_where_there_is_no_terminal() -> None:
    """In a pipe nothing is cut."""
    (line,) = shown(arrival(LONG), None)

    assert line.split() == [
        "1", "03:12:06", "POST", "/a/rather/long/path/for/hooks?x=1",
        "user.data.updated.by.someone", "39", "B", "verified", "1", "200",
    ]  # fmt: skip


@pytest.mark.parametrize("room", [20, 40, 80, 100, 160, 300])
def test_any_width(room: int) -> None:
    """However wide the terminal is, all lines are equally long, and so are the headings."""
    found = arrival(request("/日本", '{"type":"日本日本日本日本日本日本日本日本日本"}'.encode()), 7)
    widths = {cell_len(line) for line in (*shown(arrival(LONG), room), *shown(found, room))}

    assert widths == {cell_len(headings(room).plain)}
    assert room < 80 or widths <= set(range(room + 1))


def test_notes() -> None:
    """Why a signature is wrong, what is repeated and what is missing stand below, wrapped."""
    found = arrival(
        status=413,
        repeats=Repeats(1, 2, 503, None, same_body=True),
        verdict=Verdict("wrong", "github", f"it does not fit: {'a reason ' * 9}".strip()),
        note="forwarded",
    )

    assert shown(found, 80)[1:] == [
        "      github: it does not fit: a reason a reason a reason a reason a reason a",
        "      reason a reason a reason a reason",
        "      repeats 1, last answered 503",
        "      forwarded",
    ]
    assert len(shown(found, None)) == 4
    assert shown(arrival(request(flaw=too_large(9))), 80)[1:] == [
        "      its body is larger than 9 bytes; the rest was not read"
    ]
    assert len(shown(arrival(verdict=Verdict("unsigned", reason="nothing")), 80)) == 1


def test_bodies() -> None:
    """JSON is shown in lines, text as it is, and bytes by their number."""
    assert shown(arrival(), 80, bodies=True)[1:] == [
        "      {",
        '        "type": "invoice.paid",',
        '        "data": {',
        '          "id": 1,',
        '          "amount": 19.90',
        "        }",
        "      }",
    ]
    assert [line.plain for line in body_lines(request(body=b"a\nb"), "")] == ["a", "b"]
    assert [line.plain for line in body_lines(request(body=b"\xff\0"), "")] == [
        "(2 bytes that are no text)"
    ]
    assert [line.plain for line in body_lines(request(body=b"x\n" * 207), "")][-1] == (
        "… 7 lines more"
    )


def test_whole() -> None:
    """A request as it came, header by header."""
    lines = [line.plain for line in whole(arrival(request(X_A="b")), 80)]

    assert lines[1:4] == ["POST /hooks HTTP/1.1", "webhook-id: evt_1", "X-A: b"]


def test_nothing_steers_the_terminal() -> None:
    """Whatever is in a request, no control character reaches the terminal."""
    evil = "\x1b]0;x\x07\x9b2J\u202e\r\n"
    found = request(f"/{evil}", evil.encode(), X_A=evil, method=evil, version=evil)
    note = arrival(found, verdict=Verdict("wrong", evil, evil), note=evil)
    lines = [line.plain for line in (*whole(note, 80), *arrival_lines(note, None, bodies=True))]

    assert all(re.fullmatch(r"[ -~…]*", line) for line in lines)
