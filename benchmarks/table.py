"""A table that grows row by row while a benchmark runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Table:
    """Of each column its title and its format, by the name of its number in a run."""

    columns: Mapping[str, tuple[str, str]]
    width: int = 24  # of the first column, which has no title

    def head(self) -> None:
        """Print the titles."""
        click.echo("  ".join((" " * self.width, *(title for title, _ in self.columns.values()))))

    def row(self, title: str, run: Mapping[str, Any]) -> None:
        """Print the numbers of a run; one that it lacks is left blank."""
        cells = (
            (format(run[name], form) if run.get(name) is not None else "").rjust(len(head))
            for name, (head, form) in self.columns.items()
        )
        click.echo("  ".join((title.ljust(self.width), *cells)).rstrip())
