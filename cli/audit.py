"""`outbox audit`: the proof that nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from outbox import audit as auditing

from . import output
from .listing import TABLE
from .options import confirm, database_option, json_option, moment_option, yes_option
from .program import Failure
from .rows import row
from .session import open_engine

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Engine

    from outbox.audit import Report

    from .rows import Row

_COLUMNS = ("name", "id", "facts", "projection")


@click.command("audit")
@moment_option("--since", help="Only what is not older: 2026-11-01, or 24h for so long ago.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N",
              help="Show at most so many of each kind; all are counted.")  # fmt: skip
@click.option("--repair", is_flag=True, help="Make what differs again from the facts.")
@yes_option
@json_option
@database_option()
def audit(since: datetime | None, limit: int, repair: bool, yes: bool, as_json: bool) -> None:
    """Prove from the facts that nothing is lost.

    Compares the queues, subscriptions, limits and health with the events, deliveries,
    attempts and changes from which they follow, in slices that hold nobody up. Exits
    with 1 if anything differs.

    \b
    Example:
      outbox audit --since 2d
      outbox audit --repair
    """
    with open_engine() as engine:
        report = _audit(engine, since, limit)
        found = dict(report.found)
        count = auditing.repairable(report)
        if repair and count:
            if not as_json:
                _print_findings(report)
            question = f"Make {count:,} rows again from the facts?"
            confirm(question, yes=yes, otherwise="nothing was changed")
            _repair(engine, since)
            report = _audit(engine, since, limit)
    repaired = {name: count - report.found[name] for name, count in found.items()} if repair else {}
    if as_json:
        output.document(_document(report, repaired))
    else:
        _print(report, repaired)
    if not report.adds_up:
        raise Failure(_summary(report))


def _audit(engine: Engine, since: datetime | None, limit: int) -> Report:
    plan = auditing.plan(engine, since=since)
    with output.Bar("audit", plan.total) as bar:
        return auditing.run(engine, plan, limit=limit, progress=bar.show)


def _repair(engine: Engine, since: datetime | None) -> None:
    plan = auditing.plan(engine, since=since)
    with output.Bar("repair", auditing.steps(plan)) as bar:
        auditing.repair(engine, plan, progress=bar.show)


def _document(report: Report, repaired: dict[str, int]) -> Row:
    return {
        "adds_up": report.adds_up,
        "account": report.account,
        "found": report.found,
        "findings": [row(finding) for finding in report.findings],
        "repaired": repaired,
    }


def _print(report: Report, repaired: dict[str, int]) -> None:
    _print_findings(report)
    if any(repaired.values()):
        output.section("repaired")
        output.one({name: f"{count:,}" for name, count in repaired.items()}, as_json=False)
    output.section("account")
    output.one({name: f"{count:,}" for name, count in report.account.items()}, as_json=False)
    if report.adds_up:
        output.line("\nIt all adds up: every delivery is open or has ended once.")


def _print_findings(report: Report) -> None:
    if report.findings:
        output.many([row(finding) for finding in report.findings], _COLUMNS, TABLE)


def _summary(report: Report) -> str:
    kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(report.found.items()))
    return f"what the facts say and what stands in the tables differ: {kinds}"
