"""The page and the line of `outbox status`, for any room, without a terminal."""

from __future__ import annotations

import doctest
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from outbox.backlog import Backlog, Count
from outbox.cli import dashboard
from outbox.cli.dashboard import log_line, page
from outbox.fleet import Worker
from outbox.status import Status
from outbox.traffic import Errors, Percentiles, Rate, Traffic
from outbox.trouble import Failing, Held, Replay, Trouble

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ID = UUID("0190163d-8694-739b-aea5-966c26f8ad91")
URL = "https://example.com/hooks"
NONE = Rate(0.0, 0.0, (0.0,) * 30)
IDLE = Status(
    at=NOW,
    workers=(),
    traffic=Traffic(NONE, NONE, 300, {}, (), None, None),
    backlog=Backlog(Count(0), None, Count(0), Count(0), Count(0), None, Count(0), Count(0), {}),
    trouble=Trouble((), 0, (), 0, ()),
)
BUSY = Status(
    at=NOW,
    workers=tuple(Worker(n, "ab"[n % 2], n, "0.1.0", NOW, NOW) for n in range(3)),
    traffic=Traffic(
        events=Rate(123.4, 9.94, tuple(float(n) for n in range(30))),
        deliveries=Rate(1_234.0, 0.5, (4.0, 8.0)),
        seconds=60,
        outcomes={"delivered": 12_000, "retry": 34, "dead": 5},
        errors=(Errors("HTTP 503", 30), Errors("timeout", 9)),
        latency=Percentiles(0.034, 0.21, 1.26),
        duration=Percentiles(0.012, 0.08, 75.0),
    ),
    backlog=Backlog(
        not_fanned_out=Count(12),
        oldest_event=0.25,
        scheduled=Count(3),
        set_aside=Count(1),
        due=Count(658_402, exact=False),
        oldest_due=3_700.0,
        in_flight=Count(87),
        waiting=Count(12_340),
        held={"paused": Count(50_000), "in order": Count(1_990), "blocked": Count(10)},
    ),
    trouble=Trouble(
        failing=tuple(
            Failing(ID, URL, NOW - timedelta(hours=n), 1_203, 503, None, "HTTP 503")
            for n in range(1, 9)
        ),
        failing_total=30,
        held=(
            Held(ID, URL, "blocked", None, NOW - timedelta(minutes=5), None, 2),
            Held(ID, URL, "disabled", "gone", NOW - timedelta(days=2), Count(50_000), 0),
        ),
        held_total=2,
        replays=(Replay(ID, "all", 400, 1_000, 50.0, NOW - timedelta(seconds=8), NOW),),
    ),
)  # fmt: skip


def plain(status: Status, **room: int | str | bool | None) -> list[str]:
    """The page as it is read."""
    return [line.plain for line in page(status, **{"width": 80, "height": 24, **room})]  # type: ignore[arg-type]


def test_doctests() -> None:
    """The examples are right."""
    assert doctest.testmod(dashboard).failed == 0


def test_idle() -> None:
    """Where nothing happens the page says so."""
    assert plain(IDLE) == [
        "outbox  2026-01-31 12:00:00Z",
        "",
        "workers      none is alive",
        "                  10 s    1 min  in 5 min",
        f"events             0/s      0/s  {'·' * 30}",
        f"deliveries         0/s      0/s  {'·' * 30}",
        "",
        "                   p50      p95      p99  in 5 min",
        "event to 2xx         -        -        -  no attempts",
        "request              -        -        -  no errors",
        "",
        "to fan out   0",
        "to deliver   0 due, 0 in flight, 0 waiting",
        "held         0",
        "",
        "No subscription is failing or held, no replay runs.",
    ]


