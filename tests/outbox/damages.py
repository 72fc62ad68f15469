"""Every kind of damage that the audit knows, each done by hand to rows of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from outbox import subscriptions
from tests.factories import BY

from .world import failing, limited, note

if TYPE_CHECKING:
    from collections.abc import Callable

    from .world import World

    Damage = Callable[[World], object]

UNKNOWN = UUID("0190163d-8694-739b-aea5-966c26f8ad91")
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
