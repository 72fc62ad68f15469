"""Replay: a person asks for past events again.

What is asked for is a `Selection`: which events, for which subscriptions. Each of its pairs
becomes a new delivery of the same event, so the `webhook-id` stays. The workers make them
in the background, behind live traffic, and go on after a crash where they were.

    selection = Selection(mode="missing", subscription_id=id)
    with engine.begin() as connection:
        print(sum(replays.count(connection, selection).values()), "deliveries")
        replay = replays.start(connection, selection, rate=500, by=Author("ada", "backfill"))
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    Text,
    Uuid,
    and_,
    cast,
    column,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from . import subscriptions
from .delivery_filter import ENDS
from .encoding import check_text
from .errors import InvalidInput, NotFound, WrongState
from .event_types import check_pattern
from .events import show_event
from .limits import check_limits
from .tables import (
    Moment,
    attempt,
    delivery,
    delivery_queue,
    replay,
    replay_lane,
    subscription,
)

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import ColumnElement, Connection, RowMapping, Select

    from .subscriptions import Author

MODES = ("all", "missing", "dead")
STATES = ("running", "done", "cancelled", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which events, for which subscriptions; what is None does not narrow.

    `mode` is `all` for each event and each subscription that matches it now, `missing` for
    those of them that never had a delivery, `dead` for those whose deliveries are dead: none
    is open or delivered. `type` is an event type or a pattern. `since` and `until` are about
    when an event was stored, to the millisecond: from then on, and before then.

    One that narrows nothing is refused: `type="*"` says that every event is meant.
    """

    mode: str = "all"
    event_id: UUID | None = None
    subscription_id: UUID | None = None
    type: str | None = None
    tenant: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidInput("mode", f"must be one of {', '.join(MODES)}")
        if self.type is not None:
            check_pattern(self.type)
        for name, most in (("tenant", 255), ("subject", 1_024)):
            if (text := getattr(self, name)) is not None:
                check_text(name, text, most)
        for name in ("since", "until"):
            if (moment := getattr(self, name)) is not None and moment.utcoffset() is None:
                raise InvalidInput(name, "must be a datetime with a time zone")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise InvalidInput("until", "must be later than since")
        if self.mode == "all" and all(getattr(self, name) is None for name in _NARROWING):
            raise InvalidInput(
                "selection", "narrows nothing; the type * means every event to every subscription"
            )


_NARROWING = ("event_id", "subscription_id", "type", "tenant", "subject", "since", "until")


@dataclass(frozen=True, slots=True)
class Replay:
    """A row of `outbox.replay`: `made` deliveries of about `counted`, at `rate` a second.

    `error` is why it failed, or who cancelled it.
    """

    id: UUID
    selection: Selection
    state: str
    rate: float | None
    counted: int
    made: int
    error: str | None
    actor: str
    command: str
    created_at: datetime
    moved_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Behind:
    """A subscription that takes its deliveries slower than the others, or is stopped."""

    subscription_id: UUID
    url: str
    state: str
    state_reason: str | None


