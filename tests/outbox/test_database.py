"""What PostgreSQL says, in one line of our own."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import Connection, text

from outbox import DatabaseUnavailable, InvalidInput, SchemaMismatch, database
from outbox.database import conninfo, reason, split, translated
from tests.factories import value

if TYPE_CHECKING:
    from tests.databases import Database

AGAIN = 'connection to server at "::1", port 5432 failed: FATAL:  password authentication failed'
SAID = {
    psycopg.OperationalError("connection failed: a\n\tIs the server running?"):
        "connection failed: a Is the server running?",
    psycopg.OperationalError(f"connection failed: {AGAIN}\n{AGAIN}"):
        f"connection failed: {AGAIN.replace('  ', ' ')}",
    psycopg.OperationalError("b\nMultiple connection attempts failed: - c"): "b",
    psycopg.OperationalError(): "OperationalError",
    psycopg.errors.DiskFull("could not extend file: No space left on device"):
        "could not extend file: No space left on device",
    psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"):
        "cannot execute INSERT in a read-only transaction; "
        "is it a standby? give the url of the primary",
    psycopg.errors.InsufficientPrivilege("permission denied for table event"):
        "permission denied for table event; the role lacks the right; see `outbox grant`",
}  # fmt: skip


@pytest.mark.parametrize(("error", "line"), SAID.items(), ids=SAID.values())
def test_reason(error: psycopg.Error, line: str) -> None:
    """It is one line, which says nothing twice, and the remedy where there is one."""
    assert reason(error) == line


def test_no_statement_and_no_data(db: Connection) -> None:
    """What the server quotes of statements and data stays out."""
    with pytest.raises(DatabaseUnavailable) as error, translated():
        db.execute(text("DO $$ BEGIN RAISE 'it is full' USING DETAIL = 'canary'; END $$"))

    assert str(error.value) == "database: it is full"


def test_no_schema(db: Connection) -> None:
    """A table that is missing means a schema that is."""
    with pytest.raises(SchemaMismatch), translated():
        db.execute(text("SELECT * FROM outbox.nope"))


def test_sessions_may_be_shared(committed_db: Database) -> None:
    """An engine of ours leaves nothing behind in a session, and lets nothing be compiled."""
    engine = database.engine(committed_db.url)
    with engine.connect() as connection, connection.begin():
        for _ in range(10):
            assert value(connection, "SHOW jit") == "off"
        assert value(connection, "SELECT count(*) FROM pg_prepared_statements") == 0
        kept = connection.connection.driver_connection
        assert kept is not None
        kept.commit()
        ours = kept.execute("SELECT source FROM pg_settings WHERE name = 'jit'").fetchone()
        assert ours != ("session",)
    engine.dispose()


ONE, OTHER = "postgresql://ada:hunter2@db1/app", "postgresql://ada:hunter2@db2/app"


def test_examples() -> None:
    """What the docstrings show is so."""
    assert doctest.testmod(database).failed == 0


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        (ONE, [ONE]),
        (f"  {ONE}\n{OTHER}\n", [ONE, OTHER]),
        (f"{ONE}\tpostgres://x/y  postgresql+psycopg://x/z",
         [ONE, "postgres://x/y", "postgresql+psycopg://x/z"]),
        ("embedded:./one embedded:./an other", ["embedded:./one", "embedded:./an other"]),
        ("host=db dbname=app", ["host=db dbname=app"]),
    ],
)  # fmt: skip
def test_split(given: str, urls: list[str]) -> None:
    """White space parts URLs, but only where one begins: a path may have blanks."""
    assert split(given) == urls


def test_several_are_not_one() -> None:
    """Where one database is meant, several are refused, without a password."""
    with pytest.raises(InvalidInput) as refused:
        conninfo(f"{ONE}\n{OTHER}", application_name="test")

    assert str(refused.value) == ("database url: several are given; choose one with --database-url")
