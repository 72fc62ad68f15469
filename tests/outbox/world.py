"""A database whose facts and projections agree, for those who then damage it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from sqlalchemy import text

from outbox import subscriptions
from tests.factories import BY, emit_many, event, subscribe, value

if TYPE_CHECKING:
    from sqlalchemy import Connection


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
