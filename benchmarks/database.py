"""A fresh database for each drain: made, filled, asked what came of it, and dropped."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy import make_url

from outbox import database, emit_many, schema, subscriptions
from outbox.addresses import parse_allow
from outbox.subscriptions import Author

from .workload import TYPE, events, urls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import LiteralString

    from sqlalchemy import URL

    Values = Sequence[object] | Mapping[str, object]

LOOPBACK = parse_allow("127.0.0.0/8")
BATCH = 1_000  # events in one transaction

SETTINGS: LiteralString = """
SELECT current_setting('server_version') AS postgresql, current_setting('fsync') AS fsync,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('shared_buffers') AS shared_buffers
"""
WAL: LiteralString = """
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS bytes
"""
ATTEMPTS: LiteralString = """
SELECT count(*) AS attempts, count(*) FILTER (WHERE outcome = 'delivered') AS delivered,
    (SELECT count(*) FROM outbox.delivery) AS deliveries,
    (SELECT count(*) FROM outbox.delivery_queue) AS open,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
    percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_ms) AS p99_ms
FROM outbox.attempt
"""
OPEN: LiteralString = """
SELECT (SELECT count(*) FROM outbox.event_queue) + (SELECT count(*) FROM outbox.delivery_queue) AS n
"""
WORKERS: LiteralString = "SELECT count(*) AS n FROM outbox.worker WHERE stopped_at IS NULL"
UPDATES: LiteralString = """
SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot_updates
FROM pg_stat_user_tables WHERE relid = 'outbox.delivery_queue'::regclass
"""

_numbers = count(1)


class Database:
    """One database of a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._target = database.conninfo(url, application_name="outbox-benchmark")

    def ask(self, query: LiteralString, values: Values = ()) -> dict[str, Any]:
        """Return the one row that `query` has."""
        with psycopg.connect(self._target, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(query, values or None).fetchone() or {}

    def do(self, statement: LiteralString, values: Values = ()) -> None:
        """Run one statement that returns nothing."""
        with psycopg.connect(self._target, autocommit=True) as connection:
            connection.execute(statement, values or None)

    def run(self, statement: LiteralString, name: str = "") -> None:
        """Run one statement about the database `name`, outside of a transaction."""
        with psycopg.connect(self._target, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def fill(self, receiver: str, number: int) -> None:
        """Install the schema, subscribe `receiver`, emit `number` events."""
        self.install(receiver)
        self.emit(number)

    def install(self, receiver: str, fan_out: int = 1) -> None:
        """Install the schema, and so many subscriptions of `receiver`, each with its own path."""
        engine = database.engine(self.url)
        by = Author("benchmark", "benchmarks")
        with engine.begin() as connection:
            schema.apply(connection)
            for url in urls(receiver, fan_out):
                subscriptions.add(connection, url, [TYPE], by=by, allow=LOOPBACK)
        engine.dispose()

    def emit(self, number: int) -> None:
        """Emit `number` events.

        The checkpoint stands before the events: the pages that they touch are then in the
        WAL as whole images already, and what follows pays for nothing but itself.
        """
        self.run("CHECKPOINT")
        engine = database.engine(self.url)
        for start in range(0, number, BATCH):
            with engine.begin() as connection:
                emit_many(connection, events(min(BATCH, number - start), start))
        engine.dispose()

    def wal(self) -> int:
        """Return how much the server ever wrote to its log, in bytes."""
        return int(self.ask(WAL)["bytes"])

    @property
    def host_url(self) -> URL:
        """The URL as a host gives it to SQLAlchemy."""
        return make_url(self.url).set(drivername="postgresql+psycopg")

    def postmaster(self) -> int | None:
        """Return the process id of the server, None if it is on another machine."""
        with psycopg.connect(self._target) as connection:
            try:
                parent = psutil.Process(connection.info.backend_pid).parent()
            except psutil.NoSuchProcess:
                return None
            return parent.pid if parent and "postgres" in parent.name() else None


@contextmanager
def fresh(server: Database) -> Iterator[Database]:
    """Make a database on `server`; drop it in the end."""
    name = f"outbox_benchmark_{next(_numbers)}"
    server.run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
    server.run("CREATE DATABASE {}", name)
    url = make_url(server.url).set(database=name)
    try:
        yield Database(url.render_as_string(hide_password=False))
    finally:
        server.run("DROP DATABASE {} WITH (FORCE)", name)
