"""What a command works on, and for whom: the database, and the author of a change."""

from __future__ import annotations

import getpass
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from outbox import InvalidInput, database, schema
from outbox.subscriptions import Author

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

VARIABLE = "OUTBOX_DATABASE_URL"
URL = "outbox.database_url"  # where the context of Click holds it


@contextmanager
def transaction(*, any_schema: bool = False) -> Iterator[Connection]:
    """Yield a connection in a transaction, on a database that has the schema of this program."""
    with open_engine(any_schema=True) as engine, engine.begin() as connection:
        if not any_schema:
            schema.check(connection)
        yield connection


@contextmanager
def connected() -> Iterator[Connection]:
    """Yield a connection as `transaction` does, for transactions that its user begins."""
    with open_engine() as engine, engine.connect() as connection:
        yield connection


@contextmanager
def open_engine(*, any_schema: bool = False) -> Iterator[Engine]:
    """Yield an engine, for what takes several connections, as `transaction` does."""
    with database.translated():
        engine = database.engine(_database_url())
        try:
            if not any_schema:
                with engine.connect() as connection:
                    schema.check(connection)
            yield engine
        finally:
            engine.dispose()


def author() -> Author:
    """Return who runs this command: the user of the operating system."""
    return Author(_user(), click.get_current_context().command_path)


def _database_url() -> str:
    url: str | None = click.get_current_context().meta.get(URL)
    if not url:
        raise InvalidInput("database url", f"is missing; give --database-url or set {VARIABLE}")
    return url


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container may run a user without a name
        return f"uid {os.getuid()}"
