"""The databases that a worker serves, and what it calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from psycopg.conninfo import conninfo_to_dict

from outbox import embedded
from outbox.database import conninfo
from outbox.errors import InvalidInput, OutboxError

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = "5432"


class Database(NamedTuple):
    """`target` is how to connect; `name` is what log lines call it, nothing if it is the only one.

    A name holds no password.
    """

    target: str
    name: str = ""


def databases(urls: Sequence[str]) -> list[Database]:
    """Return the databases at `urls`; starts those that are embedded.

    Raises InvalidInput for a wrong URL, without it, and for a database that is given twice.
    """
    if len(urls) == 1:
        return [Database(_target(urls[0]))]
    found = [_named(url, place) for place, url in enumerate(urls, 1)]
    for place, (target, name) in enumerate(found):
        if any(target == before.target or name == before.name for before in found[:place]):
            raise InvalidInput("database url", f"{name} is given twice")
    return found


def _target(url: str) -> str:
    return conninfo(url, application_name="outbox-worker")


def _named(url: str, place: int) -> Database:
    try:
        target = _target(url)
    except InvalidInput as error:
        raise InvalidInput(f"database url {place}", error.rule) from error
    except OutboxError as error:  # of an embedded one, which has no password
        error.add_note(url)
        raise
    return Database(target, url if url.startswith(embedded.PREFIX) else name_of(target, place))


def name_of(target: str, place: int) -> str:
    """Return what to call the database at `target`, by its host, or else by its `place`.

    >>> name_of("host=db1 dbname=app user=ada password=hunter2", 1)
    'db1/app'
    >>> name_of("service=app", 2)
    'database 2'
    """
    known = {key: str(value) for key, value in conninfo_to_dict(target).items()}
    host, dbname = known.get("host") or known.get("hostaddr"), known.get("dbname")
    if not host or not dbname or not f"{host}{dbname}".isprintable():
        return f"database {place}"
    port = known.get("port", "")
    usual = set(port.split(",")) <= {"", PORT}  # a list, where hosts are one
    return f"{host}/{dbname}" if usual else f"{host}:{port}/{dbname}"
