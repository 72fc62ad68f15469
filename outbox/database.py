"""Database URLs: what they may be, and how our own programs connect.

Hosts bring their own engine; this is for the worker, the command line and the demo.
A URL is `postgresql://…` as libpq knows it, the same with a SQLAlchemy driver in it
(`postgresql+psycopg://…`, so that a host's setting can be used as it is), or
`embedded:PATH` for a PostgreSQL of our own in a folder.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.exc import DBAPIError

from . import embedded
from .errors import DatabaseUnavailable, InvalidInput, SchemaMismatch

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_TIMEOUT = 10  # seconds

_SCHEME = re.compile(r"postgres(?:ql)?(?:\+[a-z0-9]+)?://")
_BETWEEN = re.compile(rf"\s+(?={_SCHEME.pattern}|{embedded.PREFIX})")
_RULE = "must be postgresql://user@host/database or embedded:PATH"


def conninfo(url: str, *, application_name: str) -> str:
    """Return the libpq connection string of `url`; starts the embedded PostgreSQL if asked.

    Raises InvalidInput, without the URL in it: it may hold a password.
    """
    if len(split(url)) > 1:
        raise InvalidInput("database url", "several are given; choose one with --database-url")
    _check_characters(url)
    if url.startswith("embedded:"):
        url = embedded.resolve(url)
    if not _SCHEME.match(url):
        raise InvalidInput("database url", _RULE)
    try:
        plain = conninfo_to_dict(_SCHEME.sub("postgresql://", url, count=1))
    except psycopg.ProgrammingError as error:
        raise InvalidInput("database url", _RULE) from error
    if "@" in str(plain.get("host", "")):
        raise InvalidInput("database url", "an @ in the user or the password is written as %40")
    plain.setdefault("application_name", application_name)
    plain.setdefault("connect_timeout", CONNECT_TIMEOUT)
    return make_conninfo("", **plain)


def split(text: str) -> list[str]:
    """Return the URLs in `text`. White space parts them, but only where one begins behind it.

    So the path of an embedded one may have blanks.

    >>> split("postgresql://a/x  embedded:./my own/pg postgresql://b/y")
    ['postgresql://a/x', 'embedded:./my own/pg', 'postgresql://b/y']
    """
    return _BETWEEN.split(text.strip())


def _check_characters(url: str) -> None:
    """libpq would take no notice of what stands behind a NUL."""
    try:
        printable = url.encode().decode().isprintable()
    except UnicodeEncodeError as error:  # bytes that a shell passed on and that are no UTF-8
        raise InvalidInput("database url", "must be text in UTF-8") from error
    if not printable:
        raise InvalidInput("database url", "contains a control character")


def engine(url: str, *, application_name: str = "outbox") -> Engine:
    """Return a SQLAlchemy engine on psycopg for `url`.

    It works behind a pooler of transactions as well: it prepares no statements, and what it
    sets is set for a transaction. That is `jit = off`: many partitions look like much work
    to the planner, and to compile it for two seconds would save nothing.

    with outbox.database.engine("embedded:./pg").begin() as connection: ...
    """
    target = conninfo(url, application_name=application_name)

    def connect() -> psycopg.Connection:
        return psycopg.connect(target, prepare_threshold=None)

    made = create_engine("postgresql+psycopg://", creator=connect)
    event.listen(made, "begin", _begin)
    return made


def _begin(connection: Connection) -> None:
    connection.execute(select(func.set_config("jit", "off", True)))


@contextmanager
def translated() -> Iterator[None]:
    """Turn what PostgreSQL says about the connection or the schema into our own errors."""
    try:
        yield
    except DBAPIError as error:
        raise _translate(error.orig if isinstance(error.orig, psycopg.Error) else error) from error
    except psycopg.Error as error:
        raise _translate(error) from error


def _translate(error: Exception) -> Exception:
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
        return SchemaMismatch(None, 1)
    return DatabaseUnavailable(reason(error))


_REMEDIES: dict[type[Exception], str] = {
    psycopg.errors.InsufficientPrivilege: "the role lacks the right; see `outbox grant`",
    psycopg.errors.ReadOnlySqlTransaction: "is it a standby? give the url of the primary",
    psycopg.errors.LockNotAvailable: "another session holds a lock",
}


def reason(error: Exception) -> str:
    """Return what went wrong in one line without addresses of memory or passwords.

    Of what the server says it is the first line: the others quote statements and data.
    """
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    message = primary or str(error).partition("\nMultiple connection attempts")[0]
    remedy = next((text for kind, text in _REMEDIES.items() if isinstance(error, kind)), None)
    return "; ".join(filter(None, (_one_line(message) or type(error).__name__, remedy)))


def _one_line(message: str) -> str:
    """libpq says the same twice when it tried with and without encryption."""
    told: list[str] = []
    for line in (" ".join(line.split()) for line in message.splitlines()):
        if not any(before.endswith(line) for before in told):
            told.append(line)
    return " ".join(told)
