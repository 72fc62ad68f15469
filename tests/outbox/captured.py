"""Captures tables of a host, and reads what is told of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from outbox import captures
from tests.factories import BY, rows

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from outbox.captures import Capture

PARTS = """
CREATE TABLE public.part (region text, id int, note text, secret int, PRIMARY KEY (region, id))
    PARTITION BY LIST (region);
CREATE TABLE public.part_a PARTITION OF public.part FOR VALUES IN ('a');
CREATE TABLE public.part_b (gone int, note text, secret int, id int NOT NULL, region text NOT NULL);
ALTER TABLE public.part_b DROP COLUMN gone;
ALTER TABLE public.part ATTACH PARTITION public.part_b FOR VALUES IN ('b')
"""


def run(connection: Connection, *statements: str) -> None:
    """Run statements of the host as they are, whatever colons and percents they hold."""
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def add(
    connection: Connection, table: str = "host.users", type: str = "user", **options: Any
) -> Capture:
    """Capture a table."""
    return captures.add(connection, table, type, by=BY, **options)


def told(connection: Connection) -> list[tuple[str, str]]:
    """The type and the data of each event, as texts, in the order of the ids."""
    found = rows(connection, "SELECT type, data::text FROM outbox.event ORDER BY id")
    return [(type, data) for type, data in found]


def data(connection: Connection) -> list[Any]:
    """The data of each event."""
    return [json.loads(text) for _, text in told(connection)]
