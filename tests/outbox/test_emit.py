"""Emit: an event exists if and only if the host's transaction committed, on every driver."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import outbox
from outbox import Event, InvalidInput, KeyConflict
from outbox.encoding import MAX_DEPTH
from outbox.events import MAX_BYTES
from outbox.worker.store import query
from tests.databases import Database, engine_url
from tests.factories import LONG_AGO, rows, value
from tests.helpers import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


class Combination(NamedTuple):
    """What a host hands to emit."""

    target: type[Any]
    driver: str

    def __str__(self) -> str:
        return f"{self.target.__name__}-{self.driver}"


SYNC = [Combination(t, d) for t in (Session, Connection) for d in ("psycopg", "psycopg2", "pg8000")]
ASYNC = [Combination(t, d) for t in (AsyncSession, AsyncConnection) for d in ("psycopg", "asyncpg")]


class Host:
    """A host with one transaction at a time; `sent` are the statements it sent."""

    sent: list[str]

    def emit(self, event: Event) -> UUID:
        raise NotImplementedError

    def emit_many(self, events: list[Event]) -> list[UUID]:
        raise NotImplementedError

    def begin_savepoint(self) -> Any:
        raise NotImplementedError

    def rollback_to(self, savepoint: Any) -> None:
        raise NotImplementedError

    def commit(self) -> None:
        raise NotImplementedError

    def rollback(self) -> None:
        raise NotImplementedError


class SyncHost(Host):
    def __init__(self, target: Session | Connection, sent: list[str]) -> None:
        self._target = target
        self.sent = sent

    def emit(self, event: Event) -> UUID:
        return outbox.emit(self._target, event)

    def emit_many(self, events: list[Event]) -> list[UUID]:
        return outbox.emit_many(self._target, events)

    def begin_savepoint(self) -> Any:
        return self._target.begin_nested()

    def rollback_to(self, savepoint: Any) -> None:
        savepoint.rollback()

    def commit(self) -> None:
        self._target.commit()

    def rollback(self) -> None:
        self._target.rollback()


class AsyncHost(Host):
    """The async form; each call runs in the host's own loop to its end."""

    def __init__(
        self, target: AsyncSession | AsyncConnection, runner: asyncio.Runner, sent: list[str]
    ) -> None:
        self._target = target
        self._runner = runner
        self.sent = sent

    def _run(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self._runner.run(wait())

    def emit(self, event: Event) -> UUID:
        async def call() -> UUID:
            return await outbox.emit(self._target, event)

        return self._runner.run(call())

    def emit_many(self, events: list[Event]) -> list[UUID]:
        async def call() -> list[UUID]:
            return await outbox.emit_many(self._target, events)

        return self._runner.run(call())

    def begin_savepoint(self) -> Any:
        return self._run(self._target.begin_nested())

    def rollback_to(self, savepoint: Any) -> None:
        self._run(savepoint.rollback())

    def commit(self) -> None:
        self._run(self._target.commit())

    def rollback(self) -> None:
        self._run(self._target.rollback())


def statements_of(engine: Engine) -> list[str]:
    """What the engine sends, from now on."""
    sent: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    return sent


@contextmanager
def sync_host(url: str, combination: Combination) -> Iterator[Host]:
    engine = create_engine(engine_url(url, combination.driver), poolclass=NullPool)
    sent = statements_of(engine)
    with Session(engine) if combination.target is Session else engine.connect() as target:
        yield SyncHost(target, sent)


@contextmanager
def async_host(url: str, combination: Combination) -> Iterator[Host]:
    engine = create_async_engine(engine_url(url, combination.driver), poolclass=NullPool)
    sent = statements_of(engine.sync_engine)
    with asyncio.Runner() as runner:

        async def start() -> AsyncSession | AsyncConnection:
            if combination.target is AsyncSession:
                return AsyncSession(engine)
            return await engine.connect()

        target = runner.run(start())
        yield AsyncHost(target, runner, sent)
        runner.run(target.close())


@pytest.fixture(params=SYNC + ASYNC, ids=str)
def host(request: pytest.FixtureRequest, committed_db: Database) -> Iterator[Host]:
    """Each form of a transaction on each driver."""
    open_host = sync_host if request.param in SYNC else async_host
    with open_host(committed_db.url, request.param) as host:
        yield host


def stored(database: Database) -> list[UUID]:
    """The ids of all events that others can see, in their order."""
    with database.engine.connect() as connection:
        return [row[0] for row in rows(connection, "SELECT id FROM outbox.event ORDER BY id")]


# On every driver.


def test_commit(host: Host, committed_db: Database) -> None:
    """A committed event is there under the id that emit returned, and waits for its fan-out."""
    id = host.emit(Event(type="invoice.paid", data={"id": 1}))
    assert stored(committed_db) == []
    host.commit()

    assert isinstance(id, UUID)
    assert stored(committed_db) == [id]
    with committed_db.engine.connect() as connection:
        assert rows(connection, "SELECT event_id, error FROM outbox.event_queue") == [(id, None)]


def test_rollback(host: Host, committed_db: Database) -> None:
    """What is rolled back never was; the next transaction is like the first."""
    host.emit(Event(type="invoice.paid"))
    host.rollback()
    id = host.emit(Event(type="invoice.paid"))
    host.commit()

    assert stored(committed_db) == [id]


def test_savepoint(host: Host, committed_db: Database) -> None:
    """A savepoint takes back what was emitted in it and no more."""
    before = host.emit(Event(type="a.before"))
    savepoint = host.begin_savepoint()
    host.emit(Event(type="a.inside", key="k"))
    host.rollback_to(savepoint)
    after = host.emit(Event(type="a.after", key="k"))
    host.commit()

    assert set(stored(committed_db)) == {before, after}


def test_batch(host: Host, committed_db: Database) -> None:
    """A batch is one statement; its ids come in its order."""
    events = [Event(type="a.b", data={"n": n}) for n in range(50)]
    sent_before = len(host.sent)
    ids = host.emit_many(events)
    sent = len(host.sent) - sent_before
    host.commit()

    assert sent == 1
    with committed_db.engine.connect() as connection:
        found = dict(rows(connection, "SELECT id, data ->> 'n' FROM outbox.event"))
    assert [found[id] for id in ids] == [str(n) for n in range(50)]


def test_key(host: Host, committed_db: Database) -> None:
    """The same key and content again gives the first event's id; nothing new is written."""
    first = host.emit(Event(type="a.b", data={"x": 1, "y": 2}, key="k"))
    host.commit()
    again = host.emit(Event(type="a.b", data={"y": 2, "x": 1}, key="k"))
    host.commit()

    assert again == first
    assert stored(committed_db) == [first]


def test_key_conflict(host: Host, committed_db: Database) -> None:
    """The same key with another content is refused, and the transaction goes on."""
    first = host.emit(Event(type="a.b", data=1, key="k", tenant="acme"))
    with pytest.raises(KeyConflict) as caught:
        host.emit(Event(type="a.b", data=2, key="k", tenant="acme"))
    other = host.emit(Event(type="a.c"))
    host.commit()

    assert (caught.value.key, caught.value.tenant) == ("k", "acme")
    assert caught.value.event_id == str(first)
    assert stored(committed_db) == [first, other]


def test_mistake(host: Host, committed_db: Database) -> None:
    """A mistake is found before anything is sent, and the transaction goes on."""
    first = host.emit(Event(type="a.b"))
    sent_before = len(host.sent)
    with pytest.raises(InvalidInput):
        host.emit_many([Event(type="a.b"), Event(type="a.b", data=float("nan"))])
    assert len(host.sent) == sent_before
    host.commit()

    assert stored(committed_db) == [first]


class Color(Enum):
    RED = "red"


RICH = {
    "percent": "100 %s %(x)s %%",
    "placeholders": ":x :events $1 ? ?? \\",
    "quotes": "it's \"so\" $$ E'\\n'",
    "unicode": "é € 𝄞 \u2028",
    "control": "\x01\x1f\x7f\n\t",
    "decimal": Decimal("19.90"),
    "big": 2**64,
    "moment": datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2))),
    "day": date(2026, 1, 31),
    "uuid": UUID("0190163d-8694-739b-aea5-966c26f8ad91"),
    "enum": Color.RED,
    "float": 1e100,
    "nested": [[], {}, None, True],
}


