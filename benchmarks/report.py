"""How results are told: a table that grows as they come, and the figures in it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Run = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of numbers behind a label. `columns` has for each name in a run title and format."""

    label: str  # the heading of the labels, as wide as they are
    columns: Mapping[str, tuple[str, str]]

    def head(self) -> None:
        """Print the headings."""
        click.echo("  ".join((self.label, *(title for title, _ in self.columns.values()))))

    def row(self, label: str, run: Run) -> None:
        """Print one run; what it does not have stays empty."""
        cells = (
            (format(run[name], form) if run.get(name) is not None else "").rjust(len(title))
            for name, (title, form) in self.columns.items()
        )
        click.echo("  ".join((label.ljust(len(self.label)), *cells)))


def milliseconds(seconds: Sequence[float], name: str = "") -> dict[str, float]:
    """Return p50, p95, p99 and the longest; nothing of fewer than two."""
    if len(seconds) < 2:
        return {}
    cuts = quantiles(seconds, n=100, method="inclusive")
    found = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "longest": max(seconds)}
    return {f"{name}{place}_ms": 1_000 * value for place, value in found.items()}


def microseconds(before: float | None, after: float | None, count: int) -> float | None:
    """Return the microseconds of each of `count`, from two readings of CPU time in seconds."""
    return None if before is None or after is None or not count else 1e6 * (after - before) / count


def medians(runs: Iterable[Run]) -> Run:
    """Return the median of each number of `runs`, which are of one kind."""
    runs = list(runs)
    numbers = (name for name, value in runs[0].items() if isinstance(value, int | float))
    known = [name for name in numbers if all(run[name] is not None for run in runs)]
    return {name: median(run[name] for run in runs) for name in known if name != "round"}
