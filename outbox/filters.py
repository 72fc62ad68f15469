"""Filters of subscriptions: SQL/JSON paths over an event's data.

PostgreSQL evaluates them (`outbox.passes`), so PostgreSQL says what is one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import Text, cast, literal, select
from sqlalchemy.exc import DBAPIError

from .drivers import told
from .encoding import check_text
from .errors import InvalidInput
from .tables import JsonPath

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_FILTER = 4_096  # characters


def check_filter(connection: Connection, filter: str) -> str:
    """Return `filter` if a subscription may have it; raises InvalidInput with the reason.

    PostgreSQL itself is asked, in a savepoint, so that a bad one harms no transaction.
    """
    check_text("filter", filter, MAX_FILTER)
    parsed = select(cast(cast(literal(filter, Text), JsonPath), Text))
    try:
        with connection.begin_nested():
            canonical = connection.execute(parsed).scalar_one()
    except DBAPIError as error:
        code, message = told(error)
        if code in _NOT_A_PATH:
            raise InvalidInput("filter", f"is not an SQL/JSON path: {message}") from error
        raise
    if '$""' in _QUOTED.sub('""', canonical):
        raise InvalidInput("filter", "must not use variables; there is nothing to set them")
    return filter


_NOT_A_PATH = {"42601", "22P02", "2201B", "22023", "42804", "54001"}
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
