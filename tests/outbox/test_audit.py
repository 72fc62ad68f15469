"""The audit: every kind of damage is found, by its name, with the id of its row.

All are done to one database, each to rows of its own, and looked for in one audit: so each
test also says that what was done to the others is not taken for this.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from outbox import audit, subscriptions
from tests.databases import NAME, clone
from tests.factories import BY, emit_many, event, subscribe, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_postgresql.executors import NoopExecutor
    from sqlalchemy import Connection

    from tests.databases import Database

    Damage = Callable[["World"], object]

UNKNOWN = UUID("0190163d-8694-739b-aea5-966c26f8ad91")


@dataclass(frozen=True)
class World:
    """A database whose facts and projections agree, until someone changes a row by hand."""

    db: Connection

    def run(self, statement: str, **values: Any) -> None:
        self.db.execute(text(statement), values)

    def subscription(self, **options: Any) -> UUID:
        """One that has been as it is for a day."""
        made = subscribe(self.db, **{"types": [f"none.{uuid4()}"], **options}).id
        self.run("UPDATE outbox.subscription_change SET changed_at = now() - interval '1 day'"
                 " WHERE subscription_id = :id", id=made)  # fmt: skip
        return made

    def event(self, type: str = "an.event", *, waits: bool = False, **fields: Any) -> UUID:
        """One that was fanned out, or `waits` for it; no trigger fires while damage is done."""
        (id,) = emit_many(self.db, [event(type, **fields)])
        if waits:
            self.run("INSERT INTO outbox.event_queue (due_at, event_id)"
                     " SELECT due_at, id FROM outbox.event WHERE id = :id", id=id)  # fmt: skip
        return id

    def delivery(
        self, *outcomes: str, to: UUID | None = None, of: UUID | None = None, **queue: Any
    ) -> UUID:
        """One with attempts of these outcomes; it is open unless the last of them ends it."""
        to, of = to or self.subscription(), of or self.event()
        id: UUID = value(
            self.db, "INSERT INTO outbox.delivery (event_id, subscription_id) VALUES (:of, :to)"
            " RETURNING id", of=of, to=to,
        )  # fmt: skip
        for number, outcome in enumerate(outcomes, start=1):
            self.attempt(id, number, outcome)
        if not {"delivered", "dead", "cancelled"}.intersection(outcomes):
            row = {"subject": None, "due_at": None, "owner": None, "attempt": len(outcomes)} | queue
            self.run("""
                INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, subject,
                    due_at, attempt, failures, lease_owner, lease_until)
                VALUES (:id, :to, :of, :subject, coalesce(CAST(:due_at AS timestamptz), now()),
                    :attempt, :failures, CAST(:owner AS integer),
                    CASE WHEN CAST(:owner AS integer) IS NOT NULL THEN now() + interval '1 h' END)
            """, id=id, to=to, of=of, failures=outcomes.count("retry"), **row)  # fmt: skip
        return id

    def attempt(self, id: UUID, number: int, outcome: str, ago: str = "1 s") -> None:
        status = {"delivered": 200, "retry": 503, "dead": 410}.get(outcome)
        self.run("""
            INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status, due_at, recorded_at)
            VALUES (:id, :number, :outcome, :status,
                CASE WHEN :outcome = 'retry' THEN now() END, now() - CAST(:ago AS interval))
        """, id=id, number=number, outcome=outcome, status=status, ago=ago)  # fmt: skip


DAMAGES: dict[str, Damage] = {}


def damage(do: Damage) -> Damage:
    """The function's name is that of the finding; it returns the id that is to be named."""
    DAMAGES[do.__name__] = do
    return do


# The queue of deliveries.


@damage
def queue_missing(world: World) -> object:
    id = world.delivery("retry")
    world.run("DELETE FROM outbox.delivery_queue WHERE delivery_id = :id", id=id)
    return id


@damage
def queue_left(world: World) -> object:
    id = world.delivery("retry")
    world.attempt(id, 2, "delivered")
    return id


@damage
def queue_orphan(world: World) -> object:
    id = world.delivery()
    world.run("DELETE FROM outbox.delivery WHERE id = :id", id=id)
    return id


@damage
def queue_subscription(world: World) -> object:
    id = world.delivery()
    world.run("UPDATE outbox.delivery_queue SET subscription_id = :other WHERE delivery_id = :id",
              id=id, other=world.subscription())  # fmt: skip
    return id


