"""Replays as the worker makes them, slice by slice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from outbox import replays, subscriptions
from outbox.replays import Replay, Selection
from outbox.worker.feed import BURST, WAITING, filled, until_filled
from outbox.worker.replay import BUSY, IDLE, Replays
from outbox.worker.store import Store
from tests.factories import BY, rows, subscribe
from tests.helpers import eventually

from .conftest import until, working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.worker.rows import FannedOut, RunningReplay

    from .conftest import Fleet

MADE = """
SELECT event_id, subscription_id FROM outbox.delivery WHERE replay_id IS NOT NULL ORDER BY id
"""


class Job:
    """A replay and those who work on it."""

    def __init__(self, fleet: Fleet, **selection: Any) -> None:
        self.fleet = fleet
        self.told: list[FannedOut] = []
        rate = selection.pop("rate", None)
        with fleet.database.engine.begin() as connection:
            chosen = Selection(**{"mode": "missing", **selection})
            self.id = replays.start(connection, chosen, rate=rate, by=BY).id
        self._loops = {store: Replays(store, self.told.append) for store in (fleet.a, fleet.b)}

    def step(self, store: Store | None = None) -> float:
        """A pass of one worker; return the seconds that it would wait."""
        return self.fleet.run(self._loops[store or self.fleet.a].step())

    def finish(self, *, deliver: bool = True) -> Replay:
        """Step until it has ended, and deliver what is due in between."""
        for _ in range(1_000):
            self.step()
            if self.shown.state != "running":
                return self.shown
            if deliver:
                deliver_all(self.fleet)
        raise AssertionError(self.shown)

    @property
    def shown(self) -> Replay:
        with self.fleet.database.engine.begin() as connection:
            return replays.show(connection, self.id)

    @property
    def made(self) -> list[tuple[UUID, UUID]]:
        return [(event, to) for event, to in query(self.fleet, MADE)]

    def cursor(self) -> tuple[UUID, UUID]:
        found = query(self.fleet, "SELECT after_event, after_subscription FROM outbox.replay")
        return found[0][0], found[0][1]

    @property
    def last_event(self) -> UUID:
        (found,) = query(self.fleet, "SELECT last_event FROM outbox.replay")
        return UUID(str(found[0]))


def query(fleet: Fleet, statement: str) -> list[tuple[Any, ...]]:
    with fleet.database.engine.begin() as connection:
        return rows(connection, statement)


def deliver_all(fleet: Fleet) -> None:
    """As if all that is due was delivered."""
    fleet.execute(
        "DELETE FROM outbox.delivery_queue q USING outbox.subscription s"
        " WHERE s.id = q.subscription_id AND s.state = 'active'"
    )


def past(fleet: Fleet, count: int, **fields: Any) -> list[UUID]:
    """Events that are fanned out already, to nobody."""
    ids = fleet.emit(count, **fields)
    fleet.execute("DELETE FROM outbox.event_queue")
    return ids


def add(fleet: Fleet, **options: Any) -> UUID:
    with fleet.database.engine.begin() as connection:
        return subscribe(connection, **options).id


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in a lane counts as fresh, however slow this machine is."""
    monkeypatch.setattr("outbox.worker.feed.FRESH", 600.0)


def test_all_of_history(fleet: Fleet) -> None:
    """A subscription made today gets every event, once, in their order, and the job is done."""
    events = past(fleet, 100)
    to = add(fleet)
    job = Job(fleet, subscription_id=to)

    ended = job.finish()

    assert job.made == [(id, to) for id in events]
    assert (ended.state, ended.made, ended.counted) == ("done", 100, 100)
    assert ended.ended_at is not None
    assert {lane for told in job.told for lane in told.lanes} == {str(to)}
    assert 0 < job.step() <= IDLE * 1.02


