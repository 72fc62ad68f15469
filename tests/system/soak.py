"""Random runs of the fault harness, for as long as it is told.

    python -m tests.system.soak --minutes 60
    python -m tests.system.soak --seed 1234          # one run again

Each run draws its faults from its seed, which is printed. Ends with the sums, and with 1 as
soon as a run has a finding.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import click

from .faults import faults
from .faults.checker import check, extra
from .faults.run import Run
from .pg import own_cluster

if TYPE_CHECKING:
    from .faults.checker import Evidence

FAULTS = 5  # in one run
SECONDS = 15.0


def play(seed: int) -> tuple[Evidence, list[str]]:
    """One run; its evidence and what the checker found."""
    drawn = random.Random(seed).choices(faults.ALL, k=FAULTS)  # noqa: S311 - a seeded run
    with own_cluster() as cluster:
        evidence = Run(cluster, seed).play(drawn, seconds=SECONDS)
    return evidence, check(evidence)


@click.command(context_settings={"show_default": True})
@click.option("--minutes", default=10.0, help="Begin new runs for so long.")
@click.option("--seed", type=int, help="Play the run of this seed alone.")
def main(minutes: float, seed: int | None) -> None:
    """Play random runs until the time is over or something does not fit."""
    end = time.monotonic() + minutes * 60
    sums: Counter[str] = Counter()
    fired: Counter[str] = Counter()
    next_seed = seed if seed is not None else random.SystemRandom().randrange(2**31)
    while True:
        evidence, found = play(next_seed)
        idle = [name for name, count in evidence.faults.items() if not count]
        sums += Counter(
            runs=1, events=len(evidence.certain), deliveries=len(evidence.deliveries),
            requests=len(evidence.seen), extra=extra(evidence), bound=evidence.most_in_flight,
            invalid=bool(idle),
        )  # fmt: skip
        fired.update(evidence.faults)
        click.echo(
            f"seed {next_seed}: {len(evidence.certain)} events, {len(evidence.deliveries)}"
            f" deliveries, {extra(evidence)} extra of at most {evidence.most_in_flight}; "
            f"{', '.join(evidence.faults)}" + (f"; did not fire: {', '.join(idle)}" if idle else "")
        )
        if found:
            sys.exit("\n".join([f"seed {next_seed} has findings:", *found]))
        if seed is not None or time.monotonic() > end:
            break
        next_seed += 1
    click.echo(f"{dict(sums)}\nfaults: {dict(fired)}\nlost 0, ended twice 0")


if __name__ == "__main__":
    main()