@damage
def queue_event(world: World) -> object:
    id = world.delivery()
    world.run("UPDATE outbox.delivery_queue SET event_id = :other WHERE delivery_id = :id",
              id=id, other=world.event())  # fmt: skip
    return id


@damage
def queue_subject(world: World) -> object:
    return world.delivery(to=world.subscription(ordered="skip"), of=world.event(subject="a"))


@damage
def queue_attempt(world: World) -> object:
    return world.delivery("retry", "lost", attempt=4)


@damage
def queue_failures(world: World) -> object:
    id = world.delivery("retry", "retry")
    world.run("UPDATE outbox.delivery_queue SET failures = 1 WHERE delivery_id = :id", id=id)
    return id


@damage
def queue_due(world: World) -> object:
    return world.delivery("retry", due_at="2100-01-01Z")


# Attempts.


@damage
def ended_twice(world: World) -> object:
    id = world.delivery("retry", "delivered")
    world.attempt(id, 2, "dead")
    return id


@damage
def attempt_orphan(world: World) -> object:
    id = world.delivery("delivered")
    world.run("DELETE FROM outbox.delivery WHERE id = :id", id=id)
    return id


@damage
def attempt_gap(world: World) -> object:
    id = world.delivery("retry", "retry", "delivered")
    world.run("DELETE FROM outbox.attempt WHERE delivery_id = :id AND attempt = 2", id=id)
    return id


@damage
def attempt_after_end(world: World) -> object:
    id = world.delivery("dead")
    world.attempt(id, 2, "lost")
    return id


@damage
def attempt_too_early(world: World) -> object:
    id = world.delivery("delivered")
    world.run("UPDATE outbox.attempt SET recorded_at = now() - interval '1 h'"
              " WHERE delivery_id = :id", id=id)  # fmt: skip
    return id


@damage
def attempt_in_future(world: World) -> object:
    id = world.delivery("delivered")
    world.run("UPDATE outbox.attempt SET recorded_at = now() + interval '1 h'"
              " WHERE delivery_id = :id", id=id)  # fmt: skip
    return id


@damage
def delivered_without_2xx(world: World) -> object:
    id = world.delivery("delivered")
    world.run("ALTER TABLE outbox.attempt DROP CONSTRAINT attempt_delivered_is_2xx")
    world.run("UPDATE outbox.attempt SET status = 500 WHERE delivery_id = :id", id=id)
    return id


# Deliveries and events.


@damage
def delivery_subscription(world: World) -> object:
    id = world.delivery("delivered")
    world.run("UPDATE outbox.delivery SET subscription_id = :to WHERE id = :id", id=id, to=UNKNOWN)
    return id


@damage
def delivery_replay(world: World) -> object:
    id = world.delivery("delivered")
    world.run("UPDATE outbox.delivery SET replay_id = :of WHERE id = :id", id=id, of=UNKNOWN)
    return id


@damage
def delivery_event(world: World) -> object:
    of = world.event()
    world.delivery("delivered", of=of)
    world.run("DELETE FROM outbox.event WHERE id = :id", id=of)
    return of


@damage
def delivery_twice(world: World) -> object:
    of, to = world.event(), world.subscription()
    for _ in range(2):
        world.delivery("delivered", to=to, of=of)
    return of


@damage
def delivery_missing(world: World) -> object:
    of = world.event("two.of", data={"amount": 7})
    world.subscription(types=["two.*"], filter="$.amount > 5")
    world.subscription(types=["two.of"], filter="$.amount > 9")
    world.delivery("delivered", to=world.subscription(types=["two.*"]), of=of)
    return of


@damage
def event_lost(world: World) -> object:
    world.subscription(types=["lost.event"])
    return world.event("lost.event")


@damage
def event_queue_orphan(world: World) -> object:
    of = world.event(waits=True)
    world.run("DELETE FROM outbox.event WHERE id = :id", id=of)
    return of


@damage
def event_queued_again(world: World) -> object:
    of = world.event(waits=True)
    world.delivery("delivered", of=of)
    return of


@damage
def event_queued_twice(world: World) -> object:
    of = world.event(waits=True)
    world.run("INSERT INTO outbox.event_queue (due_at, event_id) VALUES (now(), :id)", id=of)
    return of


@damage
def event_queue_due(world: World) -> object:
    of = world.event(waits=True)
    world.run("UPDATE outbox.event_queue SET due_at = '2100-01-01' WHERE event_id = :id", id=of)
    return of


