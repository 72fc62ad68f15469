"""Who gets an event and who does not, as it is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import output
from .listing import TABLE
from .rows import row

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from outbox.matching import Explanation, Verdict

    from .rows import Row

_MATCHING = ("id", "name", "fate", "held", "filter", "url", "tenant", "types")
_OTHERS = ("id", "name", "why", "types", "tenant", "filter", "url")
_WHY = {
    "type": "no type of it fits",
    "tenant": "another tenant's",
    "filter": "its filter lets it not pass",
    "operational": "a bare * means no events of the outbox",
}


def matching_row(found: Explanation, fates: Mapping[UUID, str] | None = None) -> Row:
    """Who matches, with what came of it; some of those who do not, and how many there are."""
    return {
        "matching": [_verdict(each, fates) for each in found.matching],
        "others": [_verdict(each, None) for each in found.others],
        "others_in_all": found.others_in_all,
    }


def print_matching(found: Explanation, fates: Mapping[UUID, str] | None = None) -> None:
    """Print those that match, and below them why others do not."""
    output.section("matching")
    rows = [_verdict(each, fates) for each in found.matching]
    for each in rows:
        if each["matches"] is None:
            each["fate"] = "if its filter passes"
    output.many(rows, _MATCHING, TABLE)
    if not found.others_in_all:
        return
    output.section("not matching")
    others = [_verdict(each, None) for each in found.others]
    if others:
        output.many([each | {"why": _WHY[each["reason"]]} for each in others], _OTHERS, TABLE)
    more = found.others_in_all - len(others)
    if more:
        output.line(f"and {more:,} more" if others else f"{more:,}")


def _verdict(found: Verdict, fates: Mapping[UUID, str] | None) -> Row:
    fate = None if fates is None else fates.get(found.id)
    told = row(found)
    del told["created_at"], told["changed_at"]
    return told | {"fate": fate}