def test_busy() -> None:
    """All of it at 80 columns and 24 lines; of what is wrong, some of each kind."""
    assert plain(BUSY, hint="q to quit") == [
        "outbox  2026-01-31 12:00:00Z                                           q to quit",
        "",
        "workers      3 alive on 2 hosts, version 0.1.0",
        "                  10 s    1 min  in 5 min",
        "events           123/s    9.9/s  ·▁▁▁▂▂▂▂▃▃▃▄▄▄▄▅▅▅▅▆▆▆▇▇▇▇████",
        "deliveries     1,234/s    0.5/s  ▄█",
        "",
        "                   p50      p95      p99  in 1 min",
        "event to 2xx     34 ms   210 ms    1.3 s  12,000 delivered, 34 retry, 5 dead",
        "request          12 ms    80 ms    1 min  30 HTTP 503, 9 timeout",
        "",
        "to fan out   12 (oldest 250 ms), 1 set aside, 3 for later",
        "to deliver   ~658,000 (oldest 1 h 1 min) due, 87 in flight, 12,340 waiting",
        "held         50,000 paused, 1,990 in order, 10 blocked",
        "",
        "30 failing, 2 held, 1 replaying  (25 more)",
        f"failing   {ID}     1 h  1,203 failed: HTTP 503 …",
        f"failing   {ID}     2 h  1,203 failed: HTTP 503 …",
        f"failing   {ID}     3 h  1,203 failed: HTTP 503 …",
        f"failing   {ID}     4 h  1,203 failed: HTTP 503 …",
        f"failing   {ID}     5 h  1,203 failed: HTTP 503 …",
        f"blocked   {ID}   5 min  2 subjects  https://exa…",
        f"disabled  {ID}     2 d  50,000 held  https://ex…",
        f"replay    {ID}     8 s  40 %  400 of 1,000 at 5…",
    ]


def test_a_wide_page() -> None:
    """Where there is room the URL and the reason are there."""
    lines = plain(BUSY, width=None, height=None)

    assert lines[16] == f"failing   {ID}     1 h  1,203 failed: HTTP 503  {URL}"
    assert lines[25] == f"disabled  {ID}     2 d  50,000 held  {URL}  gone"
    assert lines[26] == f"replay    {ID}     8 s  40 %  400 of 1,000 at 50/s"


@pytest.mark.parametrize("width", [1, 20, 79, 80, 200])
@pytest.mark.parametrize("height", [1, 10, 17, 24, 60])
def test_any_room(width: int, height: int) -> None:
    """The page never takes more than there is."""
    lines = page(BUSY, width=width, height=height, hint="every 2s, q to quit", notice="away")

    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width


def test_a_notice() -> None:
    """What keeps the page from being fresh stands on top, and nothing in it steers the terminal."""
    assert plain(IDLE, notice="Not seen for 4 s: \x1b[2J")[1] == r"Not seen for 4 s: \x1b[2J"


def test_ascii_only() -> None:
    """A terminal that knows nothing else gets nothing else."""
    assert "".join(plain(BUSY, ascii_only=True)).isascii()


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    """Reasons and errors are shown with all escaped that is not printable."""
    wrong = replace(BUSY.trouble.held[1], reason="\x1b]0;mine\x07")
    trouble = Trouble((), 0, (wrong,), 1, ())

    lines = plain(replace(BUSY, trouble=trouble), width=None, height=None)

    assert lines[-1].endswith(r"\x1b]0;mine\x07")


def test_log_line() -> None:
    """All that matters in one line."""
    assert log_line(BUSY) == (
        "2026-01-31T12:00:00Z  workers 3  events 123/s  deliveries 1,234/s  p95 210 ms  "
        "not fanned out 12 (oldest 250 ms)  set aside 1  due ~658,000 (oldest 1 h 1 min)  "
        "in flight 87  waiting 12,340  held 52,000  failing 30  replays 1"
    )


def test_log_line_of_nothing() -> None:
    """Where nothing happens it has the same parts."""
    assert log_line(IDLE) == (
        "2026-01-31T12:00:00Z  workers 0  events 0/s  deliveries 0/s  p95 -  not fanned out 0  "
        "set aside 0  due 0  in flight 0  waiting 0  held 0  failing 0  replays 0"
    )
