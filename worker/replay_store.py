"""The statements of a replay, a part of the store. A slice is a transaction of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .feed import OPEN, WAITING
from .rows import Fullness, LaneApart, RunningReplay
from .statements import Statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from psycopg import AsyncConnection

    from .feed import Pair

    Connection = AsyncConnection[Any]


class ReplayStore(Statements):
    """What `Store` can do for a replay, whose id is `id`."""

    async def running_replays(self) -> list[str]:
        """Return the ids of the replays that run, oldest first."""
        return [row.id for row in await self._all("running_replays", {})]

    async def lock_replay(self, connection: Connection, id: str) -> RunningReplay | None:
        """Take a running replay in hand; None if another worker has it, or if it has ended."""
        rows = await self._rows(RunningReplay, "lock_replay", {"id": id}, connection=connection)
        return rows[0] if rows else None

    async def replay_lanes(self, connection: Connection, id: str) -> list[LaneApart]:
        """Return the lanes that are set apart."""
        return await self._rows(LaneApart, "replay_lanes", {"id": id}, connection=connection)

    async def replay_pairs(
        self, connection: Connection, replay: RunningReplay, cursor: Pair, last_event: str,
        *, apart: bool, lanes: Mapping[str, str], scan: int, limit: int,
    ) -> tuple[list[Pair], str]:  # fmt: skip
        """Return the next pairs behind `cursor`, at most `limit`, and the last event looked at.

        At most `scan` events are looked at. `apart` takes the pairs of `lanes`, each behind
        its event; else those of all other lanes are taken.
        """
        values = replay._asdict() | {
            "only_to": replay.subscription_id, "asked_at": replay.created_at,
            "after_event": cursor[0], "after_subscription": cursor[1], "last_event": last_event,
            "apart": apart, "lanes": list(lanes), "after_events": list(lanes.values()),
            "scan": scan, "limit": limit,
        }  # fmt: skip
        rows = await self._all("replay_pairs", values, connection=connection)
        pairs = [(row.event_id, row.subscription_id) for row in rows if row.event_id is not None]
        return pairs, rows[0].reached

    async def rooms(self, connection: Connection, lanes: Iterable[str]) -> list[Fullness]:
        """Return how full lanes are; those of removed subscriptions are left out."""
        values = {"lanes": list(lanes), "open": OPEN, "waiting": WAITING}
        return await self._rows(Fullness, "rooms", values, connection=connection)

    async def deliver_again(self, connection: Connection, id: str, pairs: Sequence[Pair]) -> int:
        """Make a delivery, due now, for each pair of an event and a subscription.

        Return how many were made: one that was removed in between gets none.
        """
        event_ids, subscription_ids = map(list, zip(*pairs, strict=True))
        values = {"id": id, "event_ids": event_ids, "subscription_ids": subscription_ids}
        return int((await self._all("deliver_again", values, connection=connection))[0].made)

    async def move_replay(
        self, connection: Connection, id: str, cursor: Pair, *, made: int,
        apart: Mapping[str, str], joined: Sequence[str], tokens: float, at: datetime, done: bool,
    ) -> None:  # fmt: skip
        """Move the cursor, and those of the lanes set `apart`; forget those that `joined`.

        `tokens` are what the bucket held at `at`.
        """
        values = {
            "id": id, "after_event": cursor[0], "after_subscription": cursor[1], "made": made,
            "lanes": list(apart), "after_events": list(apart.values()), "joined": list(joined),
            "tokens": tokens, "at": at, "done": done,
        }  # fmt: skip
        await self._all("move_replay", values, connection=connection)

    async def fail_replay(self, id: str, error: str) -> None:
        """End a replay that cannot go on, with `error`."""
        await self._all("fail_replay", {"id": id, "error": error})
