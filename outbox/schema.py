"""The schema and its version: install, upgrade, check, print.

`schema.sql` is the whole schema of this version. `upgrades/N.sql` takes a database with
data from version N-1 to N. Both lead to the same schema, and each runs in one
transaction, so a database is always on exactly one version.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, inspect, select

from .errors import SchemaMismatch
from .tables import schema_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

VERSION = 3


def text() -> str:
    """Return schema.sql."""
    return files(__package__).joinpath("schema.sql").read_text()


def upgrades() -> dict[int, str]:
    """Return the SQL that leads to each version from the one before it."""
    folder = files(__package__).joinpath("upgrades")
    found = folder.iterdir() if folder.is_dir() else ()
    return {int(file.name[:-4]): file.read_text() for file in found if file.name.endswith(".sql")}


def found_version(connection: Connection) -> int | None:
    """Return the version the database has, or None if the schema is not installed."""
    if not inspect(connection).has_table("schema_version", schema="outbox"):
        return None
    return connection.execute(select(func.max(schema_version.c.version))).scalar()


def check(connection: Connection) -> None:
    """Raise SchemaMismatch unless the database is on the version of this program."""
    found = found_version(connection)
    if found != VERSION:
        raise SchemaMismatch(found, VERSION)


def apply(
    connection: Connection, *, to: int = VERSION, steps: Mapping[int, str] | None = None
) -> int | None:
    """Install the schema or upgrade it, in the caller's transaction.

    Returns the version that was there before, None if there was none; a database that is
    up to date is left alone. Raises SchemaMismatch if it is newer than this program.
    `to` and `steps` are for tests of upgrades.

        with engine.begin() as connection:
            outbox.schema.apply(connection)
    """
    connection.execute(
        select(func.pg_advisory_xact_lock(func.hashtextextended("outbox.schema", 0)))
    )
    found = found_version(connection)
    if found is None:
        _run(connection, text())
        return None
    if found > to:
        raise SchemaMismatch(found, to)
    steps = upgrades() if steps is None else steps
    for version in range(found + 1, to + 1):
        _run(connection, steps[version])
        connection.execute(insert(schema_version), {"version": version})
    return found


def _run(connection: Connection, script: str) -> None:
    connection.exec_driver_sql(script, execution_options={"no_parameters": True})
