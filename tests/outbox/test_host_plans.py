"""What hosts and people ask costs what is asked for, however much is stored and waits.

In sessions as hosts have them, whose planner may choose as it likes, by custom and by generic
plans, on a thousand and on a million open deliveries, whatever the statistics say: the same
bounds hold for all.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from sqlalchemy import event, text

from outbox import Event, emit_many, status
from outbox.answers import look
from outbox.deliveries import list_attempts, list_deliveries, show_delivery
from outbox.events import fan_out_error, fan_out_state, list_events, show_event
from tests.databases import engine_at
from tests.explained import explain
from tests.factories import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from tests.backlog import Backlog


def ids(connection: Connection, query: str, **values: Any) -> list[Any]:
    return list(connection.execute(text(query), values).scalars())


WAITING = "SELECT event_id FROM outbox.event_queue ORDER BY due_at DESC LIMIT :n"
LONGEST = "SELECT event_id FROM outbox.event_queue ORDER BY due_at LIMIT :n"
OPEN = "SELECT event_id FROM outbox.delivery_queue ORDER BY delivery_id DESC LIMIT :n"
DELIVERY = "SELECT delivery_id FROM outbox.delivery_queue ORDER BY delivery_id DESC LIMIT 1"
LANE = "SELECT id FROM outbox.subscription WHERE name = :name"


def looking(query: str, n: int) -> Callable[[Connection], Any]:
    return lambda c: look(c, [(id, None) for id in ids(c, query, n=n)])


def emitting(*keys: str | None) -> Callable[[Connection], Any]:
    events = [Event(type="invoice.paid", data={"id": 1}, key=key) for key in keys]
    return lambda c: emit_many(c, events)


def listing(**wanted: Any) -> Callable[[Connection], Any]:
    return lambda c: list_deliveries(c, **wanted)


def an_event(c: Connection) -> Any:
    (id,) = ids(c, WAITING, n=1)
    return show_event(c, id), fan_out_state(c, id), fan_out_error(c, id)


def a_delivery(c: Connection) -> Any:
    id = value(c, DELIVERY)
    return show_delivery(c, id), list_attempts(c, id)


def of_a_lane(c: Connection) -> Any:
    return list_deliveries(c, subscription_id=value(c, LANE, name="quiet-7"))


class Question(NamedTuple):
    """What is asked, the pages that it may read, and those for so many open deliveries."""

    ask: Callable[[Connection], Any]
    pages: int
    share: int = 0


WHOLE = 30  # deliveries or events of a queue lie in a page, at the least
QUESTIONS = {
    "emit": Question(emitting(None), 100),
    "emit with a key": Question(emitting("new"), 100),
    "emit with a known key": Question(emitting("key-7"), 100),
    "emit many with keys": Question(emitting(*(f"key-{n}" for n in range(900, 1_100))), 4_000),
    "look at one that waits": Question(looking(WAITING, 1), 60),
    "look at many that wait": Question(looking(WAITING, 100), 5_000),
    "look at many that wait longest": Question(looking(LONGEST, 100), 5_000),
    "look at many that are open": Question(looking(OPEN, 100), 16_000),
    "newest events": Question(lambda c: list_events(c), 100),
    "events of a type": Question(lambda c: list_events(c, type="invoice.*"), 100),
    "events that wait": Question(lambda c: list_events(c, fan_out="waiting"), 400, WHOLE),
    "events set aside": Question(lambda c: list_events(c, fan_out="set aside"), 100),
    "an event": Question(an_event, 100, WHOLE),
    "newest deliveries": Question(listing(), 1_500),
    "deliveries of an event": Question(
        lambda c: listing(event_id=ids(c, OPEN, n=1)[0])(c), 300, WHOLE
    ),
    "deliveries of a subscription": Question(of_a_lane, 1_500, 100),
    "pending": Question(listing(state="pending"), 1_700),
    "held": Question(listing(state="held"), 2_200),
    "dead": Question(listing(state="dead"), 100),
    "refused": Question(listing(status="503"), 6_000, WHOLE),
    "a delivery": Question(a_delivery, 200),
    "status": Question(status.look, 400_000),  # counts up to 150,000 rows, and never more
}


@contextmanager
def heard(connection: Connection) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What is sent over a connection, with its values."""
    sent = []

    def hear(_: Any, __: Any, statement: str, values: dict[str, Any], *___: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            sent.append((statement, values))

    event.listen(connection, "before_cursor_execute", hear)
    yield sent
    event.remove(connection, "before_cursor_execute", hear)


@pytest.fixture(scope="module")
def host(backlog: Backlog) -> Iterator[Connection]:
    """A session of a host."""
    with engine_at(backlog.url).connect() as connection:
        connection.execute(text("SET max_parallel_workers_per_gather = 0"))
        connection.execute(text("SET statement_timeout = '20s'"))
        connection.commit()
        yield connection
        connection.rollback()


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_reads(backlog: Backlog, host: Connection, question: str, plan: str) -> None:
    """A question reads what it is about, in every session."""
    each = QUESTIONS[question]
    driver: Any = host.connection.driver_connection
    with host.begin() as outer:
        host.execute(text(f"SET LOCAL plan_cache_mode = {plan}"))
        if each.ask is status.look:
            status.restrain(host)
        with heard(host) as sent, host.begin_nested() as undone:
            each.ask(host)
            undone.rollback()
        costs = [explain(driver, *each) for each in sent]
        outer.rollback()
    whole = backlog.count // each.share if each.share else 0

    assert sum(cost.buffers for cost in costs) <= each.pages + whole + 2 * backlog.dead
