"""A delivery for a person to read: how it stands, what each attempt came to, what was sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from outbox.sent import UNSIGNED

from . import output
from .layout import cell
from .listing import TABLE
from .rows import phases

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .rows import Row

_COLUMNS = (
    "attempt", "outcome", "status", "started_at", "duration_ms", "phases", "revision", "worker",
    "due_at", "error_class", "error",
)  # fmt: skip


def show(delivery: Row, attempts: Sequence[Row], sent: Row | None) -> None:
    """Print it all."""
    output.one(delivery, as_json=False)
    output.section("attempts")
    output.many([each | {"phases": phases(each)} for each in attempts], _COLUMNS, TABLE)
    if delivery["state"] == "pending":
        output.section("next", next_step(delivery))
    for heading, answer in answers(attempts):
        output.section(heading, answer)
    if sent is not None:
        output.section(f"request of attempt {sent['attempt']}")
        output.request_lines(sent)
        note(sent["notes"])


def note(notes: Sequence[str]) -> None:
    """Say what is to be known of a request that was made again."""
    for each in notes:
        output.note(f"Not exact: {each}.")
    if not any(each.startswith(UNSIGNED) for each in notes):
        output.note("The signature is real: whoever sees it can send this request.")


def next_step(delivery: Row) -> str:
    """Return what comes next of a pending delivery, and why it waits."""
    number = delivery["attempt"]
    if delivery["in_flight"]:
        return f"Attempt {number} is in flight."
    if delivery["held"] is not None:
        return f"Attempt {number + 1} is held: {delivery['held']}"
    return f"Attempt {number + 1} is due at {cell(delivery['due_at'])}."


def answers(attempts: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield what was kept of each answer; a body that came before is not repeated."""
    before = None
    for each in attempts:
        headers, body = each["response_headers"], each["response_body"]
        if headers is None and body is None:
            continue
        parts = [] if headers is None else [_lines(json.loads(headers.text))]
        if body is not None:
            parts.append(body if body != before else "(the same body as before)")
        before = body
        yield f"answer to attempt {each['attempt']}", "\n\n".join(parts)


def _lines(headers: dict[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in headers.items())