def count(connection: Connection, selection: Selection) -> dict[UUID, int]:
    """Return how many deliveries each subscription would get, by its id.

    Reads all of the events that may be meant: a few seconds for a million.
    Raises NotFound for an event or a subscription that is not there.
    """
    _check_ids(connection, selection)
    first, last = connection.execute(select(*_range(selection))).one()
    pairs = func.outbox.replay_pairs(
        literal(selection.mode, Text),
        literal(selection.subscription_id, Uuid),
        literal(selection.type, Text),
        literal(selection.tenant, Text),
        literal(selection.subject, Text),
        literal(first, Uuid),
        literal(last, Uuid),
        func.now(),
        literal(False, Boolean),
    ).table_valued(column("event_id", Uuid), column("subscription_id", Uuid))
    query = select(pairs.c.subscription_id, func.count()).group_by(pairs.c.subscription_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def start(
    connection: Connection,
    selection: Selection,
    *,
    by: Author,
    rate: float | None = None,
    counted: int | None = None,
) -> Replay:
    """Let the workers begin with it once the transaction commits; return it.

    `rate` is deliveries a second; without one they are made as live traffic leaves room.
    `counted` is what `count` said, if it was asked before. The events are those that are
    stored by now. Raises InvalidInput, NotFound, and WrongState while the same runs already.
    """
    check_limits(rate=rate)
    if counted is None:
        counted = sum(count(connection, selection).values())
    _check_ids(connection, selection)
    _check_alone(connection, selection)
    first, last = connection.execute(select(*_range(selection))).one()
    values = {c.name: getattr(selection, c.name) for c in _SELECTION}
    values |= {"rate": rate, "counted": counted, "tokens": 1, "after_event": first}
    values |= {"last_event": last, "actor": by.actor, "command": by.command}
    added = connection.execute(insert(replay).values(values).returning(replay.c.id))
    return show(connection, added.scalar_one())


def _check_alone(connection: Connection, selection: Selection) -> None:
    """Refuse what runs already, and keep others from starting it until the transaction ends."""
    lock = func.hashtextextended("outbox.start_replay", 0)
    connection.execute(select(func.pg_advisory_xact_lock(lock)))
    same = [c.is_not_distinct_from(getattr(selection, c.name)) for c in _SELECTION]
    running = select(replay.c.id).where(replay.c.state == "running", *same)
    if (id := connection.execute(running).scalar()) is not None:
        raise WrongState("replay", str(id), "running", "started again")


_SELECTION = [replay.c[name] for name in ("mode", *_NARROWING)]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _range(selection: Selection) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return the ids between which the events lie: ids grow with the time of storing."""
    first, last = [_floor(selection.since or EPOCH)], []
    if selection.until is not None:
        last.append(_floor(selection.until))
    if selection.event_id is not None:
        first.append(literal(selection.event_id, Uuid))
        last.append(literal(selection.event_id, Uuid))
    else:
        last.append(func.outbox.uuid7())
    return cast(func.greatest(*first), Uuid), cast(func.least(*last), Uuid)


def _floor(moment: datetime) -> ColumnElement[Any]:
    return func.outbox.uuid7_floor(literal(max(moment, EPOCH), Moment))


def _check_ids(connection: Connection, selection: Selection) -> None:
    if selection.event_id is not None:
        show_event(connection, selection.event_id)
    if selection.subscription_id is not None:
        found = subscriptions.show(connection, selection.subscription_id)
        if found.state == "removed":
            raise WrongState("subscription", str(found.id), "removed", "given a replay")


def list_replays(
    connection: Connection,
    *,
    state: str | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[Replay]:
    """Return the newest replays that fit, at most `limit`; `before` is the last id seen."""
    if state is not None and state not in STATES:
        raise InvalidInput("state", f"must be one of {', '.join(STATES)}")
    query = select(*_COLUMNS).order_by(replay.c.id.desc()).limit(limit)
    if state is not None:
        query = query.where(replay.c.state == state)
    if before is not None:
        query = query.where(replay.c.id < before)
    return [_from_row(row) for row in connection.execute(query).mappings()]


def show(connection: Connection, id: UUID) -> Replay:
    """Return the replay `id`. Raises NotFound."""
    row = connection.execute(select(*_COLUMNS).where(replay.c.id == id)).mappings().first()
    if row is None:
        raise NotFound("replay", str(id))
    return _from_row(row)


def cancel(connection: Connection, id: UUID, by: Author) -> Replay:
    """Let it make no more deliveries; those it made go on. Raises NotFound, WrongState."""
    ended = (
        update(replay)
        .where(replay.c.id == id, replay.c.state == "running")
        .values(state="cancelled", error=f"cancelled by {by.actor}", ended_at=func.now())
    )
    if not connection.execute(ended).rowcount:
        raise WrongState("replay", str(id), show(connection, id).state, "cancelled")
    connection.execute(delete(replay_lane).where(replay_lane.c.replay_id == id))
    return show(connection, id)


def cancel_deliveries(connection: Connection, id: UUID, by: Author) -> int:
    """End those of its deliveries that are still open as cancelled; return how many.

    A request that is in flight is not called back. Of an ordered subscription the next
    event of the subject may go. Raises NotFound.
    """
    show(connection, id)
    gone = connection.execute(_cancelled(id, f"cancelled by {by.actor}")).all()
    waiting = [row for row in gone if row.subject is not None and row.lease_owner is None]
    if waiting:  # who is in flight lets the next go when it has ended
        ids = cast([row.subscription_id for row in waiting], ARRAY(Uuid))
        subjects = cast([row.subject for row in waiting], ARRAY(Text))
        connection.execute(select(func.outbox.promote(ids, subjects)))
    return len(gone)


def _cancelled(id: UUID, reason: str) -> Select[Any]:
    queue = delivery_queue.c
    found = (
        select(queue.delivery_id)
        .join(delivery, delivery.c.id == queue.delivery_id)
        .where(delivery.c.replay_id == id)
        .order_by(queue.delivery_id)  # as all who lock several
        .with_for_update(of=delivery_queue)
        .cte("found")
    )
    gone = (
        delete(delivery_queue)
        .where(queue.delivery_id.in_(select(found.c.delivery_id)))
        .returning(
            queue.delivery_id, queue.attempt, queue.subscription_id, queue.subject,
            queue.lease_owner,
        )
        .cte("gone")
    )  # fmt: skip
    ends = select(gone.c.delivery_id, gone.c.attempt, literal("cancelled"), literal(reason, Text))
    ended = insert(attempt).from_select(["delivery_id", "attempt", "outcome", "error"], ends)
    return select(gone).add_cte(ended.cte("ended"))


def fates(connection: Connection, id: UUID) -> dict[str, int]:
    """Return how many of its deliveries are open, delivered, dead and cancelled."""
    mine = delivery.c.replay_id == id
    open_ = (
        select(func.count())
        .select_from(delivery_queue)
        .join(delivery, delivery.c.id == delivery_queue.c.delivery_id)
        .where(mine)
    )
    ended = (
        select(attempt.c.outcome, func.count())
        .join(delivery, delivery.c.id == attempt.c.delivery_id)
        .where(mine, attempt.c.outcome.in_(ENDS))
        .group_by(attempt.c.outcome)
    )
    counts = {row[0]: row[1] for row in connection.execute(ended)}
    found = {"open": connection.execute(open_).scalar_one()}
    return found | {outcome: counts.get(outcome, 0) for outcome in ENDS}


def behind(connection: Connection, replay_: Replay) -> list[Behind]:
    """Return the subscriptions that a running replay waits for, or has set apart."""
    lanes = select(replay_lane.c.subscription_id).where(replay_lane.c.replay_id == replay_.id)
    named = and_(
        subscription.c.id == replay_.selection.subscription_id, subscription.c.state != "active"
    )
    query = (
        select(*(subscription.c[name] for name in ("id", "url", "state", "state_reason")))
        .where(or_(subscription.c.id.in_(lanes), named))
        .order_by(subscription.c.id)
    )
    return [Behind(*row) for row in connection.execute(query)]


def _from_row(row: RowMapping) -> Replay:
    values: dict[str, Any] = dict(row)
    selection = Selection(**{c.name: values.pop(c.name) for c in _SELECTION})
    return Replay(selection=selection, **values)


_COLUMNS = [
    *_SELECTION,
    *(
        replay.c[name]
        for name in (
            "id", "state", "rate", "counted", "made", "error", "actor", "command", "created_at",
            "moved_at", "ended_at",
        )
    ),
]  # fmt: skip
