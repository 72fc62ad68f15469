"""How subscriptions fare: what counts, who is told, what is disabled, and no loops."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outbox import health, subscriptions
from outbox.worker.maintenance import Maintenance
from outbox.worker.rows import Gone
from tests.factories import BY, subscribe

from .conftest import result

if TYPE_CHECKING:
    from uuid import UUID

    from outbox.worker.claim import Claim
    from outbox.worker.rows import Recorded
    from outbox.worker.store import Store

    from .conftest import Fleet

OWN_FAULT: dict[str, Any] = {"counts": False, "status": None, "error_class": "internal"}


def add(fleet: Fleet, **options: Any) -> UUID:
    with fleet.database.engine.begin() as connection:
        return subscribe(connection, **{"types": ["invoice.*"], **options}).id


def claims(fleet: Fleet, lane: UUID, count: int = 1, **event: Any) -> list[Claim]:
    fleet.emit(count, **event)
    fleet.fan_out(count)
    return fleet.claim(fleet.a, lane, count)


def come_to(
    fleet: Fleet, lane: UUID, *outcomes: str, operational: bool = False, **changes: Any
) -> list[Claim]:
    """Record deliveries of `lane` with these outcomes, in one batch."""
    taken = claims(fleet, lane, len(outcomes), tenant="acme")
    changes = {"delay": 3600.0, "operational": operational, **changes}
    made = [result(claim, each, **changes) for claim, each in zip(taken, outcomes, strict=True)]
    fleet.record(fleet.a, *made)
    return taken


def failures(fleet: Fleet, lane: UUID) -> int | None:
    with fleet.database.engine.connect() as connection:
        found = health.failing(connection, [lane]).get(lane)
    return None if found is None else found.failures


def told(fleet: Fleet) -> list[tuple[str, str]]:
    """Type and subject of each operational event; what tests emit has no subject."""
    query = "SELECT type, subject FROM outbox.event WHERE subject IS NOT NULL ORDER BY id"
    return [(type, subject) for type, subject in fleet.rows(query)]


def data(fleet: Fleet, type: str) -> dict[str, Any]:
    query = "SELECT data::text FROM outbox.event WHERE type = :type"
    found: dict[str, Any] = json.loads(fleet.value(query, type=type))
    return found


def make_failing(fleet: Fleet, since: str, failures: int) -> None:
    """As if what fails had failed `failures` times in `since` until now."""
    fleet.execute(
        f"UPDATE outbox.subscription_health SET failing_since = now() - interval '{since}',"  # noqa: S608
        f" failures = {failures}"
    )


# What counts.


def test_only_failures_in_a_row_count(fleet: Fleet) -> None:
    """Failures add up until the first success, which leaves nothing behind."""
    lane, other = add(fleet), add(fleet, types=["other"])
    seen = [failures(fleet, lane)]
    for outcomes in (["delivered"], ["retry"], ["dead", "retry"], ["delivered"], ["retry"]):
        come_to(fleet, lane, *outcomes)
        seen.append(failures(fleet, lane))

    assert seen == [None, None, 1, 3, None, 1]
    assert failures(fleet, other) is None


def test_since_the_first_failure(fleet: Fleet) -> None:
    """It fails since the first failure was recorded, however many come after."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    come_to(fleet, lane, "retry")
    first = fleet.value("SELECT min(recorded_at) FROM outbox.attempt")

    with fleet.database.engine.connect() as connection:
        assert health.failing(connection, [lane])[lane] == health.Failing(first, 2)


def test_a_success_beside_failures(fleet: Fleet) -> None:
    """Failures in the batch of a success say nothing."""
    lane = add(fleet)
    come_to(fleet, lane, "retry", "delivered", "dead")
    assert failures(fleet, lane) is None

    come_to(fleet, lane, "retry")
    come_to(fleet, lane, "delivered", "retry")
    assert failures(fleet, lane) is None


