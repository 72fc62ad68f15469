"""Replays: what is asked for, and what is counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, text

from outbox import InvalidInput, NotFound, replays, subscriptions, trials
from outbox.errors import WrongState
from outbox.repairs import deliver_again
from outbox.replays import Selection
from outbox.tables import attempt, delivery, delivery_queue, event_queue
from tests.factories import BY, emit_many, event, rows, subscribe

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from outbox.subscriptions import Subscription

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def past(db: Connection, *types: str, **fields: Any) -> list[UUID]:
    """Events that are fanned out already, to nobody."""
    ids = emit_many(db, [event(type, **fields) for type in types])
    db.execute(event_queue.delete())
    return ids


def delivered(db: Connection, id: UUID, to: Subscription, outcome: str | None) -> UUID:
    """A delivery that ended so, or that is open."""
    values = {"event_id": id, "subscription_id": to.id}
    made: UUID = db.execute(insert(delivery).values(values).returning(delivery.c.id)).scalar_one()
    if outcome is None:
        db.execute(insert(delivery_queue).values(delivery_id=made, due_at=NOW, **values))
    else:
        ended = {"delivery_id": made, "attempt": 1, "outcome": outcome}
        db.execute(insert(attempt).values(status=200, **ended))
    return made


def pairs(db: Connection, mode: str = "all", **narrowed: Any) -> set[tuple[UUID, UUID]]:
    """What a replay would bring together, which is as many as are counted."""
    selection = Selection(mode=mode, **{"type": "*", **narrowed})
    first, last = db.execute(select(*replays._range(selection))).one()
    values = {
        "mode": mode, "to": selection.subscription_id, "type": selection.type,
        "tenant": selection.tenant, "subject": selection.subject, "first": first, "last": last,
    }  # fmt: skip
    found = rows(db, PAIRS, **values)
    assert sum(replays.count(db, selection).values()) == len(found) == len(set(found))
    return {(event, to) for event, to in found}


PAIRS = """
SELECT * FROM outbox.replay_pairs(:mode, :to, :type, :tenant, :subject, :first, :last, now(), true)
"""


def test_all_is_whatever_matches_now(db: Connection) -> None:
    """Types, tenants and filters count as they do in a fan-out; what was before does not."""
    (small,) = past(db, "invoice.paid", tenant="acme", data={"n": 1})
    (large,) = past(db, "invoice.paid", tenant="acme", data={"n": 9})
    (other,) = past(db, "user.created", tenant="globex")
    everything = subscribe(db)
    filtered = subscribe(db, types=["invoice.*"], filter="$.n > 5", tenant="acme")
    subscribe(db, types=["invoice.*"], tenant="globex")
    before = {"id": UUID(int=1), "event_id": large, "subscription_id": everything.id}
    db.execute(insert(delivery).values(before))

    found = pairs(db)

    assert {id for id, to in found if to == filtered.id} == {large}
    assert {id for id, to in found if to == everything.id} == {small, large, other}
    assert len(found) == 4


def test_missing_is_what_never_had_a_delivery(db: Connection) -> None:
    """One delivery, whatever became of it, is one; that of another subscription is not."""
    ended, open_, none = past(db, "a.b", "a.b", "a.b")
    to, other = subscribe(db), subscribe(db, types=["z.*"])
    delivered(db, ended, to, "cancelled")
    delivered(db, open_, to, None)
    delivered(db, none, other, "delivered")

    assert pairs(db, "missing") == {(none, to.id)}


@pytest.mark.parametrize(
    ("outcomes", "is_dead"),
    [
        (["dead"], True),
        (["dead", "dead"], True),
        (["dead", "cancelled"], True),
        (["delivered"], False),
        (["cancelled"], False),
        (["dead", "delivered"], False),
        (["dead", None], False),
        ([None], False),
    ],
)
def test_dead_is_dead_and_neither_open_nor_delivered(
    db: Connection, outcomes: list[str | None], *, is_dead: bool
) -> None:
    """Whether it still matches does not matter: it was meant for this subscription."""
    (id,) = past(db, "a.b")
    to = subscribe(db, types=["something.else"])
    for outcome in outcomes:
        delivered(db, id, to, outcome)

    assert pairs(db, "dead") == ({(id, to.id)} if is_dead else set())


def test_what_narrows(db: Connection) -> None:
    """Event, subscription, type, tenant and subject narrow alike, together or alone."""
    a, b = past(db, "invoice.paid", tenant="acme"), past(db, "invoice.void", subject="i/1")
    c = past(db, "user.created", tenant="acme", subject="i/1")
    one, two = subscribe(db), subscribe(db)

    def events(**narrowed: Any) -> list[UUID]:
        found = pairs(db, **narrowed)
        assert {to for _, to in found} <= {one.id, two.id}
        return sorted({id for id, _ in found})

    assert events(type="invoice.*") == a + b
    assert events(type="invoice.paid") == a
    assert events(type="invoice") == []
    assert events(tenant="acme") == a + c
    assert events(subject="i/1", type="user.*") == c
    assert events(event_id=b[0]) == b
    assert pairs(db, subscription_id=two.id) == {(id, two.id) for id in a + b + c}


def test_since_and_until_are_about_the_storing(db: Connection) -> None:
    """From `since` on and before `until`, whenever it happened or was due."""
    past(db, "a.b", occurred_at=NOW, due_at=NOW)
    stored = datetime.now(UTC)  # noqa: TID251 - the database's clock is this machine's
    minute = timedelta(minutes=1)
    subscribe(db)

    ((id, _),) = pairs(db, since=stored - minute, until=stored + minute)
    assert len(pairs(db, event_id=id, since=stored - minute)) == 1
    assert pairs(db, event_id=id, since=stored + minute) == set()
    assert len(pairs(db, since=datetime(1, 1, 2, tzinfo=UTC))) == 1
    assert pairs(db, since=stored + minute) == set()
    assert pairs(db, until=stored - minute) == set()
    assert pairs(db, until=datetime(1960, 1, 1, tzinfo=UTC)) == set()


def test_who_is_left_out(db: Connection) -> None:
    """Events that wait for their fan-out, and subscriptions that are removed; not stopped ones."""
    (id,) = past(db, "a.b")
    _, set_aside, _ = emit_many(
        db, [event("a.b"), event("a.b"), event("a.b", due_at=NOW + timedelta(days=9_999))]
    )
    db.execute(
        event_queue.update()
        .where(event_queue.c.event_id == set_aside)
        .values(due_at=text("'infinity'"), error="broken")
    )
    paused, gone = subscribe(db), subscribe(db)
    delivered(db, id, gone, "dead")
    subscriptions.pause(db, paused.id, by=BY)
    subscriptions.remove(db, gone.id, by=BY)

    assert pairs(db) == pairs(db, "missing") == {(id, paused.id)}
    assert pairs(db, "dead") == set()


def test_operational_events(db: Connection) -> None:
    """A bare * does not mean those of the outbox itself, here as in a fan-out."""
    (id,) = past(db, "delivery.dead", source="outbox")
    subscribe(db)
    asked = subscribe(db, types=["delivery.*"])

    assert pairs(db) == {(id, asked.id)}


def test_test_events(db: Connection) -> None:
    """A test was for one subscription, and reaches no other by a replay."""
    to = subscribe(db, types=["outbox.*"])
    subscribe(db, types=["outbox.*"])
    trials.begin(db, to.id, by=BY)

    assert pairs(db) == pairs(db, "missing") == set()


def start(db: Connection, **fields: Any) -> replays.Replay:
    options = {name: fields.pop(name) for name in ("rate", "counted") if name in fields}
    return replays.start(db, Selection(**{"type": "*", **fields}), by=BY, **options)


def test_start(db: Connection) -> None:
    """It is on record with what was asked for, by whom, and how much it is about."""
    past(db, "a.b", "a.b")
    to = subscribe(db).id
    begun = start(db, subscription_id=to, since=NOW, rate=50)

    assert (begun.state, begun.counted, begun.made, begun.rate) == ("running", 2, 0, 50)
    assert begun.selection == Selection(type="*", subscription_id=to, since=NOW)
    assert (begun.actor, begun.command) == (BY.actor, BY.command)
    assert replays.show(db, begun.id) == begun
    assert start(db, type="a.*", counted=7).counted == 7
    assert [each.selection.type for each in replays.list_replays(db)] == ["a.*", "*"]
    assert replays.list_replays(db, before=begun.id) == []
    assert replays.list_replays(db, state="done") == []


def test_the_same_twice_at_once(db: Connection) -> None:
    """While one runs, the same is refused; another is not, nor the same once it has ended."""
    begun = start(db, since=NOW)
    start(db, since=NOW, tenant="acme")
    with pytest.raises(WrongState, match=f"replay {begun.id} is running: it cannot be started"):
        start(db, since=NOW, rate=7)
    replays.cancel(db, begun.id, BY)

    assert start(db, since=NOW).state == "running"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({}, "selection"),
        ({"mode": "some", "type": "*"}, "mode"),
        ({"type": "a..b"}, "types"),
        ({"tenant": ""}, "tenant"),
        ({"subject": "a\x00"}, "subject"),
        ({"since": NOW.replace(tzinfo=None)}, "since"),
        ({"since": NOW, "until": NOW}, "until"),
    ],
)
def test_wrong_selections(wrong: dict[str, Any], field: str) -> None:
    """Each is refused with the name of what is wrong, before any SQL runs."""
    with pytest.raises(InvalidInput) as caught:
        Selection(**wrong)

    assert caught.value.field == field


def test_wrong_starts(db: Connection) -> None:
    """What is not there cannot be replayed, nor to whom is gone, nor at any rate."""
    gone = subscribe(db).id
    subscriptions.remove(db, gone, by=BY)

    for name in ("event_id", "subscription_id"):
        with pytest.raises(NotFound):
            start(db, **{name: uuid4()})
    with pytest.raises(WrongState, match="removed"):
        start(db, subscription_id=gone)
    with pytest.raises(InvalidInput, match="rate"):
        start(db, rate=0)
    with pytest.raises(InvalidInput, match="state"):
        replays.list_replays(db, state="over")
    with pytest.raises(NotFound):
        replays.show(db, uuid4())


def test_cancel(db: Connection) -> None:
    """It ends at once, with who did it, and only once."""
    begun = start(db)
    cancelled = replays.cancel(db, begun.id, BY)

    assert (cancelled.state, cancelled.error) == ("cancelled", "cancelled by ada")
    assert cancelled.ended_at is not None
    with pytest.raises(WrongState, match="is cancelled: it cannot be cancelled"):
        replays.cancel(db, begun.id, BY)
    with pytest.raises(NotFound):
        replays.cancel(db, uuid4(), BY)


def test_cancel_its_deliveries(db: Connection) -> None:
    """Those still open end as cancelled; others of the same events are left alone."""
    ids = past(db, "a.b", "a.b", "a.b")
    to = subscribe(db)
    begun = start(db)
    deliver_again(db, [(id, to.id) for id in ids], begun.id)
    deliver_again(db, [(ids[0], to.id)])
    db.execute(
        delivery_queue.update()
        .where(delivery_queue.c.event_id == ids[2])
        .values(attempt=2, failures=2)
    )

    assert replays.fates(db, begun.id) == {"open": 3, "delivered": 0, "dead": 0, "cancelled": 0}
    assert replays.cancel_deliveries(db, begun.id, BY) == 3
    assert replays.fates(db, begun.id) == {"open": 0, "delivered": 0, "dead": 0, "cancelled": 3}
    ends = rows(db, "SELECT attempt, outcome, error FROM outbox.attempt ORDER BY attempt")
    assert ends == [(n, "cancelled", "cancelled by ada") for n in (0, 0, 2)]
    assert rows(db, "SELECT count(*) FROM outbox.delivery_queue") == [(1,)]
    assert replays.cancel_deliveries(db, begun.id, BY) == 0


@pytest.mark.parametrize("in_flight", [False, True])
def test_cancel_those_of_an_ordered_one(db: Connection, *, in_flight: bool) -> None:
    """The next of the subject may go, unless one of it is still on its way to the receiver."""
    first, second = past(db, "a.b", "a.b", subject="user/1")
    to = subscribe(db, ordered="skip")
    begun = start(db)
    deliver_again(db, [(first, to.id)], begun.id)
    deliver_again(db, [(second, to.id)])
    if in_flight:
        lease = {"lease_until": NOW, "lease_owner": 1}
        db.execute(delivery_queue.update().where(delivery_queue.c.event_id == first).values(lease))

    assert replays.cancel_deliveries(db, begun.id, BY) == 1

    waits = rows(db, "SELECT event_id, due_at > now() FROM outbox.delivery_queue")
    assert waits == [(second, in_flight)]
