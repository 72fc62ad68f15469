"""The only place of the worker that runs SQL: one method a statement, one file a method.

Those of a replay are in `replay_store`, and how they are run is in `statements`.

Statements are in `queries/`, named as the methods. Each is one transaction of its own
unless a method says otherwise; time is always the database's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import args_row

from outbox.errors import SchemaMismatch
from outbox.fleet import SILENCE
from outbox.keyring import StoredSecret
from outbox.schema import VERSION

from .claim import Claim
from .faults import in_a_line, is_data
from .replay_store import ReplayStore
from .rows import (
    FannedOut,
    Heartbeat,
    Lane,
    Life,
    LimitedClaims,
    Recipient,
    Recorded,
    Result,
)
from .session import JUDGING
from .statements import query as query  # part of the store to those who use it

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date, datetime

    from psycopg import AsyncConnection

    from outbox.keyring import Keyring

    from .rows import Gone


class Store(ReplayStore):
    """The statements, for the process life `owner`."""

    _life: Life

    async def register(self, host: str, pid: int, version: str) -> int:
        """Begin a life: from now on `owner` is its id."""
        values = {"host": host, "pid": pid, "version": version}
        (self._life,) = await self._rows(Life, "register", values)
        self.owner = self._life.id
        return self.owner

    async def check(self) -> None:
        """Raise psycopg.Error or SchemaMismatch unless the database answers as it should."""
        async with self._pool.connection() as connection:
            await check_schema(connection)

    async def heartbeat(self) -> Heartbeat:
        """Say that this life goes on; return what the database has to say."""
        values = {**self._life._asdict(), "silence": SILENCE}
        return (await self._rows(Heartbeat, "heartbeat", values))[0]

    async def register_again(self) -> int:
        """Begin another life of the same process: what the last one holds is taken over."""
        return await self.register(self._life.host, self._life.pid, self._life.version)

    async def unregister(self) -> None:
        """End this life."""
        await self._all("unregister", {})

    async def make_partitions(self) -> int:
        """Make the partitions of the days ahead; return how many were missing."""
        return int((await self._all("make_partitions", {}))[0].made)

    async def drain_default(self, fact: str) -> int:
        """Move one past day out of a DEFAULT partition; return how many rows, 0 at the end."""
        return int((await self._all("drain_default", {"fact": fact}))[0].moved)

    async def days_past(self) -> list[tuple[date, datetime]]:
        """Return the days to drop, oldest first, each with when it was looked at."""
        return [(row.day, row.looked_at) for row in await self._all("days_past", {})]

    async def drop_day(self, fact: str, day: date, looked_at: datetime) -> bool:
        """Drop a day of a fact; return whether nothing of it was open."""
        values = {"fact": fact, "day": day, "looked_at": looked_at}
        return bool((await self._all("drop_day", values))[0].dropped)

    async def prune_keys(self) -> int:
        """Forget the keys of events that are past their retention; return how many."""
        pruned, tenant, key = 0, "", ""
        while rows := await self._all("prune_keys", {"tenant": tenant, "key": key}):
            tenant, key = rows[0].tenant, rows[0].key
            pruned += rows[0].pruned
        return pruned

    async def cancel_removed(self) -> int:
        """Cancel deliveries that a fan-out made while their subscription was removed."""
        return int((await self._all("cancel_removed", {}))[0].cancelled)

    async def fan_out(self, limit: int) -> FannedOut:
        """Turn at most `limit` due events into deliveries."""
        values = {"limit": limit, "only": None}
        return (await self._rows(FannedOut, "fan_out", values))[0]

    async def fan_out_one(self) -> FannedOut:
        """Fan out the oldest event alone; if it is at fault, set it aside with its error.

        One transaction under the lock of the fan-out: nobody else can be at another event.
        What it may take is set here, whatever the role may: it is at fault after 30 seconds.
        """
        async with self.transaction() as connection:
            await connection.execute(JUDGING)
            await self.lock_fan_out(connection)
            event_id = await self.oldest(connection)
            try:
                async with connection.transaction():
                    values = {"limit": 1, "only": event_id}
                    rows = await self._rows(FannedOut, "fan_out", values, connection=connection)
                    return rows[0]
            except psycopg.Error as error:
                if not is_data(error):
                    raise
                told = in_a_line(error)
            await self.set_aside(connection, event_id, told)
        return FannedOut(events=1, deliveries=0, lanes=[], limited=[], error=told)

    async def wake(self) -> None:
        """Let the other workers look for deliveries that were made."""
        await self._all("wake", {})

    async def lock_fan_out(self, connection: AsyncConnection[Any]) -> None:
        """Be the one that fans out, until the transaction ends."""
        await self._all("lock_fan_out", {}, connection=connection)

    async def oldest(self, connection: AsyncConnection[Any]) -> object:
        """Return the id of the event at the head of the queue, or None."""
        rows = await self._all("oldest", {}, connection=connection)
        return rows[0].event_id if rows else None

    async def set_aside(
        self, connection: AsyncConnection[Any], event_id: object, error: str
    ) -> None:
        """Take an event out of the way of the others, with `error`."""
        values = {"event_id": event_id, "error": error}
        await self._all("set_aside", values, connection=connection)

    async def sweep(self, after: str, limit: int) -> list[Lane]:
        """Return the next lanes behind the id `after`, at most `limit`."""
        return await self._rows(Lane, "sweep", {"after": after, "limit": limit})

    async def claim(self, quotas: Mapping[str, int], lease: float) -> list[Claim]:
        """Claim at most the given number of deliveries of each lane, for `lease` seconds."""
        values = {"lanes": list(quotas), "quotas": list(quotas.values()), "lease": lease}
        return await self._run("claim", values, args_row(Claim), None)  # by place: the quick way

    async def claim_limited(self, quotas: Mapping[str, int], lease: float) -> LimitedClaims:
        """Claim from lanes that have limits, at most what those leave of the given numbers."""
        async with self.transaction() as connection:
            lanes = await self.lock_throttles(connection, quotas)
            values = {"lanes": lanes, "quotas": [quotas[lane] for lane in lanes], "lease": lease}
            rows = await self._all("claim_limited", values, connection=connection) if lanes else []
        return LimitedClaims(
            claims=[Claim(*row[3:]) for row in rows if row.delivery_id is not None],
            full={row.lane for row in rows if row.is_full},
            waits={row.lane: row.wait for row in rows if row.wait > 0},
            busy=set(quotas).difference(lanes),
        )

    async def lock_throttles(
        self, connection: AsyncConnection[Any], lanes: Iterable[str]
    ) -> list[str]:
        """Take the limits of lanes in hand until the transaction ends; return which."""
        rows = await self._all("lock_throttles", {"lanes": list(lanes)}, connection=connection)
        return [row.subscription_id for row in rows]

    async def release(self, claims: Sequence[Claim], *, cut: bool) -> None:
        """Give claims back before their lease ends; `cut` if their requests had begun.

        Never tried again: a second run could release a claim made in between.
        """
        await self._all(
            "release",
            {
                "delivery_id": [c.delivery_id for c in claims],
                "attempt": [c.attempt for c in claims],
                "cut": cut,
            },
        )

    async def recipients(self, ids: Iterable[str]) -> list[Recipient]:
        """Return the subscriptions `ids` with their live secrets, newest first."""
        rows = await self._all("recipients", {"ids": list(ids)})
        return [
            Recipient(
                row.subscription_id,
                row.revision,
                row.url,
                row.method,
                row.format,
                tuple(row.schemes),
                json.loads(row.headers),
                row.user_agent,
                row.timeout,
                None if row.schedule is None else tuple(row.schedule),
                row.max_age,
                list(map(StoredSecret, row.secret_ids, row.key_ids, row.secrets, row.expirations)),
            )
            for row in rows
        ]

    async def disable(
        self, subscription_id: str, reason: str, *, tell: bool = True, connection: Any = None
    ) -> bool:
        """Stop an active subscription, with the change as a fact; return whether it was active.

        `tell` is whether the operator hears of it.
        """
        values = {"subscription_id": subscription_id, "reason": reason, "tell": tell}
        return bool(await self._all("disable", values, connection=connection))

    async def disable_failing(self) -> list[tuple[str, str]]:
        """Disable what had nothing but failures for five days; return ids and reasons."""
        rows = await self._all("disable_failing", {})
        return [(row.subscription_id, row.reason) for row in rows]

    async def record(
        self, results: Sequence[Result], *, again: bool, gone: Mapping[str, Gone]
    ) -> list[Recorded]:
        """Record a batch; disable the subscriptions of `gone`, by id, with it.

        Returns what became of those that did not simply deliver.
        `again` after a run whose answer was lost: what it recorded is not recorded twice.
        Locks are taken in the order of all transactions: subscriptions, queue, health, limits.
        """
        columns = zip(*results, strict=True)
        values: dict[str, Any] = dict(zip(Result._fields, columns, strict=True))
        values = {name: _column(name, column) for name, column in values.items()}
        values["again"] = again
        limited = [result for result in results if result.limited]
        async with self.transaction() if gone or limited else self.single() as connection:
            for id, (reason, tell) in sorted(gone.items()):
                await self.disable(id, reason, tell=tell, connection=connection)
            recorded = await self._run("record", values, args_row(Recorded), connection)
            if limited:
                await self.settle(connection, limited)
        return recorded

    async def settle(self, connection: AsyncConnection[Any], results: Sequence[Result]) -> None:
        """End claims that limits count, and let the next of their subjects go."""
        values = {
            "delivery_id": [result.delivery_id for result in results],
            "attempt": [result.attempt for result in results],
        }
        await self._all("settle", values, connection=connection)

    async def promote_forgotten(self) -> int:
        """Let the next of subjects go whose head was not followed; return how many."""
        return int((await self._all("promote_forgotten", {}))[0].promoted)


_FREE = frozenset(
    {"error", "response_headers", "response_body"}
)  # columns that hold what others wrote


def _column(name: str, values: Sequence[Any]) -> str | list[Any] | None:
    """Return a column of results as a parameter, None if there is nothing in it."""
    if values[0] is None and values.count(None) == len(values):
        return None
    return list(values) if name in _FREE else _array(values)


def _array(values: Iterable[object]) -> str:
    """Return an array's literal, of values without commas, quotes and braces: the quick way."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


async def check_schema(connection: AsyncConnection[Any]) -> None:
    """Raise SchemaMismatch unless the database is on the version of this program."""
    try:
        row = await (await connection.execute(query("check_schema"))).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise SchemaMismatch(None, VERSION) from error
    found = row[0] if row else None
    if found != VERSION:
        raise SchemaMismatch(found, VERSION)


async def check_keys(connection: AsyncConnection[Any], keyring: Keyring) -> None:
    """Raise InvalidInput unless `keyring` has every key that secrets are sealed with.

    A worker without one would disable each subscription that it comes to.
    """
    rows = await (await connection.execute(query("check_keys"))).fetchall()
    keyring.check(key_id for (key_id,) in rows)


async def is_shared(connection: AsyncConnection[Any]) -> bool:
    """Return whether a pooler stands before the server.

    To its clients it tells a process id of its own making, as that of the session.
    """
    row = await (await connection.execute(query("is_shared"))).fetchone()
    return row is not None and row[0] != connection.info.backend_pid