@damage
def key_digest(world: World) -> object:
    of = world.event(key="one")
    world.run("UPDATE outbox.event SET data = '{\"amount\": 1}' WHERE id = :id", id=of)
    return of


@damage
def key_event(world: World) -> object:
    of = world.event(key="two")
    world.run("DELETE FROM outbox.event WHERE id = :id", id=of)
    return of


# Subscriptions and what belongs to them.


@damage
def subscription_changed(world: World) -> object:
    id = world.subscription()
    world.run("UPDATE outbox.subscription SET url = 'https://evil.example/' WHERE id = :id", id=id)
    return id


@damage
def subscription_missing(world: World) -> object:
    id = world.subscription()
    world.run("DELETE FROM outbox.subscription WHERE id = :id", id=id)
    world.run("DELETE FROM outbox.subscription_type WHERE subscription_id = :id", id=id)
    return id


@damage
def subscription_unrecorded(world: World) -> object:
    id = world.subscription()
    world.run("DELETE FROM outbox.subscription_change WHERE subscription_id = :id", id=id)
    return id


@damage
def revision_gap(world: World) -> object:
    id = world.subscription()
    for _ in range(2):
        subscriptions.rotate_secret(world.db, id, by=BY)
    world.run("DELETE FROM outbox.subscription_change WHERE subscription_id = :id AND revision = 2",
              id=id)  # fmt: skip
    return id


@damage
def type_missing(world: World) -> object:
    id = world.subscription()
    world.run("DELETE FROM outbox.subscription_type WHERE subscription_id = :id", id=id)
    return id


@damage
def type_left(world: World) -> object:
    id = world.subscription()
    world.run("INSERT INTO outbox.subscription_type VALUES ('left.over', '', :id)", id=id)
    return id


@damage
def throttle_missing(world: World) -> object:
    id = world.subscription(rate=5)
    world.run("DELETE FROM outbox.throttle WHERE subscription_id = :id", id=id)
    return id


@damage
def throttle_left(world: World) -> object:
    id = world.subscription()
    subscriptions.remove(world.db, id, by=BY)
    world.run("INSERT INTO outbox.throttle (subscription_id) VALUES (:id)", id=id)
    return id


@damage
def secret_missing(world: World) -> object:
    id = world.subscription()
    world.run("DELETE FROM outbox.secret WHERE subscription_id = :id", id=id)
    return id


@damage
def secret_left(world: World) -> object:
    id = world.subscription()
    subscriptions.remove(world.db, id, by=BY)
    world.run("INSERT INTO outbox.secret (subscription_id, sealed) VALUES (:id, 'whsec_x')", id=id)
    return id


def failing(world: World, failures: int = 3) -> UUID:
    """A subscription whose deliveries failed so often, six hours ago, and since then succeeded not.

    The clock of the database was set back then: its ids are older as well.
    """
    id, to = world.delivery(), world.subscription()
    old = value(world.db, "SELECT outbox.uuid7_floor(now() - interval '7 h')")
    old = UUID(int=old.int + uuid4().int % 2**64)
    for table, column in (("delivery", "id"), ("delivery_queue", "delivery_id")):
        world.run(f"UPDATE outbox.{table} SET {column} = :old, subscription_id = :to"  # noqa: S608
                  f" WHERE {column} = :id", old=old, to=to, id=id)  # fmt: skip
    for number in range(1, failures + 1):
        world.attempt(old, number, "retry", ago="6 h")
    world.run("UPDATE outbox.delivery_queue SET attempt = :n, failures = :n"
              " WHERE delivery_id = :old", old=old, n=failures)  # fmt: skip
    return to


def note(world: World, to: UUID, failures: int, since: str) -> None:
    world.run("INSERT INTO outbox.subscription_health (subscription_id, failures, failing_since)"
              " VALUES (:to, :failures, now() - CAST(:since AS interval))",
              to=to, failures=failures, since=since)  # fmt: skip


@damage
def health_failures(world: World) -> object:
    to = failing(world)
    note(world, to, 4, "6 h")
    return to


@damage
def health_success(world: World) -> object:
    to = failing(world)
    note(world, to, 3, "6 h")
    world.delivery("delivered", to=to)
    return to


@damage
def health_missing(world: World) -> object:
    return failing(world)


