"""What the audit is made of: sheets, which are rows with the checks that they must pass.

A sheet joins facts and projections of one kind. Looking at it is one statement, which counts
and finds nothing as a rule; only where something is wrong a second one asks what it is.
A new check is one more `Check` in the list of its sheet.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Text, Uuid, and_, bindparam, cast, func, literal, select
from sqlalchemy.dialects.postgresql import INTERVAL

from ..tables import Moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, FromClause

LOWEST, HIGHEST = UUID(int=0), UUID(int=2**128 - 1)

FIRST, LAST = bindparam("first", type_=Uuid), bindparam("last", type_=Uuid)
KEPT = bindparam("kept", type_=Uuid)  # what is older has been pruned, or may have been

# Transactions that overlap are not in the order of their clocks; and clocks are set, by a
# little. Nothing is called wrong because of less than this.
MARGIN = cast(literal(timedelta(minutes=5)), INTERVAL)
FOREVER: ColumnElement[Any] = cast(literal("infinity"), Moment)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not add up: `id` is the row's, or the name of what it is about."""

    name: str
    id: str
    facts: str
    projection: str


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """When a row of a sheet is `wrong`; what the facts and the projection then say."""

    name: str
    wrong: ColumnElement[bool]
    facts: ColumnElement[str] | str
    projection: ColumnElement[str] | str


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Rows, each with an `id`; what is counted of them for the account; what may be wrong."""

    rows: FromClause
    id: ColumnElement[Any]
    checks: Sequence[Check]
    counts: Mapping[str, ColumnElement[int]] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What has been counted and found so far; of each kind at most `limit` findings are kept."""

    limit: int
    counts: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def room(self, name: str) -> int:
        """How many findings more of this kind are kept."""
        return self.limit - sum(finding.name == name for finding in self.findings)


def look(connection: Connection, sheet: Sheet, tally: Tally, values: Mapping[str, Any]) -> None:
    """Add what `sheet` comes to, with these `values` of its parameters, to `tally`."""
    wrong = [func.count().filter(check.wrong).label(check.name) for check in sheet.checks]
    counts = [count.label(name) for name, count in sheet.counts.items()]
    query = select(*counts, *wrong).select_from(sheet.rows)
    totals = connection.execute(query, values).mappings().one()
    tally.counts.update({name: totals[name] for name in sheet.counts})
    for check in sheet.checks:
        if totals[check.name]:
            tally.found[check.name] += totals[check.name]
            tally.findings += _details(connection, sheet, check, tally.room(check.name), values)


def _details(
    connection: Connection, sheet: Sheet, check: Check, limit: int, values: Mapping[str, Any]
) -> list[Finding]:
    query = (
        select(cast(sheet.id, Text), _text(check.facts), _text(check.projection))
        .select_from(sheet.rows)
        .where(check.wrong)
        .order_by(sheet.id)
        .limit(limit)
    )
    return [Finding(check.name, *row) for row in connection.execute(query, values)]


def _text(told: ColumnElement[str] | str) -> ColumnElement[str]:
    return literal(told, Text) if isinstance(told, str) else told


def between(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether an id lies in the slice that is looked at."""
    return and_(column >= FIRST, column < LAST)


def said(text: str, *values: Any) -> ColumnElement[str]:
    """Return a text with a value in the place of each `%s`; a NULL is left out."""
    return func.format(literal(text, Text), *values)


def later(moment: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the moment behind which everything came certainly later."""
    return moment + MARGIN
