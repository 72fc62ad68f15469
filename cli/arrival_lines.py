"""What a person sees of a request: a line, what there is to say below it, its body.

A line has the same columns whatever comes, since nobody knows what will. On a terminal it
is as wide as that; in a pipe nothing is cut. Nothing that arrived can steer the terminal.
"""

from __future__ import annotations

import textwrap
from datetime import UTC
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from outbox.verdicts import UNCHECKED

from .arrivals import event_type, parsed
from .documents import pretty
from .layout import GAP, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .arrivals import Arrival, Request

_NUMBER, _TIME, _SIZE, _SIGNATURE, _ATTEMPT, _ANSWER = 4, 8, 8, 9, 7, 6
_FIXED = _NUMBER + _TIME + _SIZE + _SIGNATURE + _ATTEMPT + _ANSWER + 7 * len(GAP)
_LEAST, _MOST = 10, 40  # cells of the request, and of the type
_USUAL = 24  # where there is no terminal
_INDENT = " " * (_NUMBER + len(GAP))
_LINES = 200  # of a body
_STYLES = {"verified": "green", "wrong": "red", "bad time": "red", "unsigned": "yellow"}


def headings(room: int | None) -> Text:
    """Return the names of the columns, for a terminal of so many cells."""
    request, type = _widths(room)
    cells = [
        "NO".rjust(_NUMBER), "UTC".ljust(_TIME), "REQUEST".ljust(request), "TYPE".ljust(type),
        "SIZE".rjust(_SIZE), "SIGNATURE", "ATTEMPT", "ANSWER",
    ]  # fmt: skip
    return Text(GAP.join(cells), "bold")


def arrival_lines(found: Arrival, room: int | None, *, bodies: bool = False) -> Iterator[Text]:
    """Yield the line of a request, what there is to say about it, and its body if asked."""
    yield _line(found, room)
    for text, style in _notes(found):
        for part in _wrapped(text, room):
            yield Text(_INDENT + part, style)
    if bodies:
        yield from body_lines(found.request)


def whole(found: Arrival, room: int | None) -> Iterator[Text]:
    """Yield a request as it came, headers and body, below its line."""
    yield from arrival_lines(found, room)
    request = found.request
    yield Text(shown(f"{request.method} {request.path} HTTP/{request.version}"), "bold")
    for name, value in request.headers:
        yield Text.assemble((shown(name), "dim"), shown(f": {value}"))
    yield Text()
    yield from body_lines(request, indent="")


def body_lines(request: Request, indent: str = _INDENT) -> Iterator[Text]:
    """Yield the body: JSON with its members on lines of their own, other text as it is."""
    if not request.body:
        return
    if (text := request.text) is None:
        yield Text(f"{indent}({len(request.body):,} bytes that are no text)", "dim")
        return
    if parsed(request.body) is not None:
        text = pretty(text)
    lines = text.splitlines()
    for line in lines[:_LINES]:
        yield Text(indent + shown(line[:10_000]))
    if len(lines) > _LINES:
        yield Text(f"{indent}… {len(lines) - _LINES:,} lines more", "dim")


def _line(found: Arrival, room: int | None) -> Text:
    request, state = found.request, found.verdict.state
    wide, narrow = _widths(room)
    status = found.reply.status
    cells = [
        Text(f"{found.number:>{_NUMBER}}"),
        Text(f"{request.at.astimezone(UTC):%H:%M:%S}", "dim"),
        Text(_cut(f"{request.method} {request.path}", wide, room)),
        Text(_cut(event_type(request) or "-", narrow, room)),
        Text(f"{size(len(request.body)):>{_SIZE}}"),
        Text(state.ljust(_SIGNATURE), _STYLES.get(state, "dim")),
        Text(str(found.attempt).rjust(_ATTEMPT)),
        Text(str(status).rjust(_ANSWER), "green" if status < 300 else "red"),
    ]
    return Text(GAP).join(cells)


def _widths(room: int | None) -> tuple[int, int]:
    """How many cells the request and the type have."""
    if room is None:
        return _USUAL, _USUAL
    left = max(2 * _LEAST, room - _FIXED)
    return min(_MOST, left - left // 2), min(_MOST, left // 2)


def _cut(text: str, width: int, room: int | None) -> str:
    """Return `text` in so many cells; where there is no terminal it may be longer."""
    text = shown(text)
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return text if room is None else f"{set_cell_size(text, width - 1)}…"


def _notes(found: Arrival) -> Iterator[tuple[str, str]]:
    verdict, request = found.verdict, found.request
    if request.flaw is not None:
        yield request.flaw.reason, "red"
    elif verdict.reason and verdict.scheme and verdict.state != UNCHECKED:
        yield f"{verdict.scheme}: {verdict.reason}", _STYLES.get(verdict.state, "")
    if found.repeats is not None:
        yield str(found.repeats), "yellow" if found.repeats.accepted else "dim"
    if found.reply.note is not None:
        yield found.reply.note, "dim"


def _wrapped(text: str, room: int | None) -> list[str]:
    if room is None:
        return [shown(text)]
    return textwrap.wrap(shown(text), max(20, room - len(_INDENT)))


def size(count: int) -> str:
    """Return so many bytes as a person says it.

    >>> size(312), size(70_000), size(3_145_728)
    ('312 B', '68 KiB', '3.0 MiB')
    """
    if count < 10_000:
        return f"{count} B"
    if count < 1_048_576:
        return f"{count / 1_024:.0f} KiB"
    return f"{count / 1_048_576:.1f} MiB"