def test_exact_text(host: Host, committed_db: Database) -> None:
    """The data is stored as the very text that was encoded, whatever a driver makes of %s or :x."""
    id = host.emit(Event(type="a.b", data=RICH, subject="100 %s :x", context={"traceparent": "%s"}))
    host.commit()

    with committed_db.engine.connect() as connection:
        found = outbox.events.show_event(connection, id)
    assert found.data == outbox.encoding.encode(RICH)
    assert (found.subject, found.context) == ("100 %s :x", '{"traceparent":"%s"}')


# Mistakes.

DEEP: Any = 0
for _ in range(MAX_DEPTH + 1):
    DEEP = [DEEP]

MISTAKES: list[tuple[str, str, dict[str, Any]]] = [
    ("type empty", "type", {"type": ""}),
    ("type with a space", "type", {"type": "a b"}),
    ("type with two dots", "type", {"type": "a..b"}),
    ("type with a newline", "type", {"type": "a.b\n"}),
    ("type too long", "type", {"type": "a" * 129}),
    ("type a pattern", "type", {"type": "a.*"}),
    ("type no text", "type", {"type": 7}),
    ("NaN", "data.x", {"data": {"x": float("nan")}}),
    ("infinity", "data[0]", {"data": [float("inf")]}),
    ("decimal NaN", "data", {"data": Decimal("NaN")}),
    ("NUL", "data.x", {"data": {"x": "a\0b"}}),
    ("NUL in a key", "data", {"data": {"a\0b": 1}}),
    ("lone surrogate", "data[1]", {"data": ["", "\ud800"]}),
    ("too deep", "data" + "[0]" * MAX_DEPTH, {"data": DEEP}),
    ("too large", "data", {"data": "x" * MAX_BYTES}),
    ("number too long", "data", {"data": 10**2000}),
    ("a set", "data.x", {"data": {"x": {1}}}),
    ("bytes", "data", {"data": b"x"}),
    ("a key that is no text", "data", {"data": {1: 1}}),
    ("naive datetime", "data.at", {"data": {"at": datetime(2026, 1, 1)}}),  # noqa: DTZ001
    ("tenant empty", "tenant", {"tenant": ""}),
    ("tenant no text", "tenant", {"tenant": 7}),
    ("tenant with NUL", "tenant", {"tenant": "a\0"}),
    ("subject with a newline", "subject", {"subject": "a\nb"}),
    ("subject too long", "subject", {"subject": "x" * 1025}),
    ("source with a surrogate", "source", {"source": "\udfff"}),
    ("source of our own", "source", {"source": "outbox"}),
    ("key empty", "key", {"key": ""}),
    ("key too long", "key", {"key": "x" * 256}),
    ("naive due_at", "due_at", {"due_at": datetime(2026, 1, 1)}),  # noqa: DTZ001
    ("due_at no datetime", "due_at", {"due_at": "tomorrow"}),
    ("occurred_at a day", "occurred_at", {"occurred_at": date(2026, 1, 1)}),
    ("context with NUL", "context.a", {"context": {"a": "\0"}}),
    ("context too large", "context", {"context": {"a": "x" * 10_000}}),
    ("context no mapping", "context", {"context": ["traceparent"]}),
]


