"""Faults of every kind, while hosts emit and workers deliver: every promise is kept.

The runs are seeded. `make soak` plays random ones for as long as it is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .faults import faults, people, receivers, servers
from .faults.checker import check
from .faults.run import Run
from .pg import own_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence


pytestmark = [pytest.mark.system, pytest.mark.slow]

SETS: dict[str, Sequence[faults.Fault]] = {
    "crash points": faults.CRASHES,
    "workers": [faults.kill_a_worker, faults.stop_a_worker, faults.stall_a_worker],
    "database": [faults.crash_postgresql, faults.kill_backends, faults.crash_postgresql_thrice],
    "connections": [faults.cut("before"), faults.cut("after"), faults.use_up_connections],
    "locks": [faults.lock_the_queue, faults.read_only, faults.kill_backends],
    "operator": [faults.pause_and_resume, faults.rotate_a_secret, faults.kill_a_worker],
    "timeouts": [servers.statement_timeout, servers.lock_timeout, servers.restart_in_a_loop],
    "stops": [faults.stop_a_worker_twice, *faults.HERE],
    "receivers": [receivers.refuse, receivers.reset, receivers.truncate, receivers.hang],
    "people": [
        people.remove_and_add,
        people.edit_a_url,
        people.switch_limits,
        people.cancel_and_retry,
        people.prune_a_day,
    ],
    "replays": [
        faults.replay_all,
        faults.kill_a_worker,
        faults.crash_in_a_replay("replay"),
        faults.crash_in_a_replay("replayed"),
    ],
}


@pytest.mark.parametrize("name", SETS)
def test_faults(name: str) -> None:
    """Nothing is lost, nothing ends twice, and what came again is accounted for."""
    for seed in (len(name), len(name) + 100):
        idle = play(name, seed)
        if not idle:
            return
    raise AssertionError(f"these faults never fired: {idle}")


def play(name: str, seed: int) -> set[str]:
    """One run, without a finding; return the faults that did not fire, which make it void."""
    with own_cluster() as cluster:
        run = Run(cluster, seed)
        evidence = run.play(SETS[name], seconds=8)

    assert check(evidence) == []
    assert len(evidence.certain) > 50
    assert run.log.conflicts == 0
    return {name for name, fired in evidence.faults.items() if not fired}