@pytest.mark.parametrize("outcome", ["retry", "dead"])
def test_own_faults_do_not_count(fleet: Fleet, outcome: str) -> None:
    """What is our fault is not the receiver's."""
    lane = add(fleet)
    come_to(fleet, lane, outcome, **OWN_FAULT)

    assert failures(fleet, lane) is None


def test_what_is_late_changes_nothing(fleet: Fleet) -> None:
    """An attempt that lost its claim is noted nowhere."""
    lane = add(fleet)
    late = claims(fleet, lane, 2)
    fleet.record(fleet.b, result(late[0], "retry"), result(late[1], "dead"))

    assert failures(fleet, lane) is None
    assert told(fleet) == []


def test_again_counts_once(fleet: Fleet) -> None:
    """A batch that is written again counts no failure, and tells nothing, twice."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    make_failing(fleet, "1 h", 2)
    made = [result(c, o) for c, o in zip(claims(fleet, lane, 2), ["retry", "dead"], strict=True)]
    for again in (False, True, True):
        fleet.record(fleet.a, *made, again=again)
    assert failures(fleet, lane) == 4

    (claim,) = claims(fleet, lane)
    for again in (False, True):
        fleet.record(fleet.a, result(claim, "delivered"), again=again)
        come_to(fleet, lane, "retry")
    assert failures(fleet, lane) == 2
    assert told(fleet) == [("delivery.dead", f"subscription/{lane}")]


def test_recorders_do_not_wait_in_a_circle(fleet: Fleet) -> None:
    """Two recorders with the same subscriptions, one failing where the other succeeds."""
    lanes = [add(fleet) for _ in range(6)]
    for outcomes in (["retry", "delivered"], ["delivered", "retry"], ["retry", "retry"]) * 5:
        fleet.emit(2)
        fleet.fan_out()
        taken = [fleet.claim(store, lane, 1)[0] for lane in lanes for store in (fleet.a, fleet.b)]
        fleet.together(
            *(
                store.record(batch(taken[place::2], outcomes, place), again=False, gone={})
                for place, store in enumerate((fleet.a, fleet.b))
            )
        )

    assert {failures(fleet, lane) for lane in lanes} <= {2, 3}


def batch(taken: list[Claim], outcomes: list[str], place: int) -> list[Any]:
    """Every second lane comes to the other outcome; the second recorder goes backwards."""
    made = [result(claim, outcomes[(n + place) % 2], delay=3600.0) for n, claim in enumerate(taken)]
    return made[::-1] if place else made


def test_health_waits_in_the_order_of_ids(fleet: Fleet) -> None:
    """Who holds a subscription's health is waited for before any later one is locked."""
    first, last = sorted([add(fleet), add(fleet)])
    come_to(fleet, first, "retry")
    come_to(fleet, last, "retry")
    taken = [claims(fleet, last)[0], claims(fleet, first)[0]]
    hold = "SELECT FROM outbox.subscription_health WHERE subscription_id = %s FOR UPDATE"

    async def record_while_held() -> None:
        async with await psycopg.AsyncConnection.connect(fleet.database.url) as other:
            await other.execute(hold, [first])
            writing = asyncio.create_task(
                fleet.a.record(
                    [result(taken[0], "delivered"), result(taken[1], "retry")], again=False, gone={}
                )
            )
            await waiting(other)
            await other.execute(f"{hold} NOWAIT", [last])
            await other.commit()
            await writing

    fleet.run(record_while_held())
    assert (failures(fleet, first), failures(fleet, last)) == (2, None)


async def waiting(connection: psycopg.AsyncConnection) -> None:
    """Return once another session waits for a lock."""
    async with asyncio.timeout(5):
        while True:
            found = await connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if (await found.fetchone() or (0,))[0]:
                return
            await asyncio.sleep(0.01)


# Who is told.


