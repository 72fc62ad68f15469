"""How rows are laid out for a person. Nothing here prints.

Ids are always whole: the columns that fit into the room stand side by side, the others
follow on a second line below each row. Where there is no terminal, as in a pipe, there is
room for everything, so a row is one line. Nothing that came from elsewhere can steer the
terminal: what is not printable is escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from .documents import Json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Row = Mapping[str, object]

GAP = "  "
_STYLES = {
    "green": ("active", "delivered", "done"),
    "yellow": ("paused", "retry", "waiting"),
    "red": ("disabled", "dead", "lost", "set aside", "failed"),
    "dim": ("removed", "cancelled", "late"),
}
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words}


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    heading: str
    width: int
    right: bool


def fields(row: Row) -> Iterator[Text]:
    """Yield a line for each name and its value."""
    width = max(map(len, row))
    for name, value in row.items():
        yield Text.assemble((name.ljust(width), "dim"), GAP, _styled(value))


def differences(found: Sequence[tuple[str, object, object]], *, indent: int = 0) -> Iterator[Text]:
    """Yield a line for each name, with what it was before and what it is after."""
    width = max((len(name) for name, _, _ in found), default=0)
    for name, before, after in found:
        was, is_ = Text(cell(before), "red"), Text(cell(after), "green")
        yield Text.assemble(" " * indent, (name.ljust(width), "dim"), GAP, was, " → ", is_)


def table(rows: Sequence[Row], names: Sequence[str], room: int | None) -> Iterator[Text]:
    """Yield the headings and the rows; columns that are empty everywhere are left out."""
    used = [name for name in names if any(row[name] is not None for row in rows)]
    beside = _fitting([_column(rows, name) for name in used], room)
    yield _joined((Text(column.heading, "bold") for column in beside), beside)
    for row in rows:
        yield _joined((_styled(row[column.name]) for column in beside), beside)
        below = {name: row[name] for name in used[len(beside) :] if row[name] is not None}
        if below:
            yield _below(below)


def _column(rows: Sequence[Row], name: str) -> _Column:
    values = [row[name] for row in rows]
    heading = name.replace("_", " ").upper()
    width = max(cell_len(heading), *(cell_len(cell(value)) for value in values))
    numbers = all(value is None or type(value) is int for value in values)
    return _Column(name, heading, width, right=numbers)


def _fitting(columns: list[_Column], room: int | None) -> list[_Column]:
    """Return the leading columns that fit side by side, one at least."""
    while room is not None and len(columns) > 1 and _width(columns) > room:
        columns = columns[:-1]
    return columns


def _width(columns: list[_Column]) -> int:
    return sum(column.width + len(GAP) for column in columns) - len(GAP)


def _joined(cells: Iterable[Text], columns: list[_Column]) -> Text:
    aligned = list(cells)
    for text, column in zip(aligned, columns, strict=True):
        text.align("right" if column.right else "left", column.width)
    line = Text(GAP).join(aligned)
    line.rstrip()
    return line


def _below(row: Row) -> Text:
    parts = (Text.assemble((f"{name} ", "dim"), _styled(value)) for name, value in row.items())
    return Text.assemble(GAP * 2, Text(GAP).join(parts))


def _styled(value: object) -> Text:
    text = cell(value)
    return Text(text, _STYLE_OF.get(text, ""))


def bar(what: str, done: int, total: int, rate: float | None, *, width: int = 0) -> Text:
    """Return how far something is, in one line; the bar takes what is left of `width` cells.

    >>> bar("replay", 250, 1000, 50.0).plain
    'replay  250 of 1,000  25 %  50/s  15 s left'
    """
    parts = [what, f"{done:,} of {total:,}", f"{min(100, 100 * done // max(total, 1))} %"]
    if rate:
        parts += [f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"]
        parts += [f"{span(max(0, total - done) / rate)} left"]
    line = Text(GAP.join(parts))
    room = min(width - line.cell_len - len(GAP), _LONGEST_BAR)
    if room < _SHORTEST_BAR:
        return line
    full = round(room * min(1.0, done / max(total, 1)))
    return Text.assemble(("━" * full, "green"), ("─" * (room - full), "dim"), GAP, line)


def span(seconds: float) -> str:
    """Return so many seconds as a person says it.

    >>> span(0.25), span(59.6), span(3_700), span(90_000)
    ('0 s', '1 min', '1 h 1 min', '1 d 1 h')
    """
    whole = round(seconds)
    for size, unit, below, smaller in _SPANS:
        if whole >= size:
            count, rest = divmod(whole, size)
            part = rest // below
            return f"{count} {unit}" + (f" {part} {smaller}" if part else "")
    return f"{whole} s"


def size(bytes: float) -> str:
    """Return so many bytes as a person says it.

    >>> size(0), size(1_536), size(5_368_709_120)
    ('0 B', '1.5 KiB', '5.0 GiB')
    """
    power = 0
    while bytes >= 1_024 and power < len(_UNITS) - 1:
        bytes, power = bytes / 1_024, power + 1
    return f"{bytes:,.{min(power, 1)}f} {_UNITS[power]}"


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SHORTEST_BAR, _LONGEST_BAR = 10, 40  # cells
_SPANS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))


def cell(value: object) -> str:
    """Return `value` as a person reads it, on one line.

    >>> cell(None), cell(True), cell(["invoice.*", "user.created"])
    ('-', 'yes', 'invoice.*, user.created')
    """
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
        case list() | tuple():
            return ", ".join(map(cell, value))
        case dict():
            return ", ".join(f"{name}: {cell(item)}" for name, item in value.items()) or "-"
        case Json():
            return shown(value.text)
        case _:
            return shown(str(value))


def shown(text: str, *, lines: bool = False) -> str:
    r"""Return `text` with all escaped that is not printable; `lines` keeps line breaks.

    >>> print(shown("\x1b[2J é"))
    \x1b[2J é
    """
    if lines:
        return "\n".join(map(shown, text.splitlines()))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
