"""The audit: every kind of damage is found, by its name, with the id of its row.

All are done to one database, each to rows of its own, and looked for in one audit: so each
test also says that what was done to the others is not taken for this.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from outbox import audit
from tests.databases import NAME, clone
from tests.factories import rows, value
from tests.helpers import eventually

from .damages import DAMAGES
from .world import World, make_good

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_postgresql.executors import NoopExecutor
    from sqlalchemy import Engine

    from tests.databases import Database

pytestmark = pytest.mark.clone


@dataclass(frozen=True)
class Audited:
    """A damaged database, the ids that are to be named, and the report."""

    database: Database
    ids: dict[str, object]
    report: audit.Report


@pytest.fixture(scope="module")
def audited(template: NoopExecutor) -> Iterator[Audited]:
    """A database with every damage in it, and what the audit says."""
    with clone(template, f"{NAME}_damaged") as database:
        ids = {}
        with database.engine.begin() as connection:
            world = World(connection)
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            make_good(world)
            for name, do in DAMAGES.items():
                ids[name] = do(world)
            connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        yield Audited(database, ids, examine(database.engine))


def examine(engine: Engine, *, limit: int = 20, **options: Any) -> audit.Report:
    return audit.run(engine, audit.plan(engine, **options), limit=limit)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found(audited: Audited, name: str) -> None:
    """Damage done by hand is named, with the row's id, and nothing else is taken for it."""
    found = [finding.id for finding in audited.report.findings if finding.name == name]

    if name == "facts_changed":  # by the others as well
        assert str(audited.ids[name]) in found
    else:
        assert found == [str(audited.ids[name])]
    assert audited.report.found[name] == len(found)


def test_nothing_else_is_found(audited: Audited) -> None:
    """Every kind that the audit knows is among the damages, and no other is found."""
    assert set(audited.report.found) == set(DAMAGES)


def test_all_is_told_in_words(audited: Audited) -> None:
    """What the facts and what the projection say is told of each."""
    assert [each for each in audited.report.findings if not (each.facts and each.projection)] == []


def test_it_does_not_add_up(audited: Audited) -> None:
    """A report with anything in it does not add up."""
    assert not audited.report.adds_up


def test_slices(audited: Audited) -> None:
    """However it is cut, the account and the findings are the same."""
    plan = audit.plan(audited.database.engine, size=7)
    told: list[int] = []
    report = audit.run(audited.database.engine, plan, progress=told.append)

    assert told == [*range(1, plan.total + 1)]
    assert plan.total > 15
    assert report.account == audited.report.account
    assert sorted(map(str, report.findings)) == sorted(map(str, audited.report.findings))


def test_limit(audited: Audited) -> None:
    """At most so many of a kind are told, all are counted."""
    report = examine(audited.database.engine, limit=1)

    assert Counter(finding.name for finding in report.findings) == dict.fromkeys(DAMAGES, 1)
    assert report.found == audited.report.found


def test_since(audited: Audited) -> None:
    """What is older is left out, but for what is small: subscriptions, limits, health."""
    report = examine(audited.database.engine, since=datetime(2100, 1, 1, tzinfo=UTC))

    assert (report.account["events"], report.account["deliveries"]) == (0, 0)
    assert {"subscription_changed", "claim_wrong", "health_missing"} <= set(report.found)
    assert not set(report.found) & {"queue_missing", "ended_twice", "event_lost", "key_digest"}


BEYOND_REPAIR = {
    "ended_twice", "attempt_orphan", "attempt_gap", "attempt_after_end", "attempt_too_early",
    "attempt_in_future", "delivered_without_2xx", "delivery_subscription", "delivery_replay",
    "delivery_event", "delivery_twice", "delivery_missing", "key_digest", "key_event",
    "subscription_unrecorded", "revision_gap", "secret_missing", "trigger_missing",
    "facts_changed",
}  # fmt: skip


def test_repair(audited: Audited) -> None:
    """Projections are made again from the facts; what is wrong with facts stays, and is named."""
    engine = audited.database.engine
    told: list[int] = []
    plan = audit.plan(engine, size=9)
    audit.repair(engine, plan, progress=told.append)
    report = examine(engine)

    assert told[-1] == len(told) == audit.steps(plan)
    assert set(report.found) == BEYOND_REPAIR
    assert audit.repairable(audited.report) == len(DAMAGES) - len(BEYOND_REPAIR)
    assert audit.repairable(report) == 0


def test_repair_again(audited: Audited) -> None:
    """Where all is as it should be, a repair changes nothing."""
    engine = audited.database.engine
    before = projections(engine)
    audit.repair(engine, audit.plan(engine))

    assert projections(engine) == before


def projections(engine: Engine) -> list[tuple[Any, ...]]:
    """All rows of the tables that a repair may write, with the transaction that wrote each."""
    tables = (
        "subscription", "subscription_type", "throttle", "secret", "delivery_queue", "event_queue",
        "limited_claim", "blocked_subject", "subscription_health",
    )  # fmt: skip
    with engine.connect() as connection:
        return [row for table in tables for row in rows(connection, _VERSIONS.format(table))]


_VERSIONS = "SELECT t.xmin::text, t::text FROM outbox.{0} t ORDER BY 2"


@pytest.mark.clone
@pytest.mark.slow
def test_a_key_that_two_take_at_once(cloned_db: Database) -> None:
    """PostgreSQL counts the one that comes second as deleted; no fact was changed."""
    together = threading.Barrier(4)

    def take() -> None:
        with psycopg.connect(cloned_db.url, autocommit=True) as connection:
            for number in range(1_500):
                together.wait()
                connection.execute(TAKE, {"key": str(number)})

    hosts = [threading.Thread(target=take) for _ in range(4)]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join()

    def taken_back() -> int:
        with cloned_db.engine.connect() as connection:
            return int(value(connection, TAKEN_BACK))

    assert eventually(taken_back) > 0
    assert "facts_changed" not in examine(cloned_db.engine).found


TAKE = """
INSERT INTO outbox.event_key (tenant, key, event_id, digest)
VALUES ('', %(key)s, outbox.uuid7(), 'x') ON CONFLICT DO NOTHING
"""
TAKEN_BACK = "SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'event_key'"
