"""Matching, explained: the same answer as the fan-out's, and the reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

import outbox
from outbox import Event, InvalidInput, events, matching, subscriptions
from tests.factories import BY, emit_many, event, rows, subscribe

from .test_matching import fan_out

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

    from outbox.matching import Explanation


def reasons(found: Explanation) -> dict[UUID, str | None]:
    return {each.id: each.reason for each in (*found.matching, *found.others)}


def explain(connection: Connection, type: str = "invoice.paid", **about: Any) -> Explanation:
    if "data" in about:
        about["data"] = json.dumps(about["data"])
    return matching.explain(connection, type=type, **about)


def test_reasons(db: Connection) -> None:
    """Each that does not match says why: its type, its tenant, its filter."""
    fits = subscribe(db, types=["invoice.*"]).id
    typed = subscribe(db, types=["user.*"]).id
    of_x = subscribe(db, tenant="x").id
    filtered = subscribe(db, filter="$.amount > 100").id
    passes = subscribe(db, filter="$.amount > 1").id
    found = explain(db, tenant="y", data={"amount": 7})

    assert reasons(found) == {
        fits: None, passes: None, typed: "type", of_x: "tenant", filtered: "filter",
    }  # fmt: skip
    assert [each.id for each in found.matching] == [fits, passes]
    assert [each.id for each in found.others] == [filtered, typed, of_x]
    assert found.others_in_all == 3


def test_filters_without_data(db: Connection) -> None:
    """Where there is no data, a filter is not asked: it may match."""
    id = subscribe(db, filter="$.amount > 100").id
    (verdict,) = explain(db).matching

    assert (verdict.id, verdict.matches, verdict.reason) == (id, None, None)
    assert verdict.filter == "$.amount > 100"


def test_events_of_the_outbox_itself(db: Connection) -> None:
    """A bare * does not mean them, a pattern that names them does."""
    bare, named = subscribe(db, types=["*"]).id, subscribe(db, types=["delivery.*", "*"]).id
    found = explain(db, "delivery.dead", ours=True)

    assert reasons(found) == {named: None, bare: "operational"}
    assert explain(db, "delivery.dead").others == ()


def test_held(db: Connection) -> None:
    """A stopped one matches, and says what holds its deliveries; a removed one is not there."""
    paused, disabled, removed = (subscribe(db).id for _ in range(3))
    subscriptions.pause(db, paused, by=BY, reason="they migrate")
    subscriptions.disable(db, disabled, by=BY, reason="gone")
    subscriptions.remove(db, removed, by=BY)
    found = explain(db)

    assert {each.id: each.held for each in found.matching} == {
        paused: "paused: they migrate", disabled: "disabled: gone",
    }  # fmt: skip
    assert (found.others, found.others_in_all) == ((), 0)


def test_those_that_do_not_match_are_bounded(db: Connection) -> None:
    """At most so many are told of, those of the same tenant first; all are counted."""
    for n in range(6):
        subscribe(db, types=["user.*"], tenant="xy"[n % 2])
    subscribe(db, types=["user.*"])
    found = explain(db, tenant="y", others=4)

    assert found.others_in_all == 7
    assert [each.tenant for each in found.others] == ["y", "y", "y", None]
    assert explain(db, tenant="y", others=0).others == ()


def test_wrong_type(db: Connection) -> None:
    """What is no type is refused."""
    with pytest.raises(InvalidInput, match="type"):
        explain(db, "invoice.*")


@pytest.mark.parametrize("source", [None, "outbox"])
def test_the_same_as_the_fan_out(db: Connection, source: str | None) -> None:
    """What is explained is what happens."""
    for types in (["*"], ["invoice.*"], ["invoice.paid"], ["user.*"], ["in*", "user.x"]):
        for tenant in (None, "x", "y"):
            for filter in (None, "$.n > 1", "$.n > 5"):
                subscribe(db, types=types, tenant=tenant, filter=filter)
    (id,) = emit_many(db, [event("invoice.paid", tenant="x", data={"n": 3}, source=source)])
    fan_out(db)
    found = matching.explain_event(db, events.show_event(db, id), others=100)
    got = rows(db, "SELECT subscription_id FROM outbox.delivery WHERE event_id = :id", id=id)

    assert {each.id for each in found.matching} == {row[0] for row in got}
    assert len(found.others) == found.others_in_all == 45 - len(got)


# An event that there is.


def fate(connection: Connection, id: UUID) -> list[str]:
    found = events.show_event(connection, id)
    explained = matching.explain_event(connection, found)
    return list(matching.fates(connection, found, explained).values())


def test_fates(db: Connection) -> None:
    """What matches has a delivery, or a reason why not."""
    subscribe(db)
    id = outbox.emit(db, event())

    assert fate(db, id) == ["waits for its fan-out"]

    fan_out(db)
    subscribe(db, types=["user.*"])
    late = subscribe(db).id
    db.execute(
        text("UPDATE outbox.subscription SET created_at = now() + interval '1 s' WHERE id = :id"),
        {"id": late},
    )

    assert fate(db, id) == ["delivery", "added later"]


def test_a_subscription_that_was_changed_since(db: Connection) -> None:
    """One that matches only since it was changed says so."""
    id = subscribe(db, types=["user.*"]).id
    told = outbox.emit(db, event())
    fan_out(db)
    subscriptions.update(db, id, by=BY, types=["*"])
    db.exec_driver_sql("UPDATE outbox.subscription SET created_at = '2020-01-01',"
                       " changed_at = now() + interval '1 s'")  # fmt: skip

    assert fate(db, told) == ["changed later"]

    db.exec_driver_sql("UPDATE outbox.subscription SET changed_at = '2020-01-01'")

    assert fate(db, told) == ["missing"]


def test_an_event_that_is_due_later(db: Connection) -> None:
    """Who subscribes before it is due has not come too late."""
    due = event().due_at
    assert due is not None
    id = outbox.emit(db, Event(type="a.b", due_at=due.replace(year=2200)))
    subscribe(db)

    assert fate(db, id) == ["waits for its fan-out"]