def test_failing_is_told_once(fleet: Fleet) -> None:
    """It is told with the fifth failure after an hour of them, and not again."""
    lane = add(fleet, tenant="acme")
    come_to(fleet, lane, "retry")
    make_failing(fleet, "59 min", 100)
    come_to(fleet, lane, "retry")
    make_failing(fleet, "1 h", 3)
    come_to(fleet, lane, "retry")
    assert told(fleet) == []

    for _ in range(3):
        come_to(fleet, lane, "retry")
    assert told(fleet) == [("subscription.failing", f"subscription/{lane}")]
    found = data(fleet, "subscription.failing")
    since = fleet.value("SELECT failing_since FROM outbox.subscription_health")
    assert datetime.fromisoformat(found.pop("failing_since")) == since
    assert found == {"subscription_id": str(lane), "tenant": "acme", "failures": 5}


def test_recovered_is_told_to_whom_failing_was(fleet: Fleet) -> None:
    """The first success after `failing` is told; without it there is nothing to tell."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    make_failing(fleet, "1 h", 50)
    come_to(fleet, lane, "delivered")
    assert told(fleet) == []

    come_to(fleet, lane, "retry")
    make_failing(fleet, "1 h", 50)
    for outcome in ("retry", "delivered", "delivered"):
        come_to(fleet, lane, outcome)
    assert [type for type, _ in told(fleet)] == ["subscription.failing", "subscription.recovered"]
    assert data(fleet, "subscription.recovered")["failures"] == 51


def test_dead_is_told(fleet: Fleet) -> None:
    """Each delivery that dies is told of: which, of what, after how much, and why."""
    lane = add(fleet)
    (claim,) = come_to(fleet, lane, "dead", status=503, error="HTTP 503; used up")

    assert told(fleet) == [("delivery.dead", f"subscription/{lane}")]
    assert data(fleet, "delivery.dead") == {
        "delivery_id": claim.delivery_id, "event_id": claim.event_id, "event_type": "invoice.paid",
        "tenant": "acme", "subscription_id": str(lane), "attempts": 1, "status": 503,
        "error_class": None, "reason": "HTTP 503; used up",
    }  # fmt: skip


def test_an_operational_event_is_an_event(fleet: Fleet) -> None:
    """It is the operator's, without a tenant, and fanned out like any other."""
    lane, ops = add(fleet), add(fleet, types=["subscription.*", "delivery.dead"])
    come_to(fleet, lane, "dead")

    assert fleet.rows(
        "SELECT tenant, due_at, context FROM outbox.event WHERE source = 'outbox'"
    ) == [(None, None, None)]
    assert fleet.fan_out() == [str(ops)]


def test_no_loops(fleet: Fleet) -> None:
    """Whatever becomes of an operational event brings forth no other and counts for nothing."""
    ops = add(fleet, types=["invoice.*", "delivery.dead"])
    come_to(fleet, ops, "retry")
    make_failing(fleet, "6 days", 19)
    for outcome in ("dead", "retry", "delivered"):
        come_to(fleet, ops, outcome, operational=True)
    assert failures(fleet, ops) == 19
    assert told(fleet) == []


# What is disabled.


def disable_failing(store: Store) -> Any:
    return store.disable_failing()


@pytest.mark.parametrize(
    ("since", "failures", "state"),
    [("5 days", 20, "disabled"), ("119 h", 1_000, "active"), ("30 days", 19, "active")],
)
def test_the_rule(fleet: Fleet, since: str, failures: int, state: str) -> None:
    """Nothing but failures for five days, at least twenty of them: it is disabled."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    make_failing(fleet, since, failures)
    fleet.run(fleet.a.disable_failing())

    assert fleet.rows("SELECT state, revision FROM outbox.subscription") == [
        (state, 2 if state == "disabled" else 1)
    ]


def test_the_rule_tells_why(fleet: Fleet) -> None:
    """The reason is a sentence, on the subscription, in the facts and in an event."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    make_failing(fleet, "6 days", 57)
    fleet.execute("UPDATE outbox.subscription_health SET failing_since = '2026-01-31 23:59+00'")
    reason = "nothing but failures since 2026-01-31: 57 of them"

    assert fleet.run(fleet.a.disable_failing()) == [(str(lane), reason)]
    assert fleet.value("SELECT state_reason FROM outbox.subscription") == reason
    assert fleet.rows(
        "SELECT revision, actor, after ->> 'state_reason' FROM outbox.subscription_change"
        " WHERE change = 'disabled'"
    ) == [(2, f"worker {fleet.a.owner}", reason)]
    assert told(fleet) == [("subscription.disabled", f"subscription/{lane}")]
    assert data(fleet, "subscription.disabled") == {
        "subscription_id": str(lane), "tenant": None, "reason": reason,
    }  # fmt: skip