@damage
def claim_orphan(world: World) -> object:
    world.run("INSERT INTO outbox.limited_claim VALUES (:id, :id, NULL, 1, now() + interval '1 h')",
              id=UNKNOWN)  # fmt: skip
    return UNKNOWN


def limited(world: World) -> UUID:
    """A subscription that has been limited for a day."""
    to = world.subscription(max_in_flight=5)
    world.run("""
        UPDATE outbox.subscription SET changed_at = changed_at - interval '1 day' WHERE id = :to
    """, to=to)  # fmt: skip
    world.run("""
        UPDATE outbox.subscription_change c SET after = to_jsonb(s)
        FROM outbox.subscription s WHERE s.id = c.subscription_id AND s.id = :to
    """, to=to)  # fmt: skip
    return to


@damage
def claim_missing(world: World) -> object:
    return world.delivery(to=limited(world), owner=1, attempt=1)


@damage
def claim_wrong(world: World) -> object:
    to = limited(world)
    id = world.delivery("retry", to=to)
    world.run("INSERT INTO outbox.limited_claim VALUES (:id, :to, NULL, 1, now() + interval '1 h')",
              id=id, to=to)  # fmt: skip
    return id


@damage
def blocked_missing(world: World) -> object:
    return world.delivery(
        "dead", to=world.subscription(ordered="stop"), of=world.event(subject="a")
    )


@damage
def blocked_wrong(world: World) -> object:
    to = world.subscription(ordered="stop")
    id = world.delivery("delivered", to=to, of=world.event(subject="a"))
    world.run("INSERT INTO outbox.blocked_subject VALUES (:to, 'a', :id)", id=id, to=to)
    return id


# Facts.


@damage
def trigger_missing(world: World) -> object:
    world.run("ALTER TABLE outbox.event_key DISABLE TRIGGER refuse_change")
    return "event_key"


@damage
def facts_changed(world: World) -> object:
    world.run("UPDATE outbox.subscription_change SET actor = 'nobody'")
    return "subscription_change"


def make_good(world: World) -> None:
    """What is right, and looks wrong to whoever looks badly."""
    quiet = world.subscription(types=["right.*"], filter="$.amount > 5")
    world.event("right.one", data={"amount": 1})  # matched nothing
    young = subscribe(world.db, types=["right.one"]).id  # may be younger than the event
    world.event("right.one", waits=True, due_at=datetime(2100, 1, 1, tzinfo=UTC))
    world.delivery(to=quiet)
    world.delivery("retry", "lost", "retry", attempt=4, owner=1)  # leased
    world.delivery("retry", due_at="2020-01-01Z")  # a person made it due
    stale = world.delivery("lost", "delivered")  # whoever brings a 2xx
    world.attempt(stale, 1, "late")
    cancelled = world.delivery("retry", "cancelled")
    world.attempt(cancelled, 3, "late")
    unsent = world.delivery("cancelled", to=young)
    world.run("UPDATE outbox.attempt SET attempt = 0 WHERE delivery_id = :id", id=unsent)
    ordered = world.subscription(ordered="stop")
    of = world.event(subject="x")
    dead = world.delivery("dead", to=ordered, of=of)
    world.run("INSERT INTO outbox.blocked_subject VALUES (:to, 'x', :id)", id=dead, to=ordered)
    world.delivery(to=ordered, of=world.event(subject="x"), subject="x", due_at="infinity")
    to = failing(world)
    note(world, to, 3, "6 h")
    subscriptions.remove(world.db, world.subscription(rate=5), by=BY)
    subscriptions.pause(world.db, world.subscription(), by=BY)


@dataclass(frozen=True)
class Audited:
    """A report, and the ids that are to be named in it."""

    report: audit.Report
    ids: dict[str, object]


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
        yield Audited(examine(database), ids)


def examine(database: Database, **options: Any) -> audit.Report:
    return audit.run(database.engine, audit.plan(database.engine, **options))


@pytest.mark.clone
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found(audited: Audited, name: str) -> None:
    """Damage done by hand is named, with the row's id, and nothing else is taken for it."""
    found = [finding.id for finding in audited.report.findings if finding.name == name]

    if name == "facts_changed":
        assert str(audited.ids[name]) in found
    else:
        assert found == [str(audited.ids[name])]
    assert audited.report.found[name] == len(found)


@pytest.mark.clone
def test_nothing_else_is_found(audited: Audited) -> None:
    """Every kind that the audit knows is among the damages, and no other is found."""
    assert set(audited.report.found) == set(DAMAGES)
