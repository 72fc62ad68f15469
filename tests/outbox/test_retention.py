"""What is past its retention is dropped by days; what is open is not."""

from __future__ import annotations

import doctest
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from outbox import Event, InvalidInput, emit, erasure, repairs, retention
from outbox.retention import DAY
from tests.days import add_event, make_day, partitions, today
from tests.factories import BY, rows, subscribe, value

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

    from tests.databases import Database

KEY = "INSERT INTO outbox.event_key SELECT '', :key, outbox.uuid7_floor(:day), ''"
REPLAY = """
INSERT INTO outbox.replay (mode, counted, after_event, last_event, actor, command)
VALUES ('all', 1, outbox.uuid7_floor(:day), outbox.uuid7_floor(:day), 'ada', 'a test')
"""


def test_the_policy(db: Connection) -> None:
    """Facts are kept for ever until someone says how long; who said so stays."""
    before = retention.show(db)
    after = retention.keep_for(db, 90 * DAY, by=BY)

    assert (before.keep, before.actor) == (None, None)
    assert (after.keep, after.actor, after.command) == (90 * DAY, BY.actor, BY.command)
    assert retention.keep_for(db, None, by=BY).keep is None


@pytest.mark.parametrize("seconds", [0.0, DAY - 1, 1e12])
def test_policies_that_make_no_sense(db: Connection, seconds: float) -> None:
    """Less than a day is no retention."""
    with pytest.raises(InvalidInput, match="keep: must be from 1d"):
        retention.keep_for(db, seconds, by=BY)


def test_day_of(db: Connection) -> None:
    """The day of an id is the day in which its range begins, to the millisecond, everywhere."""
    db.exec_driver_sql("SET LOCAL timezone = 'Pacific/Kiritimati'")
    edge = datetime(2026, 3, 1, tzinfo=UTC)
    for moment in (edge - timedelta(milliseconds=1), edge, edge + timedelta(hours=23)):
        id = value(db, "SELECT outbox.uuid7_floor(:moment)", moment=moment)

        assert value(db, "SELECT outbox.day_of(:id)", id=id) == moment.date()
        assert erasure.day_of(id) == moment.date()


@pytest.mark.clone
def test_prune(cloned_db: Database) -> None:
    """Days past their retention go with their keys, but for those that hold something open."""
    with cloned_db.engine.begin() as connection:
        days = {age: make_day(connection, age) for age in (3, 10, 11, 12, 13, 14)}
        for day in days.values():
            add_event(connection, day)
        again = add_event(connection, days[11], 13)
        repairs.deliver_again(connection, [(again, subscribe(connection).id)])
        add_event(connection, days[12], 13, queued=True)
        connection.execute(text(REPLAY), {"day": days[13]})
        for key, age in (("old", 10), ("new", 3)):
            connection.execute(text(KEY), {"key": key, "day": days[age]})
        assert retention.past(connection) == []
        retention.keep_for(connection, 7 * DAY, by=BY)

    told: list[date] = []
    pruned = retention.prune(cloned_db.engine, dropped=lambda day: told.append(day.day))

    with cloned_db.engine.connect() as connection:
        assert partitions(connection) == {
            f"{fact}_{days[age]:%Y%m%d}" for age in (3, 11, 12, 13) for fact in retention.FACTS
        }
        assert rows(connection, "SELECT key FROM outbox.event_key") == [("new",)]
    assert told == [days[14], days[10]]
    assert [(day.day, (day.held or "").partition(" ")[0]) for day in pruned.held] == [
        (days[13], "replay"), (days[12], "an"), (days[11], "a"),
    ]  # fmt: skip
    assert (pruned.busy, pruned.keys) == ([], 1)