def test_many_workers_disable_once(fleet: Fleet) -> None:
    """However many apply the rule at once, each subscription is disabled once."""
    for _ in range(10):
        come_to(fleet, add(fleet), "retry")
    make_failing(fleet, "6 days", 20)
    done = fleet.together(*(store.disable_failing() for store in (fleet.a, fleet.b) * 2))

    assert sum(map(len, done)) == 10
    assert fleet.rows("SELECT DISTINCT state, revision FROM outbox.subscription") == [
        ("disabled", 2)
    ]
    assert fleet.run(fleet.a.disable_failing()) == []


def test_a_success_under_way_wins(fleet: Fleet) -> None:
    """What is just being recorded is left alone, and the rule does not wait for it."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    make_failing(fleet, "6 days", 20)
    with psycopg.connect(fleet.database.url) as other:
        other.execute("SELECT outbox.note_health(%s, 0)", [lane])
        assert fleet.run(fleet.a.disable_failing()) == []
    assert fleet.run(fleet.a.disable_failing()) == []


def test_what_is_paused_is_not_disabled(fleet: Fleet) -> None:
    """A person's word stands: only active subscriptions are disabled."""
    come_to(fleet, add(fleet), "retry")
    make_failing(fleet, "6 days", 20)
    fleet.execute("UPDATE outbox.subscription SET state = 'paused'")

    assert fleet.run(fleet.a.disable_failing()) == []
    assert told(fleet) == []


