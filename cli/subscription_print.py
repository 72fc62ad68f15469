"""How subscriptions, and what differs between them, are printed for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.health import SAMPLE
from outbox.schedule import format_schedule

from . import output
from .layout import cell
from .listing import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outbox.subscription_settings import Difference
    from outbox.subscriptions import Change

    from .rows import Row

_RECENT = ("delivery_id", "outcome", "attempt", "status", "recorded_at", "duration_ms", "error")


def print_subscription(row: Row, as_json: bool) -> None:
    """Print all of it for a program; for a person what is set."""
    if as_json:
        output.document(row)
        return
    told = {name: _told(name, value) for name, value in row.items()}
    output.one({name: value for name, value in told.items() if value is not None}, as_json=False)


def print_health(row: Row) -> None:
    """Print how a subscription fared, and its recent attempts."""
    rate, open_ = row["success_rate"], row["open"]
    which = f", of its newest {SAMPLE:,} deliveries" if row["sampled"] else ""
    told = {
        "attempts": f"{row['attempts']:,}{which}",
        "succeeded": None if rate is None else f"{row['succeeded']:,}, {rate:.1%}",
        "duration": _duration(row["p50_ms"], row["p95_ms"]),
        "last_success": row["last_success"],
        "last_failure": row["last_failure"],
        "open": f"{open_['deliveries']:,}{'+' if open_['more'] else ''}, "
        f"{open_['held']:,} held, {open_['in_flight']:,} in flight",
    }
    output.section(f"health since {cell(row['since'])}")
    output.one({name: value for name, value in told.items() if value is not None}, as_json=False)
    output.section("recent attempts")
    output.many(row["recent"], _RECENT, TABLE)


def _duration(p50: int | None, p95: int | None) -> str | None:
    return None if p50 is None else f"p50 {p50:,} ms, p95 {p95:,} ms"


def print_differences(found: Iterable[Difference]) -> None:
    """Print a line for each: before → after."""
    output.differences(
        [(each.name, _told(each.name, each.before), _told(each.name, each.after)) for each in found]
    )


def print_changes(found: Iterable[Change]) -> None:
    """Print each change, and below it what differs."""
    for each in found:
        who = f"{each.actor}, {each.command}"
        output.line(f"{cell(each.changed_at)}  {each.revision}  {each.change} by {who}")
        print_differences(each.differs)


def _told(name: str, value: object) -> object:
    """Return a setting as it is typed; None if it is not set."""
    if name == "schedule" and isinstance(value, list | tuple):
        return format_schedule(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value not in ({}, [], ()) else None
