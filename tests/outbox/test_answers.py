"""What is found of an event and its deliveries, in every state they can be in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert, text, update

import outbox
from outbox import Event, Waited
from outbox.answers import Answer, Seen, look
from outbox.tables import attempt, blocked_subject, delivery, delivery_queue, event, event_queue
from outbox.tables import subscription as subscription_table
from tests.factories import subscribe

if TYPE_CHECKING:
    from sqlalchemy import Connection

URL = "http://127.0.0.1:9/"
NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
INFINITY = text("'infinity'")


def emit(db: Connection, *, fanned_out: bool = True, **fields: Any) -> UUID:
    id = outbox.emit(db, Event(**{"type": "invoice.paid", **fields}))
    if fanned_out:
        fan_out(db, id)
    return id


def fan_out(db: Connection, id: UUID) -> None:
    db.execute(delete(event_queue).where(event_queue.c.event_id == id))


def deliver(db: Connection, event_id: UUID, subscription: UUID, **queue: Any) -> UUID:
    """A delivery; it is open if it has a place in the `queue`."""
    ids = {"event_id": event_id, "subscription_id": subscription}
    made = insert(delivery).values(**ids, replay_id=queue.pop("replay_id", None))
    id: UUID = db.execute(made.returning(delivery.c.id)).scalar_one()
    if queue:
        db.execute(insert(delivery_queue).values(delivery_id=id, **ids, **queue))
    return id


def attempted(db: Connection, id: UUID, number: int, outcome: str, **row: Any) -> None:
    db.execute(insert(attempt).values(delivery_id=id, attempt=number, outcome=outcome, **row))


def seen(db: Connection, id: UUID, last: Seen | None = None) -> Seen:
    (found,) = look(db, [(id, last)])
    return found


def waited(db: Connection, id: UUID) -> Waited:
    found = seen(db, id).waited
    assert found
    return found


def test_unknown(db: Connection) -> None:
    """An event that is not there is not there."""
    assert seen(db, uuid4()) == Seen(None)


def test_nobody_wants_it(db: Connection) -> None:
    """An event that matched nothing has ended with its fan-out, and is delivered to all of none."""
    id = emit(db)

    assert waited(db, id) == Waited(id, ended=True, fanned_out=True, answers=())
    assert waited(db, id).delivered


def test_before_the_fan_out(db: Connection) -> None:
    """An event that is in its queue is not fanned out; its place there is told."""
    id = emit(db, fanned_out=False)
    found = seen(db, id)
    (place,) = db.execute(text("SELECT due_at FROM outbox.event_queue")).one()

    assert found == Seen(Waited(id, ended=False, fanned_out=False, answers=()), False, place)
    assert seen(db, id, found) == found


def test_the_place_is_left(db: Connection) -> None:
    """Once the event has left the place where it was seen, it is fanned out."""
    id = emit(db, fanned_out=False)
    found = seen(db, id)
    fan_out(db, id)

    assert seen(db, id, found).waited == Waited(id, ended=True, fanned_out=True, answers=())


@pytest.mark.parametrize("days", [-1000, -1, 1, 1000])
def test_due_at(db: Connection, days: int) -> None:
    """An event is found in the queue, whenever it is due."""
    id = emit(db, fanned_out=False, due_at=datetime.now(UTC) + timedelta(days=days))  # noqa: TID251

    assert not waited(db, id).fanned_out


@pytest.mark.parametrize(
    "id",
    [
        uuid4(),
        UUID(int=0),
        UUID(int=2**128 - 1),
        UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"),
        UUID("01ff0000-0000-7000-8000-000000000000"),
    ],
)
def test_ids_of_the_host(db: Connection, id: UUID) -> None:
    """An id that a host made itself tells no time, or a wrong one."""
    db.execute(insert(event).values(id=id, type="a", data="1"))
    before = waited(db, id)
    fan_out(db, id)
    subscription = subscribe(db, URL).id
    deliver(db, id, subscription, due_at=NOW)

    assert not before.fanned_out
    assert len(waited(db, id).answers) == 1


def test_set_aside(db: Connection) -> None:
    """An event whose fan-out failed is neither fanned out nor at its place; it may come back."""
    id = emit(db, fanned_out=False)
    place = seen(db, id)
    db.execute(update(event_queue).values(due_at=INFINITY, error="broken"))
    aside = seen(db, id, place)
    db.execute(update(event_queue).values(due_at=text("now()"), error=None))

    assert aside == Seen(Waited(id, ended=False, fanned_out=False, answers=()))
    assert not seen(db, id, aside).waited.fanned_out  # type: ignore[union-attr]


def test_delivered(db: Connection) -> None:
    """What the receiver said is there, as it was kept."""
    id, subscription = emit(db), subscribe(db, URL).id
    made = deliver(db, id, subscription)
    attempted(db, made, 1, "delivered", status=201, response_body=b"\x00ok")

    assert waited(db, id) == Waited(
        id,
        ended=True,
        fanned_out=True,
        answers=(
            Answer(made, subscription, URL, "delivered", 1, 201, b"\x00ok", None, None, None),
        ),
    )
    assert waited(db, id).delivered


def test_dead(db: Connection) -> None:
    """A delivery that is dead has ended, and not well."""
    id = emit(db)
    attempted(db, deliver(db, id, subscribe(db, URL).id), 1, "dead", status=410, error="gone")
    found = waited(db, id)

    assert (found.ended, found.delivered) == (True, False)
    assert (found.answers[0].state, found.answers[0].error) == ("dead", "gone")


def test_what_ended_it_is_the_answer(db: Connection) -> None:
    """A 2xx is the answer, also when a later attempt was made before it came."""
    id = emit(db)
    made = deliver(db, id, subscribe(db, URL).id)
    attempted(db, made, 1, "delivered", status=200)
    attempted(db, made, 2, "lost")
    attempted(db, made, 3, "late", status=503)

    assert waited(db, id).answers[0].status == 200


def test_retried(db: Connection) -> None:
    """A failure is an answer, and not the end."""
    id = emit(db)
    made = deliver(db, id, subscribe(db, URL).id, due_at=NOW, attempt=2, failures=1)
    attempted(db, made, 1, "lost")
    attempted(db, made, 2, "retry", status=503, response_body=b"busy", error="503")
    found = seen(db, id)

    assert found.answered
    assert found.waited
    assert not found.waited.ended
    answer = found.waited.answers[0]
    assert (answer.state, answer.attempts, answer.status) == ("pending", 2, 503)
    assert (answer.body, answer.error, answer.due_at) == (b"busy", "503", NOW)


def test_all_of_them(db: Connection) -> None:
    """It ends with the last delivery; the answers come in the order of the deliveries."""
    id = emit(db)
    made = [deliver(db, id, subscribe(db, URL).id) for _ in range(2)]
    made.append(deliver(db, id, subscribe(db, URL).id, due_at=NOW))
    for each in made[:2]:
        attempted(db, each, 1, "delivered", status=200)
    found = seen(db, id)

    assert not found.answered
    assert found.waited
    assert not found.waited.ended
    assert [answer.delivery_id for answer in found.waited.answers] == made
    assert [answer.state for answer in found.waited.answers] == [
        "delivered",
        "delivered",
        "pending",
    ]


def test_held(db: Connection) -> None:
    """A delivery that is held gives no answer to wait for; one whose turn comes does."""
    paused, blocked, waits = (emit(db) for _ in range(3))
    subscription = subscribe(db, URL, ordered="stop").id
    deliver(db, blocked, subscription, due_at=INFINITY, subject="a")
    deliver(db, waits, subscription, due_at=INFINITY, subject="b")
    values = {"subscription_id": subscription, "subject": "a", "delivery_id": uuid4()}
    db.execute(insert(blocked_subject).values(values))
    stopped = subscribe(db, URL).id
    deliver(db, paused, stopped, due_at=NOW)
    change = {"state": "paused", "state_reason": "lunch"}
    db.execute(update(subscription_table).where(subscription_table.c.id == stopped).values(change))
    found = look(db, [(id, None) for id in (paused, blocked, waits)])

    assert [each.answered for each in found] == [True, True, False]
    held = [each.waited.answers[0].held or "" for each in found if each.waited]
    assert [text.partition(":")[0] for text in held] == ["paused", "blocked", "in order"]
    assert all(each.waited.answers[0].due_at in {NOW, None} for each in found if each.waited)


def test_a_replay_is_no_fan_out(db: Connection) -> None:
    """An event that waits for its fan-out is not fanned out by a delivery of a replay."""
    id = emit(db, fanned_out=False)
    made = deliver(db, id, subscribe(db, URL).id, replay_id=uuid4())
    attempted(db, made, 1, "delivered", status=200)
    found = waited(db, id)

    assert (found.ended, found.fanned_out, len(found.answers)) == (False, False, 1)


def test_many(db: Connection) -> None:
    """Many are asked for at once, the same one twice as well; they come in the same order."""
    known = [emit(db) for _ in range(3)]
    asked = [known[2], uuid4(), known[0], known[2], known[1]]
    found = look(db, [(id, None) for id in asked])

    ids = [each.waited.event_id if each.waited else None for each in found]
    assert ids == [known[2], None, known[0], known[2], known[1]]
    assert look(db, []) == []
