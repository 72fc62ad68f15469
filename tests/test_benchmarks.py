"""The benchmarks run, and say what they promise to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.open_loop import Emitted
from benchmarks.steady import Account, Span
from benchmarks.wiretap import Frontend
from tests.helpers import environment

EVENTS = 300


def run(module: str, *options: str) -> dict[str, Any]:
    """Run a benchmark to its end; return its last line."""
    given = os.environ.get("OUTBOX_TEST_DATABASE_URL")
    server = [f"--database-url={given}"] if given else []
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", module, *options, *server],
        cwd=Path(__file__).parents[1],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.system
def test_drain() -> None:
    """A drain delivers each event once and tells what it cost, in one line of JSON."""
    result = run("benchmarks.drain", "--rounds=1", f"--events={EVENTS}")

    assert result["load"] == {
        "events": EVENTS, "concurrency": 100, "deadline": 120.0, "fan_out": 1,
    }  # fmt: skip
    assert result["surroundings"]["cores"] == os.cpu_count()
    assert [each["run"] for each in result["runs"]] == ["raw", "drain", "raw", "drain"]
    assert set(result["median"]) == {"1", "2"}
    for each in result["median"].values():
        assert each["distinct"] == each["requests"] == each["delivered"] == EVENTS
        assert each["hot_share"] > 0.9
        assert each["ratio"] == each["rate"] / each["raw_rate"]
        assert {"wal_bytes", "p50_ms", "p99_ms", "seconds", "request_bytes"} <= set(each)


@pytest.mark.slow
@pytest.mark.system
def test_drain_with_fan_out() -> None:
    """Each subscription gets each event once, and what an event costs is told apart."""
    options = (f"--events={EVENTS}", "--fan-out=3", "--processes=1")
    result = run("benchmarks.drain", "--rounds=1", *options)
    raw, drained = result["runs"]

    assert raw["request_bytes"] == pytest.approx(drained["request_bytes"], abs=2)
    assert drained["distinct"] == drained["requests"] == drained["delivered"] == 3 * EVENTS
    assert drained["event_wal_bytes"] > 0


@pytest.mark.slow
@pytest.mark.system
def test_latency() -> None:
    """Each event arrives once and is timed, without the bell and with it."""
    result = run("benchmarks.latency", "--rate=50", "--seconds=1")
    bare, without, with_bell = result["runs"]

    assert [each["run"] for each in result["runs"]] == ["bare", "without bell", "with bell"]
    assert (without["events"], with_bell["events"]) == (50, 50)
    assert bare["p50_ms"] < without["p50_ms"]
    assert "ring_p50_ms" in with_bell


@pytest.mark.slow
@pytest.mark.system
def test_host() -> None:
    """Every way is measured with one client and with many, whose waits are looked at."""
    result = run("benchmarks.host", "--rounds=1", "--seconds=0.2", "--clients=1", "--clients=4")

    assert [(each["clients"], each["with"]) for each in result["median"]] == [
        (clients, way)
        for clients in (1, 4)
        for way in ("nothing", "plain", "insert", "emit", "keyed")
    ]
    assert [each["samples"] > 0 for each in result["median"] if each["clients"] == 4] == [True] * 5


@pytest.mark.slow
@pytest.mark.system
def test_idle() -> None:
    """A worker that has nothing to do is measured beside none, its statements are counted."""
    result = run("benchmarks.idle", "--processes=2", "--seconds=2", "--settle=0.5")
    (both,) = result["runs"]

    assert result["none"]["statements"] == 0
    assert both["statements"] > 0
    assert both["all_mib"] > both["rss_mib"] > 0


@pytest.mark.slow
@pytest.mark.system
def test_steady() -> None:
    """Each line tells how it fares, the last is compared with an early one, nothing is lost."""
    options = ("--minutes=0.05", "--every=0.0125", "--after=0.0125", "--rate=200")
    result = run("benchmarks.steady", *options, "--processes=1")

    assert len(result["lines"]) == 4
    assert result["account"]["emitted"] == result["account"]["delivered"] > 0
    assert {"rss_mib", "delivery_queue_kib", "rate"} <= set(result["growth"])


@pytest.mark.slow
@pytest.mark.system
def test_fairness() -> None:
    """Beside one that hangs the others get each of their events once, and the cost is told."""
    options = (f"--events={EVENTS}", "--rate=100", "--seconds=1")
    result = run("benchmarks.fairness", "--rounds=1", *options)

    assert [each["hanging"] for each in result["runs"]] == [False, True]
    assert set(result["ratios"]) == {"rate", "p50_ms", "p99_ms"}


@pytest.mark.slow
@pytest.mark.system
def test_capture() -> None:
    """Every kind of statement is measured in every way, and told beside the table as it is."""
    result = run("benchmarks.capture", "--rounds=1", "--rows=20", "--statements=50")

    assert len(result["median"]) == len(result["runs"]) == 2 * 3 * 4
    assert {each["way"] for each in result["median"]} == {"plain", "whole", "chosen", "emit"}
    assert all(each["wall_ratio"] == 1 for each in result["median"] if each["way"] == "plain")


@pytest.mark.slow
@pytest.mark.system
def test_wait() -> None:
    """Every wait ends with its answer, and with a worker that is killed with its time."""
    result = run("benchmarks.wait", "--waits=40", "--parallel=10", "--timeout=4")

    whole, killed, loop, loop_killed = result["runs"]
    assert [each["hung"] for each in result["runs"]] == [0, 0, 0, 0]
    assert [each["ended"] for each in (whole, loop)] == [40, 40]
    assert all(each["ended"] < 40 for each in (killed, loop_killed))
    assert {"p50_ms", "p99_ms", "longest_ms", "whole_p50_ms", "whole_p99_ms"} <= set(whole)


@pytest.mark.slow
@pytest.mark.system
def test_audit() -> None:
    """An audit of what the benchmark makes finds nothing, with statistics and without."""
    result = run("benchmarks.audit", "--rounds=1", "--deliveries=2000")

    assert [each["run"] for each in result["runs"]] == ["never analyzed", "analyzed"]
    assert [(each["deliveries"], each["attempts"]) for each in result["runs"]] == [(2000, 2600)] * 2


@pytest.mark.slow
@pytest.mark.system
def test_replay() -> None:
    """A replay holds its rate, survives its worker, and brings each event once."""
    result = run("benchmarks.replay", "--events=2000", "--rate=200", "--seconds=3")

    assert (result["counted"], result["deliveries"], result["state"]) == (2_000, 2_000, "done")
    assert result["distinct"] == 2_000 + result["emitted"]
    assert result["rate_held"] < 220
    assert set(result["memory_mib"]) == {"worker", "worker after", "command"}


def test_statements_are_counted() -> None:
    """What runs a statement is counted, however the bytes are cut."""
    startup = (8).to_bytes(4) + b"\0\3\0\0"
    messages = b"".join(
        kind + (4 + len(body)).to_bytes(4) + body
        for kind, body in ((b"Q", b"BEGIN\0"), (b"P", b"\0SELECT 1\0\0\0"), (b"E", b"\0" * 5))
    )
    client = Frontend()

    assert sum(client.statements(bytes([each])) for each in startup + messages) == 2
    assert Frontend().statements(startup + messages) == 2


def test_account_of_what_is_on_its_way() -> None:
    """An event that arrives before the host tells of it is no stranger for long."""
    account = Account()

    assert account.add([], {"a": 3.0}) == []
    assert account.add([Emitted("a", 1, 1, 2, 2), Emitted("b", 1, 1, 2, 2)], {}) == [1.0]
    assert (list(account.waiting), account.strange, account.emitted) == (["b"], {}, 2)


def test_what_the_end_is_compared_with() -> None:
    """The line after so many minutes, or else the last but one."""
    spans = (Span(30, 5, 1), Span(3, 5, 1), Span(0.05, 0.0125, 0.0125), Span(1, 0, 1))

    assert [(span.lines(), span.compared()) for span in spans] == [(30, 4), (3, 1), (4, 0), (2, 0)]


@pytest.mark.slow
@pytest.mark.system
def test_matching() -> None:
    """Each event makes its ten deliveries, however many subscriptions do not match."""
    sizes = ("--subscriptions=10", "--subscriptions=200")
    result = run("benchmarks.matching", "--batches=2", *sizes)

    assert len(result["runs"]) == 3 * 2 * 2
    assert {each["subscriptions"] for each in result["runs"]} == {10, 200}
    assert all(each["ratio"] == 1 for each in result["runs"] if each["subscriptions"] == 10)
    assert all(each["buffers"] > 0 for each in result["runs"])


@pytest.mark.slow
@pytest.mark.system
def test_backlog() -> None:
    """Claims bring a hundred each, and are recorded once, beside whatever else is open."""
    result = run("benchmarks.backlog", "--open=1000", "--open=2000", "--cycles=5", "--churn=5")

    told = [(each["run"], each["open"]) for each in result["runs"]]
    assert told == [(way, n) for way in ("even", "held", "stopped") for n in (1_000, 2_000)]
    assert all(each["claim_buffers"] > 0 < each["record_buffers"] for each in result["runs"])


@pytest.mark.slow
@pytest.mark.system
def test_many() -> None:
    """Many subscriptions and one drain the same number, each delivery once."""
    result = run("benchmarks.many", "--subscriptions=300", "--rounds=1")

    assert [each["subscriptions"] for each in result["runs"]] == [1, 300]
    one, many = result["runs"]
    assert result["ratio"] == many["rate"] / one["rate"]


@pytest.mark.slow
@pytest.mark.system
def test_workers() -> None:
    """Workers share a backlog and lose nothing when half of them are killed."""
    result = run(
        "benchmarks.workers", f"--events={EVENTS}", "--workers=1", "--workers=2", "--idle=1"
    )

    one, two, idle, killed, shared, half = result["runs"]
    assert sum(one["split"]) == sum(two["split"]) == EVENTS
    assert [len(each) for each in (two["split"], two["cpu_seconds"], idle["cpu_of_each"])] == [
        2
    ] * 3
    assert sum(shared["split"]) == EVENTS
    for each in (killed, half):
        assert (each["killed"], each["distinct"], each["open"]) == (1, EVENTS, 0)
