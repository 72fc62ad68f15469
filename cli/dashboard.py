"""How `outbox status` is laid out: a page for a person, a line for a log. Nothing here prints.

Both are pure functions of what was seen and of the room there is. The page fits 80 columns
and 24 lines; what is wrong gets what is left of the height, some of each kind.
"""

from __future__ import annotations

from datetime import UTC
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from outbox.backlog import Count

from .layout import GAP, shown, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from outbox.backlog import Backlog
    from outbox.fleet import Worker
    from outbox.status import Status
    from outbox.traffic import Percentiles, Rate, Traffic
    from outbox.trouble import Failing, Held, Replay, Trouble

LABEL = 13  # cells for the name of a line
CELL = 9  # and for a number under its heading
LATE = 60.0  # seconds of waiting that stand out
BARS = "▁▂▃▄▅▆▇█"


class Line(NamedTuple):
    """Something wrong: one line of the page."""

    kind: str
    style: str
    id: str
    since: datetime
    text: str


def page(
    status: Status,
    *,
    width: int | None,
    height: int | None = None,
    hint: str = "",
    notice: str = "",
    ascii_only: bool = False,
) -> list[Text]:
    """Return the lines of the page; None is as much room as it takes.

    `hint` stands at the right of the first line, `notice` below it.
    """
    lines = [_head(status, hint, width)]
    if notice:
        lines.append(Text(shown(notice), "bold red"))
    lines += [Text(), _workers(status.workers)]
    lines += [*_rates(status.traffic, bars="" if ascii_only else BARS), Text()]
    lines += [*_times(status.traffic), Text()]
    lines += [*_backlog(status.backlog), Text()]
    room = None if height is None else height - len(lines)
    lines += _trouble(status, room)
    for line in lines:
        if width is not None:
            line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return lines if height is None else lines[:height]


def log_line(status: Status) -> str:
    """Return all that matters in one line."""
    traffic, backlog, trouble = status.traffic, status.backlog, status.trouble
    parts = {
        "workers": f"{len(status.workers):,}",
        "events": _per_second(traffic.events.last_10s),
        "deliveries": _per_second(traffic.deliveries.last_10s),
        "p95": "-" if traffic.latency is None else seconds(traffic.latency.p95),
        "not fanned out": _waiting(backlog.not_fanned_out, backlog.oldest_event),
        "set aside": number(backlog.set_aside),
        "due": _waiting(backlog.due, backlog.oldest_due),
        "in flight": number(backlog.in_flight),
        "waiting": number(backlog.waiting),
        "held": number(_sum(backlog.held)),
        "failing": f"{trouble.failing_total:,}",
        "replays": f"{len(trouble.replays):,}",
    }
    told = GAP.join(f"{name} {value}" for name, value in parts.items())
    return f"{stamp(status.at)}{GAP}{told}"