def test_the_duty(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """A worker applies the rule by itself and says so in its log."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    make_failing(fleet, "6 days", 20)
    fleet.run(Maintenance(fleet.a, None, None).disable_failing())  # type: ignore[arg-type]

    assert f"disabled subscription {lane}: nothing but failures since" in caplog.text


@pytest.mark.parametrize("source", [None, "outbox"])
def test_gone_is_told(fleet: Fleet, source: str | None) -> None:
    """A 410 is told of once, unless it came to an operational event."""
    lane = add(fleet)
    taken = claims(fleet, lane, 2, source=source)
    operational = source == "outbox"
    for claim in taken:
        made = result(claim, "dead", operational=operational)
        gone = {str(lane): Gone("gone", tell=not operational)}
        fleet.run(fleet.a.record([made], again=False, gone=gone))

    types = ["subscription.disabled", "delivery.dead", "delivery.dead"]
    assert [type for type, _ in told(fleet)] == ([] if operational else types)
    assert fleet.value("SELECT state FROM outbox.subscription") == "disabled"


# What a person does about it.


def test_resume_begins_anew(fleet: Fleet) -> None:
    """What was disabled by the rule is not disabled again at once; its deliveries go on."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    fleet.emit(3)
    fleet.fan_out()
    make_failing(fleet, "6 days", 20)
    fleet.run(fleet.a.disable_failing())
    held = fleet.rows("SELECT * FROM outbox.delivery_queue ORDER BY delivery_id")
    assert fleet.claim(fleet.a, lane) == []

    change(fleet, subscriptions.resume, lane)
    assert failures(fleet, lane) is None
    assert fleet.run(fleet.a.disable_failing()) == []
    assert fleet.rows("SELECT * FROM outbox.delivery_queue ORDER BY delivery_id") == held
    assert len(fleet.claim(fleet.a, lane)) == 3


def test_resume_of_an_active_one_forgets_nothing(fleet: Fleet) -> None:
    """What changes nothing forgets nothing; a pause keeps what is known as well."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    change(fleet, subscriptions.resume, lane)
    change(fleet, subscriptions.pause, lane)

    assert failures(fleet, lane) == 1


def test_removed_is_forgotten(fleet: Fleet) -> None:
    """A removed subscription has no health, also when an answer comes after its removal."""
    lane = add(fleet)
    come_to(fleet, lane, "retry")
    taken = claims(fleet, lane)
    change(fleet, subscriptions.remove, lane)
    fleet.record(fleet.a, result(taken[0], "retry"))
    fleet.execute(f"SELECT outbox.note_health('{lane}', 1)")

    assert fleet.value("SELECT count(*) FROM outbox.subscription_health") == 0


def change(fleet: Fleet, verb: Any, lane: UUID) -> None:
    with fleet.database.engine.begin() as connection:
        verb(connection, lane, by=BY)


# The whole.

LOG = """
WITH counted AS (
    SELECT d.subscription_id AS id, a.recorded_at AS at, a.outcome
    FROM outbox.attempt a
    JOIN outbox.delivery d ON d.id = a.delivery_id
    JOIN outbox.event e ON e.id = d.event_id AND e.source IS DISTINCT FROM 'outbox'
    WHERE a.outcome IN ('delivered', 'retry', 'dead')
        AND (a.status IS NOT NULL OR a.error_class <> 'internal')
)
SELECT id, min(at), count(*)::int
FROM counted c
WHERE outcome <> 'delivered' AND (at > greatest(
    (SELECT max(at) FROM counted s WHERE s.id = c.id AND s.outcome = 'delivered'),
    (SELECT max(h.changed_at) FROM outbox.subscription_change h
     WHERE h.subscription_id = c.id AND h.change = 'resumed')))
    IS NOT FALSE
GROUP BY 1 ORDER BY 1
"""
KEPT = "SELECT subscription_id, failing_since, failures FROM outbox.subscription_health ORDER BY 1"

one = st.tuples(
    st.integers(0, 2),  # the subscription
    st.sampled_from(["delivered", "retry", "retry", "dead", "own", "late"]),
    st.sampled_from([None, None, "billing", "outbox"]),  # the source of the event
)
step = st.lists(one, min_size=1, max_size=6) | st.tuples(st.just("resume"), st.integers(0, 2))


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(step, max_size=8))
def test_health_is_what_the_log_says(fleet: Fleet, steps: list[Any]) -> None:
    """After whatever happened, the rows are the failures since the last success or resume."""
    lanes = [add(fleet, types=["none"]) for _ in range(3)]
    for lane in lanes:
        pattern = f"'x.{lane}', '', '{lane}'"
        fleet.execute(f"INSERT INTO outbox.subscription_type VALUES ({pattern})")  # noqa: S608
    for each in steps:
        if isinstance(each, tuple):
            change(fleet, subscriptions.pause, lanes[each[1]])
            change(fleet, subscriptions.resume, lanes[each[1]])
        else:
            happen(fleet, [(lanes[place], outcome, source) for place, outcome, source in each])

    assert fleet.rows(KEPT) == fleet.rows(LOG)


def happen(fleet: Fleet, batch: list[tuple[UUID, str, str | None]]) -> list[Recorded]:
    made = []
    for lane, outcome, source in batch:
        (claim,) = claims(fleet, lane, type=f"x.{lane}", source=source)
        changes: dict[str, Any] = {"operational": claim.operational, "delay": 3600.0}
        if outcome == "own":
            changes |= OWN_FAULT
        if outcome == "late":
            changes["attempt"] = 9
        real = {"own": "retry", "late": "retry"}.get(outcome, outcome)
        made.append(result(claim, real, **changes))
    return fleet.record(fleet.a, *made)
