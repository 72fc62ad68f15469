"""What the subscriptions answered to an event, as it is printed, and how the program ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

import outbox
from outbox import fleet
from outbox.waiting import LONGEST

from . import output
from .listing import TABLE
from .program import Failure
from .rows import answer_row
from .session import open_engine, transaction

if TYPE_CHECKING:
    from uuid import UUID

    from outbox import Waited

    from .rows import Row


class _Seconds(click.FloatRange):
    """How long to wait; NaN lies in every range of Click."""

    def convert(self, value: Any, parameter: Any, context: Any) -> float:
        found = float(super().convert(value, parameter, context))
        if math.isnan(found):
            self.fail("nan is no time.", parameter, context)
        return found


SECONDS = _Seconds(0, LONGEST, min_open=True)
_COLUMNS = ("delivery_id", "state", "attempt", "status", "due_at", "url", "held", "error")


def wait(id: UUID, timeout: float, *, as_json: bool) -> None:
    """Wait for the answers to an event and print them; ends with 1 unless all have it."""
    with open_engine() as engine:
        waited = outbox.wait(engine, id, timeout)
    answers = [answer_row(answer) for answer in waited.answers]
    about = {"id": id, "fanned_out": waited.fanned_out, "ended": waited.ended}
    if as_json:
        output.document(about | {"answers": answers})
    else:
        _print(about, answers)
    if not waited.delivered:
        raise Failure(_short_of(waited, timeout))


def _print(about: Row, answers: list[Row]) -> None:
    output.one(about, as_json=False)
    output.section("answers")
    if about["fanned_out"] and not answers:
        output.line("No subscription wants it.")
        return
    output.many(answers, _COLUMNS, TABLE)
    bodies = {answer["delivery_id"]: answer["body"] for answer in answers if answer["body"]}
    if bodies:
        output.section("responses")
    for id, body in bodies.items():
        output.line(f"{id}:\n{body}")


def _short_of(waited: Waited, timeout: float) -> str:
    lacking = sum(answer.state != "delivered" for answer in waited.answers)
    count = f"{lacking:,} of {len(waited.answers):,} deliveries"
    if waited.ended:
        return f"{count} ended without being delivered"
    told = f"after {timeout:g} s {count} are not delivered"
    if not waited.fanned_out:
        told = f"after {timeout:g} s the event is not fanned out"
    with transaction() as connection:
        return told if fleet.alive(connection) else f"{told}: no worker is running"