@pytest.mark.clone
def test_under_the_lock(cloned_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds the table makes it busy, not wait; what was opened since the look is seen."""
    monkeypatch.setattr(retention, "TRIES", 1)
    monkeypatch.setattr(retention, "PAUSE", 0)
    with cloned_db.engine.begin() as connection:
        day = make_day(connection, 10)
        id = add_event(connection, day)
        to = subscribe(connection).id
        retention.keep_for(connection, 7 * DAY, by=BY)
    with cloned_db.engine.begin() as host:
        emit(host, Event(type="a.b"))
        busy = retention.prune(cloned_db.engine).busy

    with cloned_db.engine.begin() as connection:
        looked_at = value(connection, "SELECT now()")
        repairs.deliver_again(connection, [(id, to)])
    with cloned_db.engine.begin() as connection:
        query = "SELECT outbox.drop_day('event', :day, :at)"
        assert value(connection, query, day=day, at=looked_at) is False
        assert len(partitions(connection)) == 3
        with pytest.raises(DBAPIError, match="is not past its retention"):
            value(connection, query, day=today(connection), at=looked_at)

    assert [each.day for each in busy] == [day]


@pytest.mark.clone
def test_the_default_partition_is_drained(cloned_db: Database) -> None:
    """Rows of past days get partitions of their own, and are read as before; today's stay."""
    ages = (2, 2, 5)
    with cloned_db.engine.begin() as connection:
        days = [today(connection) - timedelta(days=age) for age in ages]
        ids = {add_event(connection, days[0]), add_event(connection, days[1], 13)}
        ids.add(add_event(connection, days[2]))
        assert value(connection, "SELECT count(*) FROM outbox.event_default") == 3
        moved = [value(connection, "SELECT outbox.drain_default('event')") for _ in range(3)]

        assert moved == [1, 2, 0]
        assert value(connection, "SELECT count(*) FROM outbox.event_default") == 0
        assert partitions(connection) == {f"event_{day:%Y%m%d}" for day in days}
        assert set(connection.execute(text("SELECT id FROM outbox.event")).scalars()) == ids
        with pytest.raises(DBAPIError, match="append-only"), connection.begin_nested():
            connection.exec_driver_sql("DELETE FROM outbox.event")


# Erasing.

CONTENT = "SELECT data::text, context IS NOT NULL FROM outbox.event WHERE id = :id"
STORY = """
SELECT outcome, error, response_body FROM outbox.attempt a
JOIN outbox.delivery d ON d.id = a.delivery_id WHERE event_id = :id
"""


def test_erase(db: Connection) -> None:
    """The subject's events of the tenant lose what they say, and nothing else does."""

    def user(subject: str, tenant: str | None) -> UUID:
        return emit(db, Event(type="user.seen", data="Ada", subject=subject, tenant=tenant))

    gone = user("user/42", "acme")
    others = [user("user/43", "acme"), user("user/42", "evil"), user("user/42", None)]
    to = subscribe(db).id
    repairs.deliver_again(db, [(id, to) for id in (gone, *others)])
    db.exec_driver_sql(
        "INSERT INTO outbox.attempt (delivery_id, attempt, outcome, response_body)"
        " SELECT id, 1, 'retry', 'hello Ada' FROM outbox.delivery"
    )

    counted = erasure.count(db, "user/42", tenant="acme")
    erased = [erasure.erase(db, "user/42", tenant="acme", by=BY) for _ in range(2)]

    assert (counted, erased) == (1, [erasure.Erased(1, 1), erasure.Erased(0, 0)])
    assert rows(db, CONTENT, id=gone) == [("null", True)]
    assert [rows(db, CONTENT, id=id) for id in others] == [[('"Ada"', False)]] * 3
    assert {id for (id,) in rows(db, "SELECT event_id FROM outbox.delivery_queue")} == set(others)
    assert rows(db, f"{STORY} AND attempt = 0", id=gone) == [
        ("cancelled", "the event was erased by ada", None)
    ]
    assert rows(db, f"{STORY} AND attempt = 1", id=gone) == [("retry", None, None)]
    assert rows(db, STORY, id=others[0]) == [("retry", None, b"hello Ada")]
    assert rows(db, "SELECT tenant, subject, actor FROM outbox.erasure") == [
        ("acme", "user/42", "ada"),
        ("acme", "user/42", "ada"),
    ]


def test_erase_in_the_order_of_a_subject(db: Connection) -> None:
    """Of an ordered subscription the next event of the subject may go."""
    to = subscribe(db, ordered="stop").id
    ids = [emit(db, Event(type="a.b", subject="user/42", tenant=tenant)) for tenant in ("a", "b")]
    repairs.deliver_again(db, [(id, to) for id in ids])
    erasure.erase(db, "user/42", tenant="a", by=BY)

    assert rows(db, "SELECT event_id, due_at <= now() FROM outbox.delivery_queue") == [
        (ids[1], True)
    ]


def test_erase_by_day(committed_db: Database) -> None:
    """Day after day, each a transaction of its own; the fact stands first."""
    with committed_db.engine.begin() as connection:
        for day in (today(connection), today(connection) + timedelta(days=2)):
            id = add_event(connection, day)
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            query = text("UPDATE outbox.event SET subject = 'user/42' WHERE id = :id")
            connection.execute(query, {"id": id})
    erased = list(erasure.erase_by_day(committed_db.engine, "user/42", by=BY))

    assert [each.events for each in erased] == [1, 0, 1]


def test_examples() -> None:
    """The examples of the module hold."""
    assert doctest.testmod(erasure).failed == 0