def stamp(at: datetime) -> str:
    """Return a moment as the first column of a log."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def number(count: Count) -> str:
    """Return a count; one that is estimated is rounded and says so.

    >>> from outbox.backlog import Count
    >>> number(Count(1204)), number(Count(658_402, exact=False))
    ('1,204', '~658,000')
    """
    if count.exact:
        return f"{count.number:,}"
    digits = max(0, len(str(count.number)) - 3)
    return f"~{round(count.number, -digits):,}"


def seconds(value: float) -> str:
    """Return how long something took or waits, short things with their fraction.

    >>> seconds(0.034), seconds(1.26), seconds(61)
    ('34 ms', '1.3 s', '1 min 1 s')
    """
    if value < 0.9995:
        return f"{1000 * value:.0f} ms"
    return f"{value:.1f} s" if value < 9.95 else span(value)


def sparkline(values: Sequence[float], bars: str = BARS) -> str:
    """Return `values` as bars; the highest is the highest of them, nothing is a dot.

    >>> sparkline([0.0, 1.0, 4.0, 8.0])
    '·▁▄█'
    """
    top = max(values, default=0.0)
    return "".join(bars[ceil(v / top * len(bars)) - 1] if v > 0 else "·" for v in values)


def shares(lengths: Sequence[int], room: int | None) -> list[int]:
    """Return how many of each are shown if there is `room` for so many in all, in turn.

    >>> shares([5, 0, 1], 4), shares([5, 0, 1], None)
    ([3, 0, 1], [5, 0, 1])
    """
    got = [0] * len(lengths)
    left = sum(lengths) if room is None else max(0, room)
    while left and got != list(lengths):
        for place, length in enumerate(lengths):
            if left and got[place] < length:
                got[place] += 1
                left -= 1
    return got


def _head(status: Status, hint: str, width: int | None) -> Text:
    title = Text.assemble(
        ("outbox", "bold"), GAP, f"{status.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    )
    space = 0 if width is None else width - title.cell_len - len(hint)
    return Text.assemble(title, " " * max(2, space), (hint, "dim")) if hint else title


def _label(name: str) -> tuple[str, str]:
    return name.ljust(LABEL), "dim"


def _workers(workers: Sequence[Worker]) -> Text:
    if not workers:
        return Text.assemble(_label("workers"), ("none is alive", "bold red"))
    hosts = len({worker.host for worker in workers})
    versions = ", ".join(sorted({worker.version for worker in workers}))
    told = f"{len(workers):,} alive on {hosts} host{'s' * (hosts != 1)}, version {versions}"
    return Text.assemble(_label("workers"), shown(told))


def _rates(traffic: Traffic, bars: str) -> Iterator[Text]:
    yield _columns("", ["10 s", "1 min"], "in 5 min" if bars else "", style="dim")
    for name, rate in (("events", traffic.events), ("deliveries", traffic.deliveries)):
        yield _rate(name, rate, bars)


def _rate(name: str, rate: Rate, bars: str) -> Text:
    line = _columns(name, [_per_second(rate.last_10s), _per_second(rate.last_minute)], "")
    return Text.assemble(line, (sparkline(rate.history, bars), "cyan")) if bars else line


def _times(traffic: Traffic) -> Iterator[Text]:
    yield _columns("", ["p50", "p95", "p99"], f"in {span(traffic.seconds)}", style="dim")
    outcomes = ", ".join(f"{n:,} {name}" for name, n in traffic.outcomes.items())
    yield _percentiles("event to 2xx", traffic.latency, outcomes or "no attempts")
    errors = ", ".join(f"{each.number:,} {each.what}" for each in traffic.errors)
    yield _percentiles("request", traffic.duration, errors or "no errors")


def _percentiles(name: str, found: Percentiles | None, beside: str) -> Text:
    values = ["-"] * 3 if found is None else map(seconds, (found.p50, found.p95, found.p99))
    return _columns(name, [_short(value) for value in values], shown(beside))


def _columns(name: str, cells: Sequence[str], beside: str, style: str = "") -> Text:
    told = "".join(cell.rjust(CELL) for cell in cells)
    return Text.assemble(_label(name), (f"{told}{GAP}{beside}", style))


def _backlog(backlog: Backlog) -> Iterator[Text]:
    aside = f", {number(backlog.set_aside)} set aside" if backlog.set_aside.number else ""
    later = f", {number(backlog.scheduled)} for later" if backlog.scheduled.number else ""
    yield Text.assemble(
        _label("to fan out"),
        (_waiting(backlog.not_fanned_out, backlog.oldest_event), _late(backlog.oldest_event)),
        (aside, "red"),
        later,
    )
    yield Text.assemble(
        _label("to deliver"),
        (f"{_waiting(backlog.due, backlog.oldest_due)} due", _late(backlog.oldest_due)),
        f", {number(backlog.in_flight)} in flight, {number(backlog.waiting)} waiting",
    )
    reasons = ", ".join(f"{number(count)} {reason}" for reason, count in backlog.held.items())
    yield Text.assemble(_label("held"), (reasons, "yellow") if reasons else "0")


def _waiting(count: Count, oldest: float | None) -> str:
    return number(count) + ("" if oldest is None else f" (oldest {seconds(oldest)})")


def _late(oldest: float | None) -> str:
    return "yellow" if oldest is not None and oldest >= LATE else ""


def _sum(held: Mapping[str, Count]) -> Count:
    return Count(sum(c.number for c in held.values()), all(c.exact for c in held.values()))


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 or rate == 0 else f"{rate:.1f}/s"


def _trouble(status: Status, room: int | None) -> Iterator[Text]:
    trouble = status.trouble
    groups = [
        [_failing(each) for each in trouble.failing],
        [_held(each) for each in trouble.held],
        [_replay(each) for each in trouble.replays],
    ]
    got = shares([len(group) for group in groups], None if room is None else room - 1)
    yield _summary(trouble, sum(got))
    for group, shown_ in zip(groups, got, strict=True):
        for line in group[:shown_]:
            yield _wrong(line, status.at)


def _summary(trouble: Trouble, shown_: int) -> Text:
    kinds = (
        (trouble.failing_total, "failing", "red"),
        (trouble.held_total, "held", "yellow"),
        (len(trouble.replays), "replaying", "cyan"),
    )
    found = [Text(f"{total:,} {kind}", f"bold {style}") for total, kind, style in kinds if total]
    if not found:
        return Text("No subscription is failing or held, no replay runs.", "dim")
    left = sum(total for total, _, _ in kinds) - shown_
    more = Text(f"{GAP}({left:,} more)" if left else "", "dim")
    return Text.assemble(Text(", ").join(found), more)


def _wrong(line: Line, now: datetime) -> Text:
    age = _short(span((now - line.since).total_seconds()))
    return Text.assemble(
        (line.kind.ljust(8), line.style), GAP, line.id, GAP, age.rjust(6), GAP, shown(line.text)
    )


def _short(time: str) -> str:
    """Return the first part of a time, such as 3 h of 3 h 12 min."""
    return " ".join(time.split()[:2])


def _failing(found: Failing) -> Line:
    kind = found.error_class or (None if found.status is None else f"HTTP {found.status}")
    last = "" if kind is None else f": {kind}"
    why = f"{GAP}{found.error}" if found.error and found.error != kind else ""
    told = f"{found.failures:,} failed{last}{GAP}{found.url}{why}"
    return Line("failing", "red", str(found.id), found.since, told)


def _held(found: Held) -> Line:
    if found.deliveries is None:
        what, style = f"{found.subjects:,} subject{'s' * (found.subjects != 1)}", "yellow"
    else:
        what = f"{number(found.deliveries)} held"
        style = {"disabled": "red"}.get(found.state, "yellow")
    reason = f"{GAP}{found.reason}" if found.reason else ""
    return Line(found.state, style, str(found.id), found.since, f"{what}{GAP}{found.url}{reason}")


def _replay(found: Replay) -> Line:
    done = min(100, 100 * found.made // max(found.counted, 1))
    at = f" at {found.rate:g}/s" if found.rate else ""
    told = f"{done} %{GAP}{found.made:,} of {found.counted:,}{at}"
    return Line("replay", "cyan", str(found.id), found.created_at, told)