def test_what_a_slice_did_not_commit(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever dies before the commit leaves nothing; the next worker goes on from there."""
    events = past(fleet, 40)
    to = add(fleet)
    job = Job(fleet, subscription_id=to)
    job.step()
    deliver_all(fleet)
    before = job.made, job.cursor()

    async def die(*_: object, **__: object) -> None:
        raise KeyError("the process is gone")

    monkeypatch.setattr(Store, "move_replay", die)
    with pytest.raises(KeyError):
        job.step()
    monkeypatch.undo()
    assert (job.made, job.cursor()) == before
    job.step(fleet.b)
    job.finish()

    assert 0 < len(before[0]) < 40
    assert job.made == [(id, to) for id in events]


def test_two_workers(fleet: Fleet) -> None:
    """Two that step at the same time make each pair once; who comes second waits a little."""
    events = past(fleet, 200)
    receivers = [add(fleet) for _ in range(3)]
    job = Job(fleet, type="*")

    async def work(store: Store) -> list[float]:
        loop, waits = Replays(store, job.told.append), []
        while await store.running_replays():
            waits.append(await loop.step())
            await asyncio.to_thread(deliver_all, fleet)
        return waits

    waits = fleet.together(work(fleet.a), work(fleet.b))

    assert sorted(job.made) == sorted((id, to) for id in events for to in receivers)
    assert BUSY in [*waits[0], *waits[1]]


@pytest.mark.usefixtures("unhurried")
def test_cancelled_half_way(fleet: Fleet) -> None:
    """Nothing more is made; what was made goes on."""
    past(fleet, 100)
    to = add(fleet)
    job = Job(fleet, subscription_id=to)
    while len(job.made) < 30:
        job.step()
    with fleet.database.engine.begin() as connection:
        replays.cancel(connection, job.id, BY)
    made = len(job.made)

    assert 0 < job.step() <= IDLE * 1.02
    assert len(job.made) == made < 100
    assert len(fleet.claim(fleet.a, to)) == made


@pytest.mark.usefixtures("unhurried")
def test_the_rate_holds(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is made than the bucket has filled, and no more is saved up than it holds."""
    past(fleet, 100)
    job = Job(fleet, subscription_id=add(fleet), rate=10.0)
    spans = [0.0, 0.02, 0.32, 0.01, 60.0, 0.0, 0.0, 0.0]  # seconds since it was filled
    look = Store.lock_replay

    async def lock(*arguments: Any) -> RunningReplay | None:
        found = await look(*arguments)
        return found and found._replace(seconds=spans.pop(0))

    monkeypatch.setattr(Store, "lock_replay", lock)
    counts = []
    while spans:
        job.step()
        counts.append(len(job.made))

    # The first is free; 0.32 s are worth 3; a minute fills the bucket with half a second's.
    assert counts[:4] == [1, 1, 4, 4]
    assert counts[-1] == 9


@pytest.mark.usefixtures("unhurried")
def test_a_lane_takes_a_little_at_a_time(fleet: Fleet) -> None:
    """What waits in one lane is bounded; the rest is made as it is delivered."""
    past(fleet, 100)
    job = Job(fleet, subscription_id=add(fleet))
    for _ in range(8):
        job.step()
    assert len(job.made) == WAITING

    deliver_all(fleet)
    for _ in range(8):
        job.step()

    assert len(job.made) == 2 * WAITING


def test_live_traffic_that_waits_holds_it_back(fleet: Fleet) -> None:
    """A lane where something waits too long already takes nothing, and then all of it."""
    to = add(fleet)
    fleet.emit(1)
    fleet.fan_out()
    fleet.execute("UPDATE outbox.delivery_queue SET due_at = now() - interval '1 s'")
    events = past(fleet, 10)
    job = Job(fleet, subscription_id=to)
    waits = [job.step() for _ in range(15)]
    assert job.made == []
    assert waits[-1] == IDLE  # asked for less and less often

    deliver_all(fleet)
    job.finish()

    assert [event for event, _ in job.made] == events


def test_a_stopped_subscription_stops_no_other(fleet: Fleet) -> None:
    """The others get theirs; its own are held up to a bound, and the rest comes with `resume`."""
    events = past(fleet, 60)
    paused, active = add(fleet), add(fleet)
    with fleet.database.engine.begin() as connection:
        subscriptions.pause(connection, paused, by=BY)
    job = Job(fleet, type="invoice.*")
    for _ in range(30):
        job.step()
        deliver_all(fleet)

    assert [event for event, to in job.made if to == active] == events
    assert [event for event, to in job.made if to == paused] == events[:WAITING]
    assert job.shown.state == "running"
    with fleet.database.engine.begin() as connection:
        assert [each.subscription_id for each in replays.behind(connection, job.shown)] == [paused]
        subscriptions.resume(connection, paused, by=BY)
    ended = job.finish()

    assert [event for event, to in job.made if to == paused] == events
    assert (ended.state, ended.made) == ("done", 120)
    assert query(fleet, "SELECT * FROM outbox.replay_lane") == []


def test_a_slow_one_joins_the_others_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each subscription gets every event once and in order, however their paces differ."""
    monkeypatch.setattr("outbox.worker.feed.WAITING", 4)
    monkeypatch.setattr("outbox.worker.replay.LIMIT", 10)
    events = past(fleet, 40)
    receivers = [add(fleet) for _ in range(3)]
    job = Job(fleet, type="*")
    seen = set()
    for step in range(1_000):
        job.step()
        if job.shown.state != "running":
            break
        seen.add((job.cursor()[0] == job.last_event, len(query(fleet, APART))))
        asleep = receivers[step // 3 % 3]
        fleet.execute(f"DELETE FROM outbox.delivery_queue WHERE subscription_id <> '{asleep}'")  # noqa: S608

    assert {(False, 0), (False, 1)} <= seen  # they came and went, and not at the end alone
    for to in receivers:
        assert [event for event, other in job.made if other == to] == events


APART = "SELECT subscription_id FROM outbox.replay_lane"


def test_more_subscriptions_than_a_slice_takes(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor stands within an event, too."""
    monkeypatch.setattr("outbox.worker.replay.LIMIT", 3)
    events = past(fleet, 4)
    receivers = [add(fleet) for _ in range(7)]
    job = Job(fleet, type="*")

    job.finish()

    assert job.made == [(event, to) for event in events for to in receivers]


@pytest.mark.usefixtures("unhurried")
def test_a_removed_subscription_is_passed_over(fleet: Fleet) -> None:
    """Set apart or not: once it is removed it gets nothing, and keeps nobody waiting."""
    past(fleet, 100)
    gone, other = add(fleet), add(fleet)
    job = Job(fleet, type="*")
    for _ in range(10):
        job.step()
    with fleet.database.engine.begin() as connection:
        subscriptions.remove(connection, gone, by=BY)
    ended = job.finish()

    assert ended.state == "done"
    assert Counter(to for _, to in job.made) == {other: 100, gone: WAITING}


@pytest.mark.usefixtures("unhurried")
def test_ordered(fleet: Fleet) -> None:
    """Of a subject one delivery may go, and as many are open as a lane may have."""
    past(fleet, 30, subject="user/1")
    to = add(fleet, ordered="stop")
    job = Job(fleet, subscription_id=to)
    while len(job.made) < 30:
        job.step()

    assert len(job.made) == 30
    assert query(fleet, "SELECT count(*) FROM outbox.delivery_queue WHERE due_at <= now()") == [
        (1,)
    ]
    assert {lane for told in job.told for lane in told.limited} == {str(to)}


@pytest.mark.usefixtures("unhurried")
def test_open_deliveries_of_a_lane_are_bounded(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that only fails has a bounded number of deliveries to retry, not all of them."""
    monkeypatch.setattr("outbox.worker.feed.OPEN", 50)
    past(fleet, 100)
    job = Job(fleet, subscription_id=add(fleet))
    for _ in range(12):
        job.step()
        fleet.execute("UPDATE outbox.delivery_queue SET due_at = now() + interval '1 h'")

    assert len(job.made) == 50


def test_what_a_fan_out_brings_is_not_brought_twice(fleet: Fleet) -> None:
    """An event that waited for its fan-out at the start is none of the replay's, even later."""
    to = add(fleet)
    before = past(fleet, 2)
    fleet.emit(2)
    job = Job(fleet, mode="all", type="*")
    fleet.fan_out()
    job.finish()

    assert job.made == [(event, to) for event in before]
    assert query(fleet, "SELECT count(*) FROM outbox.delivery") == [(4,)]


def test_the_set_is_fixed_at_the_start(fleet: Fleet) -> None:
    """Neither events nor subscriptions that come later are part of it."""
    events = past(fleet, 3)
    to = add(fleet)
    job = Job(fleet, mode="all", type="*")
    past(fleet, 3)
    add(fleet)
    job.finish()

    assert job.made == [(event, to) for event in events]


@pytest.mark.usefixtures("unhurried")
def test_it_waits_for_a_fan_out_that_began_before(fleet: Fleet) -> None:
    """One that knew nothing of a new subscription has ended before events are looked at."""
    fleet.emit(1)
    with fleet.database.engine.connect() as other, other.begin():
        lock = "SELECT pg_advisory_xact_lock(hashtextextended('outbox.fan_out', 0))"
        other.exec_driver_sql(lock)
        other.exec_driver_sql("DELETE FROM outbox.event_queue")  # it matched nobody
        to = add(fleet)
        job = Job(fleet, subscription_id=to)
        with ThreadPoolExecutor() as threads:
            step = threads.submit(job.step)
            eventually(lambda: query(fleet, WAITS_FOR_A_LOCK) == [(1,)])
            other.commit()
            step.result()

    assert [other for _, other in job.made] == [to]


WAITS_FOR_A_LOCK = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
"""


def test_a_whole_worker(fleet: Fleet) -> None:
    """A worker finds a replay by itself, and what it makes is sent at once."""
    past(fleet, 3)
    add(fleet)
    job = Job(fleet, type="*")
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    async def work() -> None:
        async with working(fleet.database, httpx.MockTransport(answer)):
            await until(lambda: len(sent) == 3)

    fleet.run(work())

    assert {UUID(request.headers["webhook-id"]) for request in sent} == {id for id, _ in job.made}
    assert job.shown.state == "done"


BROKEN = """
CREATE FUNCTION outbox.break_replay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT type FROM outbox.event WHERE id = NEW.event_id) = 'a.broken' THEN
        RAISE EXCEPTION 'broken by a test' USING ERRCODE = '22012';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER break_replay BEFORE INSERT ON outbox.delivery
    FOR EACH ROW EXECUTE FUNCTION outbox.break_replay();
"""


@pytest.fixture
def broken(fleet: Fleet) -> Iterator[None]:
    """No delivery of an event `a.broken` can be made."""
    fleet.execute(BROKEN)
    yield
    fleet.execute("DROP FUNCTION outbox.break_replay() CASCADE")


@pytest.mark.usefixtures("broken", "unhurried")
def test_one_that_cannot_go_on_fails(fleet: Fleet) -> None:
    """Data that makes a slice fail ends the replay, with the reason; the others go on."""
    past(fleet, 1, type="a.broken")
    good = past(fleet, 1, type="a.good")
    to = add(fleet)
    job, other = Job(fleet, type="a.broken"), Job(fleet, type="a.good")
    job.step()
    other.step()

    assert (job.shown.state, job.shown.error) == ("failed", "broken by a test")
    assert job.made == [(good[0], to)]
    assert other.shown.state == "done"


@pytest.mark.parametrize("rate", [0.01, 3.0, 500.0, 100_000.0])
def test_the_bucket_is_exact(rate: float) -> None:
    """In any span a replay makes no more than the rate allows, and what was saved up before."""
    now, tokens, made = 0.0, 1.0, []
    rng = random.Random(3)  # noqa: S311
    while now < 2_000 / rate:
        pause = until_filled(tokens, rate) + rng.random() * 0.02 / rate
        now += pause
        tokens = filled(tokens, rate, pause)
        taken = int(tokens)
        tokens -= taken
        made.append((now, taken))

    total = sum(count for _, count in made)
    assert total <= rate * now + 1
    assert total >= rate * now * 0.95 - 1
    burst = max(1.0, rate * BURST)
    for begin, (since, _) in enumerate(made[:50]):
        sums = accumulate(count for _, count in made[begin:])
        assert all(
            count <= burst + rate * (at - since) + 1e-6
            for (at, _), count in zip(made[begin:], sums, strict=True)
        )
