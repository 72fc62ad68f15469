"""The proof that nothing is lost: rebuild every projection from the facts, and compare.

Facts are events, deliveries, attempts and the changes of subscriptions. From them follows
what the queues, the states of deliveries, subscriptions, limits and health must be.

    plan = audit.plan(engine)
    report = audit.run(engine, plan)
    for finding in report.findings:
        print(finding.name, finding.id, finding.facts, finding.projection)
"""

from __future__ import annotations

from .repair import repair, repairable, steps
from .sheet import Finding
from .slices import ACCOUNT, Plan, Report, plan, run

__all__ = [
    "ACCOUNT",
    "Finding",
    "Plan",
    "Report",
    "plan",
    "repair",
    "repairable",
    "run",
    "steps",
]
