"""The benchmarks run, and say what they promise to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import environment

EVENTS = 300


@pytest.mark.system
def test_drain() -> None:
    """A drain delivers each event once and tells what it cost, in one line of JSON."""
    given = os.environ.get("OUTBOX_TEST_DATABASE_URL")
    server = [f"--database-url={given}"] if given else []
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "benchmarks.drain", f"--events={EVENTS}", "--rounds=1", *server],
        cwd=Path(__file__).parents[1],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["load"] == {"events": EVENTS, "concurrency": 100, "deadline": 120.0}
    assert result["surroundings"]["cores"] == os.cpu_count()
    assert [run["run"] for run in result["runs"]] == ["raw", "drain", "raw", "drain"]
    assert set(result["median"]) == {"1", "2"}
    for run in result["median"].values():
        assert run["distinct"] == run["requests"] == run["delivered"] == EVENTS
        assert run["hot_share"] > 0.9
        assert run["ratio"] == run["rate"] / run["raw_rate"]
        assert {"wal_bytes", "p50_ms", "p99_ms", "seconds", "request_bytes"} <= set(run)
