"""`outbox doctor`: what hurts, or will, and what to do about it."""

from __future__ import annotations

from collections import Counter
from textwrap import wrap
from typing import TYPE_CHECKING

import click
from rich.text import Text

from outbox import doctor
from outbox.findings import ERROR, OK, UNKNOWN, WARNING, several

from . import output
from .layout import GAP, shown
from .options import allow_option, database_option, json_option
from .rows import row
from .session import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from outbox.addresses import Allowed
    from outbox.findings import Finding

STYLES = {OK: "green", WARNING: "yellow", ERROR: "bold red", UNKNOWN: "dim"}
INDENT = 9  # cells before a remedy: below the name
NARROWEST = 30  # cells for what was found, on the narrowest terminal


@click.command("doctor")
@click.option("--strict", is_flag=True, help="Exit with 1 also for a warning.")
@allow_option
@json_option
@database_option()
@click.pass_context
def command(context: click.Context, strict: bool, allow: Allowed, as_json: bool) -> None:
    """Look for what hurts.

    The schema, workers and clocks, settings of PostgreSQL, what holds back vacuum,
    partitions, secrets, subscriptions and what waits: each with its remedy. OUTBOX_ALLOW
    and OUTBOX_SECRET_KEY are taken as a worker here would take them. Nothing is changed.

    Exits with 0 if there is no error, else with 1: fit for cron. What this role may not
    see is unknown, which is neither.

    \b
    Example:
      outbox doctor --strict || mail -s 'outbox' ops@example.com
    """
    with transaction(any_schema=True) as connection:
        found = doctor.examine(connection, allow=allow)
    verdict = worst(found)
    if as_json:
        output.document({"verdict": verdict, "checks": [row(each) for each in found]})
    else:
        output.page(lambda width, _: report(found, width))
    context.exit(int(verdict == ERROR or (strict and verdict == WARNING)))


def worst(found: Sequence[Finding]) -> str:
    """Return the verdict on the whole: the worst there is, what is unknown aside."""
    verdicts = {each.verdict for each in found}
    return next((verdict for verdict in (ERROR, WARNING) if verdict in verdicts), OK)


def report(found: Sequence[Finding], width: int | None) -> Iterator[Text]:
    """Yield a line for each check, its remedy below it, and the sum at the end."""
    beside = max(len(each.name) for each in found)
    for each in found:
        head = Text.assemble(
            (each.verdict.ljust(7), STYLES[each.verdict]), GAP, each.name.ljust(beside), GAP
        )
        yield from _hanging(head, each.found, width)
        if each.remedy and each.verdict != OK:
            yield from _hanging(Text(" " * INDENT), f"-> {each.remedy}", width)
    yield Text()
    yield _sum(Counter(each.verdict for each in found))


def _sum(counts: Counter[str]) -> Text:
    words = {
        ERROR: several(counts[ERROR], "error"),
        WARNING: several(counts[WARNING], "warning"),
        UNKNOWN: f"{counts[UNKNOWN]} unknown",
        OK: f"{counts[OK]} ok",
    }
    return Text(", ").join(Text(words[each], STYLES[each]) for each in words if counts[each])


def _hanging(head: Text, text: str, width: int | None) -> Iterator[Text]:
    """Yield `head` and `text` beside it, as many lines as it takes."""
    plain = shown(text)
    room = len(plain) if width is None else max(NARROWEST, width - head.cell_len)
    for line in wrap(plain, max(room, 1)) or [""]:
        yield Text.assemble(head, line)
        head = Text(" " * head.cell_len)
