"""PostgreSQL for the tests: one server for a run, databases on it by price.

    db             one connection, everything rolled back      about 1 ms   the default
    committed_db   one shared database, emptied afterwards     about 2 ms   several connections
    cloned_db      a database of its own                       about 0.2 s  mark it `clone`

The server is the embedded one without durability, or the one of OUTBOX_TEST_DATABASE_URL,
whose user must be a superuser. The schema is installed once, in a template.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor
from pytest_postgresql.janitor import DatabaseJanitor
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DisconnectionError

from outbox import embedded, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = f"outbox_test_{os.getpid()}"

_SETTINGS = """
fsync = off
full_page_writes = off
synchronous_commit = off
max_connections = 200
max_prepared_transactions = 2
"""


@dataclass(frozen=True)
class Database:
    """A database with the schema in it, where what is written is committed."""

    url: str
    engine: Engine


class Server(NoopExecutor):
    """Where the template is made."""

    template_dbname = "template1"

    @classmethod
    def at(cls, url: str) -> Server:
        parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
        return cls(
            host=parts.get("host", "localhost"),
            port=parts.get("port", "5432"),
            user=parts.get("user", "postgres"),
            password=parts.get("password"),
            options="",
            dbname=NAME,
            maintenance_dbname=parts.get("dbname", "postgres"),
        )


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    given = os.environ.get("OUTBOX_TEST_DATABASE_URL")
    if given:
        yield Server.at(embedded.resolve(given))
    else:
        with embedded_server(_SETTINGS) as (url, _):
            yield Server.at(embedded.resolve(url))


@contextmanager
def embedded_server(settings: str) -> Iterator[tuple[str, Path]]:
    """The URL and the folder of an embedded PostgreSQL that leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="outbox-test-"))  # short, and open to root's deputy
    url = f"{embedded.PREFIX}{folder}"
    (folder / "settings.conf").write_text(settings)
    (folder / "settings.conf").chmod(0o644)
    try:
        yield url, folder
    finally:
        embedded.leave(url)
        shutil.rmtree(folder)


def install(
    host: str, port: int, user: str, dbname: str, password: str | None, **_: object
) -> None:
    """Fill the template; called by pytest-postgresql."""
    engine = engine_at(libpq_url(host, port, user, dbname, password))
    with engine.begin() as connection:
        schema.apply(connection)


template = factories.postgresql_noproc(depends_on="server", dbname=NAME, load=[install])


@pytest.fixture(scope="session")
def shared_database(template: NoopExecutor) -> Iterator[Database]:
    """Its sessions are kept from test to test, which saves each of them 10 ms."""
    with clone(template, f"{NAME}_shared") as database:
        engine = create_engine(engine_url(database.url, "psycopg"), max_overflow=-1)
        event.listen(engine, "checkout", forget)
        yield Database(database.url, engine)
        engine.dispose()


def forget(connection: psycopg.Connection, *_: object) -> None:
    """Make a session as if it were new, before another test has it."""
    try:
        connection.autocommit = True
        connection.execute(_FORGET)
        connection.autocommit = False
    except psycopg.OperationalError as error:
        raise DisconnectionError from error  # a test had it ended: there will be another one


_FORGET = """
RESET SESSION AUTHORIZATION; RESET ALL; UNLISTEN *; DISCARD TEMP; DEALLOCATE ALL;
SELECT pg_advisory_unlock_all()
"""


@pytest.fixture
def db(shared_database: Database) -> Iterator[Connection]:
    """A connection in a transaction that is rolled back."""
    with shared_database.engine.connect() as connection:
        outer = connection.begin()
        yield connection
        outer.rollback()


@pytest.fixture
def committed_db(shared_database: Database) -> Iterator[Database]:
    """A database whose rows are deleted after the test."""
    yield shared_database
    empty(shared_database)


@pytest.fixture
def cloned_db(template: NoopExecutor) -> Iterator[Database]:
    """A database of its own."""
    with clone(template, f"{NAME}_clone") as database:
        yield database


@contextmanager
def clone(template: NoopExecutor, name: str) -> Iterator[Database]:
    where = (template.host, template.port, template.user)
    janitor = DatabaseJanitor(
        host=template.host,
        port=template.port,
        user=template.user,
        password=template.password,
        dbname=name,
        template_dbname=template.template_dbname,
        maintenance_dbname=template.maintenance_dbname,
    )
    url = libpq_url(*where, name, template.password)
    with janitor:
        yield Database(url, engine_at(url))


def empty(database: Database) -> None:
    """Delete all rows, also those that triggers protect; fail if a test left a lock behind."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(_EMPTY, execution_options={"no_parameters": True})


_EMPTY = """
DO $$
DECLARE
    the_table text;
    filled    boolean;
BEGIN
    SET LOCAL session_replication_role = replica;
    SET LOCAL lock_timeout = '5s';
    FOR the_table IN
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'p')
            AND NOT c.relispartition AND c.relname NOT IN ('schema_version', 'retention')
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM outbox.%I)', the_table) INTO filled;
        IF filled THEN
            EXECUTE format('DELETE FROM outbox.%I', the_table);
        END IF;
    END LOOP;
    UPDATE outbox.retention SET keep = NULL, actor = NULL, command = NULL WHERE actor IS NOT NULL;
END
$$
"""


def libpq_url(host: str, port: int | str, user: str, dbname: str, password: str | None) -> str:
    login = quote(user) if password is None else f"{quote(user)}:{quote(password)}"
    where = urlencode({"host": host, "port": port}, quote_via=quote)
    return f"postgresql://{login}@/{quote(dbname)}?{where}"


def engine_at(url: str, driver: str = "psycopg") -> Engine:
    """A SQLAlchemy engine that keeps no connection open."""
    return create_engine(engine_url(url, driver), poolclass=NullPool)


def engine_url(url: str, driver: str) -> URL:
    """The same database for a SQLAlchemy driver: psycopg, psycopg2, asyncpg, pg8000."""
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    host, port = parts.get("host", "localhost"), parts.get("port", "5432")
    bare = URL.create(
        f"postgresql+{driver}", parts.get("user"), parts.get("password"), database=parts["dbname"]
    )
    if not host.startswith("/"):
        return bare.set(host=host, port=int(port))
    if driver == "pg8000":
        return bare.update_query_dict({"unix_sock": f"{host}/.s.PGSQL.{port}"})
    return bare.update_query_dict({"host": host, "port": port})
