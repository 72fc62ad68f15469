"""Lists: how many, from where on, and in which shape.

A person gets a page as a table. A program gets a page as one JSON document, or everything
as JSON lines or CSV, which are fetched and printed page by page, whatever their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from .program import WrongUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from .options import Decorator

Item = TypeVar("Item")

TABLE, JSON, JSONL, CSV = "table", "json", "jsonl", "csv"
PAGE = 50  # rows, if nothing else is asked
CHUNK = 1_000  # rows fetched at once

_SHAPES = (
    click.option("--json", JSON, is_flag=True, help="Print one JSON document, for programs."),
    click.option("--jsonl", JSONL, is_flag=True, help="Print all as JSON, one on each line."),
    click.option("--csv", CSV, is_flag=True, help="Print all as CSV, with a line of names."),
)
_PAGES = (
    click.option(
        "--limit", type=click.IntRange(1), metavar="N",
        help=f"At most so many; else {PAGE}, or all with --jsonl and --csv.",
    ),
    click.option(
        "--before", type=click.UUID, metavar="ID",
        help="Older ones: the last id of the page before.",
    ),
)  # fmt: skip


def shape_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--json`, `--jsonl` and `--csv`: the command gets them for `shape_of`."""
    return _decorated(command, _SHAPES)


def list_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--limit`, `--before` and the shapes: for `shape_of` and `paged`."""
    return _decorated(command, (*_PAGES, *_SHAPES))


def shape_of(wanted: dict[str, Any]) -> str:
    """Take the shapes out of the options of a command, and return the one that is asked for."""
    asked = [name for name in (JSON, JSONL, CSV) if wanted.pop(name)]
    if len(asked) > 1:
        raise WrongUse(f"--{asked[0]} and --{asked[1]} are two shapes; give one")
    return asked[0] if asked else TABLE


def paged(
    fetch: Callable[[UUID | None, int], Sequence[Item]],
    shape: str,
    *,
    limit: int | None,
    before: UUID | None,
) -> Iterator[Item]:
    """Yield what `fetch(before, limit)` returns, chunk after chunk; items have an `id`."""
    left = limit or (PAGE if shape in {TABLE, JSON} else None)
    while left is None or left > 0:
        size = CHUNK if left is None else min(left, CHUNK)
        found = fetch(before, size)
        yield from found
        if len(found) < size:
            return
        before = found[-1].id  # type: ignore[attr-defined]
        left = None if left is None else left - size


def _decorated(command: Callable[..., None], options: tuple[Decorator, ...]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command