@pytest.mark.parametrize(
    ("field", "fields"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_mistakes(db: Connection, field: str, fields: dict[str, Any]) -> None:
    """Each mistake is an InvalidInput that names its place; nothing is sent for it."""
    sent = statements_of(db.engine)
    with pytest.raises(InvalidInput) as caught:
        outbox.emit(db, Event(**{"type": "a.b", **fields}))

    assert (caught.value.field, sent) == (field, [])


def test_size_limit(db: Connection) -> None:
    """The limit is on the encoded bytes, is exact, and is the host's to set."""
    outbox.emit(db, Event(type="a.b", data="x" * (MAX_BYTES - 2)))
    outbox.emit(db, Event(type="a.b", data="é" * 4), max_bytes=10)

    with pytest.raises(InvalidInput, match="takes 12 bytes as JSON; 10 are allowed"):
        outbox.emit(db, Event(type="a.b", data="é" * 5), max_bytes=10)


def test_empty_batch(db: Connection) -> None:
    """A batch of nothing sends nothing."""
    sent = statements_of(db.engine)

    assert outbox.emit_many(db, []) == []
    assert sent == []


# Keys.


def test_keys_of_tenants_never_meet(db: Connection) -> None:
    """A key stands for one event of its tenant; no tenant is one of its own."""
    ids = [outbox.emit(db, Event(type="a.b", data=t, tenant=t, key="k")) for t in ("x", "y", None)]

    assert len(set(ids)) == 3


def test_key_twice_in_a_batch(db: Connection) -> None:
    """The same key twice in one batch is one event, returned twice."""
    twin = Event(type="a.b", data=1, key="k")
    ids = outbox.emit_many(db, [Event(type="a.a"), twin, Event(type="a.c", key="other"), twin])

    assert ids[1] == ids[3]
    assert len(set(ids)) == 3
    assert value(db, "SELECT count(*) FROM outbox.event") == 3


def test_what_a_key_compares(db: Connection) -> None:
    """Type, subject and data make another content; source, context and times do not."""
    id = outbox.emit(db, Event(type="a.b", data={"x": 1}, subject="s", key="k"))
    beside: dict[str, Any] = {
        "source": "z",
        "context": {"a": 1},
        "due_at": LONG_AGO,
        "occurred_at": LONG_AGO,
    }
    again = Event(type="a.b", data={"x": 1}, subject="s", key="k", **beside)

    assert outbox.emit(db, again) == id
    for other in ({"type": "a.c"}, {"subject": "t"}, {"subject": None}, {"data": {"x": 2}}):
        fields: dict[str, Any] = {
            "type": "a.b",
            "data": {"x": 1},
            "subject": "s",
            "key": "k",
            **other,
        }
        with pytest.raises(KeyConflict):
            outbox.emit(db, Event(**fields))


def test_batch_with_a_conflict(db: Connection) -> None:
    """A conflict in a batch means that nothing of the batch is written."""
    outbox.emit(db, Event(type="a.b", data=1, key="old"))
    batch = [Event(type="a.b"), Event(type="a.b", data=2, key="old"), Event(type="a.b", key="new")]
    with pytest.raises(KeyConflict):
        outbox.emit_many(db, batch)

    assert value(db, "SELECT count(*) FROM outbox.event") == 1
    assert rows(db, "SELECT key FROM outbox.event_key") == [("old",)]


class Second:
    """A session in a thread that emits with the key of another one, and so waits for it."""

    def __init__(self, database: Database, event: Event) -> None:
        self._database = database
        self._event = event
        self.result: UUID | Exception | None = None
        self._thread = threading.Thread(target=self._emit)
        self._thread.start()

    def _emit(self) -> None:
        try:
            with self._database.engine.begin() as connection:
                self.result = outbox.emit(connection, self._event)
        except KeyConflict as error:
            self.result = error

    def is_waiting(self) -> bool:
        with self._database.engine.connect() as connection:
            waiting = value(
                connection,
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()",
            )
        assert self._thread.is_alive() or not waiting
        return bool(waiting)

    def join(self) -> UUID | Exception | None:
        self._thread.join(10)
        return self.result


def test_two_sessions_first_commits(committed_db: Database) -> None:
    """The second of two sessions with one key waits, and is given the first one's id."""
    keyed = Event(type="a.b", data=1, key="k")
    with committed_db.engine.begin() as first:
        id = outbox.emit(first, keyed)
        second = Second(committed_db, keyed)
        eventually(second.is_waiting)

    assert second.join() == id
    assert stored(committed_db) == [id]


def test_two_sessions_first_rolls_back(committed_db: Database) -> None:
    """If the first of two sessions rolls back, the second one's event is the one."""
    keyed = Event(type="a.b", data=1, key="k")
    with committed_db.engine.connect() as first:
        id = outbox.emit(first, keyed)
        second = Second(committed_db, keyed)
        eventually(second.is_waiting)
        first.rollback()

    assert second.join() != id
    assert stored(committed_db) == [second.result]


def test_two_sessions_with_other_content(committed_db: Database) -> None:
    """The second of two sessions with one key and another content gets a KeyConflict."""
    with committed_db.engine.begin() as first:
        id = outbox.emit(first, Event(type="a.b", data=1, key="k"))
        second = Second(committed_db, Event(type="a.b", data=2, key="k"))
        eventually(second.is_waiting)

    assert isinstance(second.join(), KeyConflict)
    assert stored(committed_db) == [id]


# Plain SQL.


def test_plain_insert(db: Connection) -> None:
    """One INSERT in any language will do; the text of data stays as it was written."""
    db.exec_driver_sql("""
        INSERT INTO outbox.event (type, data) VALUES ('invoice.paid', '{"id": 1,  "id":2 }')
    """)
    ((id, data, tenant, age),) = rows(
        db, "SELECT id, data::text, tenant, clock_timestamp() - occurred_at FROM outbox.event"
    )

    assert (data, tenant) == ('{"id": 1,  "id":2 }', None)
    assert timedelta(0) <= age < timedelta(seconds=5)
    assert rows(db, "SELECT event_id FROM outbox.event_queue") == [(id,)]


def test_plain_batch(db: Connection) -> None:
    """outbox.emit does in plain SQL what emit_many does."""
    batch = """[{"type": "a.b", "data": {"id" : 1}, "key": "k"}, {"type": "a.c", "data": 2}]"""
    found = rows(db, "SELECT id, differs FROM outbox.emit(CAST(:batch AS json))", batch=batch)

    assert [differs for _, differs in found] == [False, False]
    assert rows(db, "SELECT id, data::text FROM outbox.event ORDER BY type") == [
        (found[0][0], '{"id" : 1}'),
        (found[1][0], "2"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        "('a b', '{}', NULL)",
        "('a..b', '{}', NULL)",
        "('', '{}', NULL)",
        "(repeat('a', 129), '{}', NULL)",
        "('a.*', '{}', NULL)",
        "(E'a\\n', '{}', NULL)",
        "(NULL, '{}', NULL)",
        "('a.b', NULL, NULL)",
        "('a.b', '{', NULL)",
        r"""('a.b', '{"x": "\u0000"}', NULL)""",
        r"""('a.b', '{"\u0000": 1}', NULL)""",
        r"""('a.b', '"\ud800"', NULL)""",
        "('a.b', '1e200000', NULL)",
        "('a.b', '{}', '')",
    ],
)
def test_plain_mistakes(db: Connection, bad: str) -> None:
    """The table itself refuses what no receiver could be sent, or no filter could read."""
    with pytest.raises(DBAPIError), db.begin_nested():
        db.exec_driver_sql(f"INSERT INTO outbox.event (type, data, tenant) VALUES {bad}")  # noqa: S608

    assert value(db, "SELECT count(*) FROM outbox.event") == 0


def test_least_privilege(db: Connection) -> None:
    """A host needs INSERT on event and nothing else; for keys INSERT and SELECT on event_key."""
    db.exec_driver_sql("CREATE ROLE outbox_test_host")
    db.exec_driver_sql("GRANT USAGE ON SCHEMA outbox TO outbox_test_host")
    db.exec_driver_sql("GRANT INSERT ON outbox.event TO outbox_test_host")
    db.exec_driver_sql("SET LOCAL ROLE outbox_test_host")
    outbox.emit_many(db, [Event(type="a.b"), Event(type="a.c")])
    with pytest.raises(DBAPIError, match="event_key"), db.begin_nested():
        outbox.emit(db, Event(type="a.b", key="k"))
    db.exec_driver_sql("RESET ROLE")
    db.exec_driver_sql("GRANT INSERT, SELECT ON outbox.event_key TO outbox_test_host")
    db.exec_driver_sql("SET LOCAL ROLE outbox_test_host")
    outbox.emit(db, Event(type="a.b", key="k"))
    db.exec_driver_sql("RESET ROLE")

    assert value(db, "SELECT count(*) FROM outbox.event_queue") == 3


# When.


def test_due_at(db: Connection) -> None:
    """A delayed event waits in the queue until it is due; one without due_at is due at once."""
    due_at = datetime(2030, 1, 31, 12, tzinfo=timezone(timedelta(hours=-5)))
    late = outbox.emit(db, Event(type="a.b", due_at=due_at))
    soon = outbox.emit(db, Event(type="a.b"))
    queue = rows(db, "SELECT event_id, due_at, clock_timestamp() FROM outbox.event_queue")

    due = {id: (moment, now) for id, moment, now in queue}
    assert due[late][0] == due_at
    assert due[soon][0] <= due[soon][1]


def test_occurred_at(db: Connection) -> None:
    """An event tells when it happened, to the microsecond; by default that is now."""
    moment = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
    id = outbox.emit(db, Event(type="a.b", occurred_at=moment))

    assert outbox.events.show_event(db, id).occurred_at == moment


def test_host_is_never_kept_waiting(committed_db: Database) -> None:
    """A host inserts and commits while a fan-out and new partitions are under way."""
    with committed_db.engine.begin() as connection:
        outbox.emit(connection, Event(type="a.b"))
    with psycopg.connect(committed_db.url) as worker:
        worker.execute("SET LOCAL lock_timeout = '2s'")
        worker.execute("SELECT outbox.make_partitions(9)")
        fanned_out = worker.execute(
            query("fan_out"), {"limit": 500, "owner": 1, "only": None}
        ).fetchone()
        with committed_db.engine.begin() as host:
            host.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
            outbox.emit_many(host, [Event(type="a.b", key="k"), Event(type="a.c")])
        worker.rollback()

    assert fanned_out is not None
    assert fanned_out[0] == 1
    assert len(stored(committed_db)) == 3


# Reading.


def test_list_events(db: Connection) -> None:
    """Events are listed newest first, by type, pattern, tenant and subject, in pages."""
    fields: list[dict[str, Any]] = [
        {"type": "invoice.paid", "tenant": "x", "subject": "s"},
        {"type": "invoice_paid"},
        {"type": "invoice.sent", "tenant": "y"},
    ]
    paid, odd, sent = (outbox.emit(db, Event(**f)) for f in fields)

    def listed(**options: Any) -> list[UUID]:
        return [found.id for found in outbox.events.list_events(db, **options)]

    assert listed() == [sent, odd, paid]
    assert listed(type="invoice.*") == [sent, paid]
    assert listed(type="invoice_*") == [odd]
    assert listed(type="invoice_paid") == [odd]
    assert listed(tenant="x") == listed(subject="s") == [paid]
    assert listed(limit=2) == [sent, odd]
    assert listed(before=odd) == [paid]


def test_show_event(db: Connection) -> None:
    """An unknown id is NotFound; a known one tells how far its fan-out is."""
    id = outbox.emit(db, Event(type="a.b"))

    assert outbox.events.fan_out_state(db, id) == "waiting"
    with pytest.raises(outbox.NotFound):
        outbox.events.show_event(db, UUID(int=0))


@pytest.mark.clone
def test_no_schema(cloned_db: Database) -> None:
    """Without the schema, emit fails like any statement on a table that is not there."""
    with cloned_db.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA outbox CASCADE"))
        with pytest.raises(DBAPIError, match="outbox"):
            outbox.emit(connection, Event(type="a.b"))
