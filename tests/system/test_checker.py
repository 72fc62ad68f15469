"""The checker is checked: each way to break the product on purpose turns it red.

A mutation is Python that a worker runs before its own `main`; the runs are those of
`test_faults.py`, which is green without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from outbox.worker.store import query

from .faults import faults
from .faults.checker import check
from .faults.run import Run
from .pg import own_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence


EDIT = """
from outbox.worker import crash, statements, store
real = statements.query
def edit(which, old, new):
    def query(name):
        text = real(name)
        if name == which:
            assert old in text, which
            return text.replace(old, new)
        return text
    statements.query = query
"""


class Mutation(NamedTuple):
    code: str
    finding: str
    faults: Sequence[faults.Fault]
    seconds: float = 4
    refusals: float = 0.0


MUTATIONS = {
    "no fence": Mutation(
        """edit("record", "AND q.lease_owner = %(owner)s AND q.attempt = g.attempt", "")""",
        "P6 attempt",
        [faults.stall_a_worker, faults.stall_a_worker],
        refusals=0.95,
    ),
    "no lease check": Mutation(
        """edit("claim", "AND (q.lease_until IS NULL OR q.lease_until <= now())", "")""",
        "P5",
        [],
    ),
    "complete before send": Mutation(
        """
import asyncio
from outbox.worker import attempt
from outbox.worker.outcome import Reply
sending, tasks = attempt.send, set()
async def send(*request):
    task = asyncio.create_task(sending(*request))
    tasks.add(task)
    return Reply(200, (), b"", None, None)
attempt.send = send
""",
        "P4 delivered without a 2xx",
        [faults.kill_a_worker],
    ),
    "fan-out in two transactions": Mutation(
        """
real_fan_out = store.Store.fan_out
async def fan_out(self, limit):
    async with self._pool.connection() as connection:
        gone = await (await connection.execute(
            "DELETE FROM outbox.event_queue WHERE due_at <= now() RETURNING due_at, event_id"
        )).fetchall()
    if gone:
        crash.at("fan-out")
    async with self._pool.connection() as connection:
        for row in gone:
            await connection.execute(
                "INSERT INTO outbox.event_queue (due_at, event_id) VALUES (%s, %s)", row)
    return await real_fan_out(self, limit)
store.Store.fan_out = fan_out
from outbox.worker import fanout
fanout.crash = type("silent", (), {"at": staticmethod(lambda point: None)})
""",
        "P2 a delivery is missing",
        [faults.crash("fan-out"), faults.crash("fan-out"), faults.crash("fan-out")],
    ),
    "queue row deleted without its attempt": Mutation(
        """edit("record", "WHERE (SELECT count(*) FROM noted) >= 0",
            "WHERE (SELECT count(*) FROM noted) >= 0 AND delivery_id::text !~ '0$'")""",
        "P3 a delivery is neither open nor ended",
        [],
    ),
    "id > last_seen": Mutation(
        """edit("fan_out", "AND (%(only)s", '''AND q.event_id > coalesce(
            (SELECT d.event_id FROM outbox.delivery d ORDER BY d.event_id DESC LIMIT 1),
            '00000000-0000-0000-0000-000000000000') AND (%(only)s''')""",
        "P2 an event was not fanned out",
        [],
        seconds=10,
    ),
    "fanned out twice": Mutation(
        """edit("fan_out", "AND q.event_id = ANY (ARRAY[t.event_id])",
            "AND q.event_id = ANY (ARRAY[t.event_id]) AND random() < 0.9")""",
        "P2 two deliveries of one event",
        [],
    ),
    "unsigned": Mutation(
        """
from outbox.worker import attempt
making = attempt.build
def build(target, event, **options):
    made = making(target, event, **options)
    kept = [(k, b"v1,AAAA" if k == b"webhook-signature" else v) for k, v in made.headers]
    return made._replace(headers=kept)
attempt.build = build
""",
        "P10 a signature does not verify",
        [],
    ),
}


@pytest.mark.parametrize("name", [n for n, each in MUTATIONS.items() if each.code[:5] == "edit("])
def test_what_is_broken_is_there(name: str) -> None:
    """The text that is taken out of a statement stands in it."""
    found: list[bool] = []

    def edit(which: str, old: str, new: str) -> None:
        found.append(old in query(which))

    exec(MUTATIONS[name].code, {"edit": edit})  # noqa: S102 - our own code, above

    assert found == [True]


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_checker_turns_red(name: str) -> None:
    """A product that is broken in this way is found out, by the promise that it breaks."""
    mutation = MUTATIONS[name]
    red: list[str] = []
    for seed in (1, 2, 3, 4):  # whether a broken product is caught in the act is a matter of chance
        with own_cluster() as cluster:
            run = Run(
                cluster, seed, mutation=EDIT + mutation.code, patience=8,
                refusals=mutation.refusals,
            )  # fmt: skip
            found = check(run.play(mutation.faults, seconds=mutation.seconds))
        red += [finding for finding in found if finding.startswith(mutation.finding)]
        if red:
            break

    print(f"{name}: {next(iter(red), 'nothing')}")  # noqa: T201 - shown with -s
    assert red != []
