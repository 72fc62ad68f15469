"""The worker's upkeep of partitions: dropped behind, drained, while others work."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from outbox import retention
from outbox.retention import DAY
from outbox.worker import maintenance
from outbox.worker.maintenance import Maintenance
from tests.days import add_event, make_day, partitions, today
from tests.factories import BY, rows, value

if TYPE_CHECKING:
    from .conftest import Fleet


@pytest.fixture
def upkeep(fleet: Fleet) -> Maintenance:
    """The duties of a worker, on a database whose policy is seven days."""
    with fleet.database.engine.begin() as connection:
        retention.keep_for(connection, 7 * DAY, by=BY)
    return Maintenance(fleet.a, Counter(), lambda _: None)


def test_prune(fleet: Fleet, upkeep: Maintenance, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is past its retention goes; a day whose table is in use waits for the next time."""
    monkeypatch.setattr(maintenance, "TRIES", 1)
    monkeypatch.setattr(maintenance, "PAUSE", 0)
    with fleet.database.engine.begin() as connection:
        days = [make_day(connection, age) for age in (9, 8, 3)]
        for day in days:
            add_event(connection, day)
        add_event(connection, days[1], 13, queued=True)

    with fleet.database.engine.begin() as host:
        add_event(host, today(host))
        fleet.run(upkeep.prune())
        assert len(partitions(host)) == 9
    fleet.run(upkeep.prune())

    with fleet.database.engine.begin() as connection:
        left = partitions(connection)
        for name in left:  # the shared database has no past
            connection.execute(text(f"DROP TABLE outbox.{name}"))
    assert left == {f"{fact}_{day:%Y%m%d}" for fact in retention.FACTS for day in days[1:]}


def test_drain(fleet: Fleet, upkeep: Maintenance) -> None:
    """What a host wrote while no worker made partitions gets them afterwards."""
    with fleet.database.engine.begin() as connection:
        day = today(connection) - timedelta(days=2)
        id = add_event(connection, day)
    fleet.run(upkeep.make_partitions())

    with fleet.database.engine.begin() as connection:
        where = value(connection, "SELECT tableoid::regclass::text FROM outbox.event")
        assert (where, rows(connection, "SELECT id FROM outbox.event")) == (
            f"outbox.event_{day:%Y%m%d}", [(id,)],
        )  # fmt: skip
        connection.execute(text(f"DROP TABLE {where}"))


def test_a_duty_that_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """A duty under way when the worker stops ends without a word above debug."""

    async def forever() -> None:
        await asyncio.Event().wait()

    async def cut_off() -> None:
        task = asyncio.ensure_future(maintenance._bounded(forever)())
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(cut_off())

    assert [record.levelname for record in caplog.records if record.name == "outbox.worker"] == [
        "DEBUG"
    ]
