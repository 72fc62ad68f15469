"""Whatever happens in whatever order: a state machine over the real database.

Hosts emit, workers claim, answer, crash and come back too late, people pause, replay and
remove. After each step the audit must find nothing; in the end everything must have ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import create_engine

from outbox import WrongState, audit, subscriptions
from outbox.repairs import deliver_again
from tests.databases import empty, engine_url
from tests.factories import BY, emit_many, event, subscribe, value

from .conftest import LEASE, Fleet, result

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from hypothesis.stateful import MultipleResults
    from sqlalchemy import Connection, Engine

    from outbox.worker.claim import Claim
    from outbox.worker.store import Store

KINDS: tuple[dict[str, Any], ...] = (
    {}, {"max_in_flight": 2}, {"ordered": "stop"}, {"ordered": "skip"},
)  # fmt: skip
SUBJECTS = st.sampled_from([None, "x", "y"])
WHICH = st.integers(0, len(KINDS) - 1)


class Taken(NamedTuple):
    """A claim, in the hand of one of two workers."""

    store: Store
    claim: Claim


class Lives(RuleBasedStateMachine):
    """The worker's steps are the store's own methods; time is moved by ending leases."""

    taken = Bundle("taken")

    def __init__(self, fleet: Fleet, engine: Engine) -> None:
        super().__init__()
        self.fleet, self.engine = fleet, engine
        self.events: list[UUID] = []
        self.ids: list[UUID] = []

    @initialize()
    def begin(self) -> None:
        empty(self.fleet.database)
        with self.engine.begin() as connection:
            self.ids = [subscribe(connection, types=["a.*"], **kind).id for kind in KINDS]
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            connection.exec_driver_sql(  # so that it is certain what they matched
                "UPDATE outbox.subscription_change SET changed_at = changed_at - interval '1 day'"
            )

    # Hosts.

    @rule(count=st.integers(1, 3), subject=SUBJECTS, type=st.sampled_from(["a.b", "none"]))
    def emit(self, count: int, subject: str | None, type: str) -> None:
        self.events += self.fleet.emit(count, subject=subject, type=type)

    @rule()
    def roll_back(self) -> None:
        with self.engine.connect() as connection:
            emit_many(connection, [event("a.b")])

    # Workers.

    @rule(limit=st.integers(1, 4))
    def fan_out(self, limit: int) -> None:
        self.fleet.fan_out(limit)

    @rule(target=taken, second=st.booleans(), quota=st.integers(1, 3))
    def claim(self, second: bool, quota: int) -> MultipleResults[Taken]:
        store = self.fleet.b if second else self.fleet.a
        return multiple(*(Taken(store, each) for each in self._claimed(store, quota)))

    @rule(taken=consumes(taken), outcome=st.sampled_from(["delivered", "retry", "dead", "fault"]))
    def answer(self, taken: Taken, outcome: str) -> None:
        self._record(taken, outcome)

    @rule(taken=consumes(taken))
    def crash(self, taken: Taken) -> None:
        """It is never heard of again."""

    @rule(taken=consumes(taken), cut=st.booleans())
    def release(self, taken: Taken, cut: bool) -> None:
        self.fleet.run(taken.store.release([taken.claim], cut=cut))

    @rule()
    def end_leases(self) -> None:
        self.fleet.expire_leases()
        self.fleet.execute("UPDATE outbox.limited_claim SET lease_until = now()")

    @rule()
    def do_duties(self) -> None:
        self.fleet.run(self.fleet.a.cancel_removed())
        self.fleet.run(self.fleet.b.promote_forgotten())

    # People.

    @rule(which=WHICH)
    def pause(self, which: int) -> None:
        self._by_hand(lambda c: subscriptions.pause(c, self.ids[which], by=BY))

    @rule(which=WHICH)
    def resume(self, which: int) -> None:
        self._by_hand(lambda c: subscriptions.resume(c, self.ids[which], by=BY))
        self._by_hand(lambda c: subscriptions.unblock(c, self.ids[which], by=BY))

    @rule(which=WHICH)
    def remove(self, which: int) -> None:
        self._by_hand(lambda c: subscriptions.remove(c, self.ids[which], by=BY))

    @rule(which=WHICH, latest=st.integers(1, 3))
    def replay(self, which: int, latest: int) -> None:
        pairs = [(id, self.ids[which]) for id in self.events[-latest:]]
        with self.engine.begin() as connection:
            deliver_again(connection, pairs, value(connection, REPLAY))

    @rule()
    def repair(self) -> None:
        audit.repair(self.engine, audit.plan(self.engine))

    # What is always true.

    @invariant()
    def it_adds_up(self) -> None:
        report = audit.run(self.engine, audit.plan(self.engine))
        found = [each for each in report.findings if each.name != "facts_changed"]

        assert found == []
        assert self.fleet.value(EMITTED) == len(self.events)

    def teardown(self) -> None:
        """In the end each delivery has ended."""
        for which in range(len(KINDS)):
            self.resume(which)
        for _ in range(60):
            self.end_leases()
            self.do_duties()
            self.fan_out(100)
            self.fleet.execute(
                "UPDATE outbox.delivery_queue SET due_at = now() WHERE due_at < 'infinity'"
            )
            for each in self._claimed(self.fleet.a, 100):
                self._record(Taken(self.fleet.a, each), "delivered")
            if not self.fleet.value("SELECT count(*) FROM outbox.delivery_queue"):
                break
        assert self.fleet.rows("SELECT q::text FROM outbox.delivery_queue q") == []
        self.it_adds_up()

    def _claimed(self, store: Store, quota: int) -> list[Claim]:
        quotas = {str(id): quota for id in self.ids}
        limited = self.fleet.run(store.claim_limited(quotas, LEASE)).claims
        return limited + self.fleet.run(store.claim(quotas, LEASE))

    def _record(self, taken: Taken, outcome: str) -> None:
        made = result(taken.claim, "retry" if outcome == "fault" else outcome)
        if outcome == "fault":
            made = made._replace(counts=False, status=None, error_class="internal")
        self.fleet.record(taken.store, made._replace(limited=taken.claim.limited))

    def _by_hand(self, deed: Callable[[Connection], object]) -> None:
        try:
            with self.engine.begin() as connection:
                deed(connection)
        except WrongState:  # removed
            pass


EMITTED = "SELECT count(*) FROM outbox.event WHERE source IS DISTINCT FROM 'outbox'"  # by hosts
REPLAY = """
INSERT INTO outbox.replay (mode, counted, last_event, actor, command)
VALUES ('all', 1, outbox.uuid7(), 'ada', 'a test') RETURNING id
"""


@pytest.mark.parametrize(
    ("examples", "steps"), [(3, 12), pytest.param(12, 40, marks=pytest.mark.slow)]
)
def test_lives(fleet: Fleet, examples: int, steps: int) -> None:
    """After whatever order of steps, facts and projections agree; in the end all has ended."""
    profile = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=steps < 20,
        database=None, suppress_health_check=[*HealthCheck], print_blob=True,
    )  # fmt: skip
    engine = create_engine(engine_url(fleet.database.url, "psycopg"))  # one connection for all
    try:
        run_state_machine_as_test(cast("Any", lambda: Lives(fleet, engine)), settings=profile)
    finally:
        engine.dispose()
