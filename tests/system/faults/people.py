"""What people do while everything is under way: edit, limit, cancel, retry, remove, prune."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from outbox import cancels, repairs, retention, subscriptions
from outbox.delivery_filter import DeliveryFilter
from outbox.repairs import Done
from tests.days import make_day
from tests.factories import BY, LOOPBACK
from tests.helpers import eventually, happens

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from .run import Run

AGE = 3  # days, of those that are dropped


def remove_and_add(run: Run) -> bool:
    """A subscription is removed with deliveries in flight, and another one is added."""
    name = next(name for name, wish in run.wishes.items() if wish.leaves and wish.constant)
    run.wishes[name] = replace(run.wishes[name], constant=False)
    with run.engine.begin() as connection:
        removed = subscriptions.remove(connection, run.ids[name], by=BY)
    run.subscribe(f"{name}-", replace(run.wishes[name], constant=True, whole=False))
    return removed.state == "removed"


def edit_a_url(run: Run) -> bool:
    """A subscription moves to another URL, and requests arrive there."""
    id, mark = run.ids["edited"], f"moved={time.monotonic()}"
    with run.engine.begin() as connection:
        url = subscriptions.show(connection, id).url.partition("?")[0]
        subscriptions.update(connection, id, by=BY, url=f"{url}?{mark}", allow=LOOPBACK)
    return happens(lambda: any(mark in path for path in run.paths()))


def switch_limits(run: Run) -> bool:
    """Limits and order begin and end in flight."""
    id = run.ids["edited"]
    changes: list[dict[str, Any]] = [
        {"max_in_flight": 2, "rate": 50},
        {"ordered": "skip"},
        {"max_in_flight": None, "rate": None},
        {"ordered": None},
    ]
    for change in changes:
        with run.engine.begin() as connection:
            subscriptions.update(connection, id, by=BY, **change)
        time.sleep(0.4)
    with run.engine.connect() as connection:
        return not subscriptions.show(connection, id).settings.limited


def cancel_and_retry(run: Run) -> bool:
    """What is open of a subscription is cancelled, and asked for again."""
    wanted = DeliveryFilter(subscription_id=run.ids["flaky"])
    cancelled = happens(lambda: cancel(run, wanted) > 0)
    again = replace(wanted, state="cancelled")
    retried = repair(run, again, repairs.plan_retry, repairs.retry_some)
    return cancelled and retried.made > 0


def cancel(run: Run, wanted: DeliveryFilter) -> int:
    return repair(run, wanted, cancels.plan_cancel, cancels.cancel_some).cancelled


def repair(
    run: Run, wanted: DeliveryFilter, plan: Callable[..., Any], some: Callable[..., Done]
) -> Done:
    with run.engine.begin() as connection:
        planned, done = plan(connection, wanted), Done()
    while not done.finished:
        with run.engine.begin() as connection:
            done = some(connection, planned, done, by=BY, limit=5)
    return done


def prune_a_day(run: Run) -> bool:
    """A day of the past, whose events were just delivered, is dropped."""
    run.execute("UPDATE outbox.schema_version SET installed_at = installed_at - interval '9 d'")
    day = eventually(lambda: day_made(run), 15)
    with run.engine.begin() as connection:
        ids = set(connection.execute(text(PAST), {"day": day}).scalars())
        run.log.certain.update(ids)
        retention.keep_for(connection, retention.DAY, by=BY)
    happens(lambda: is_free(run, day))
    pruned = retention.prune(run.engine)
    if day not in {each.day for each in pruned.dropped}:
        return False
    run.log.certain.difference_update(ids)
    return True


def day_made(run: Run) -> date | None:
    """Partitions for a day of the past, unless somebody is in the way for a moment."""
    try:
        with run.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '300ms'")
            return make_day(connection, AGE)
    except OperationalError:
        return None


def is_free(run: Run, day: date) -> bool:
    with run.engine.connect() as connection:
        return any(each.day == day and not each.held for each in retention.past(connection))


PAST = """
INSERT INTO outbox.event (id, type, data)
SELECT outbox.uuid7_floor(CAST(:day AS date) + random() * interval '86000 s'),
    'invoice.paid', '{"n": 1}'
FROM generate_series(1, 20) RETURNING id
"""
