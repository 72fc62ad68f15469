"""What a database error means: wait, or set something aside."""

from __future__ import annotations

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from outbox.worker.faults import in_a_line, is_data, is_transient


def error(code: str | None) -> psycopg.Error:
    found = psycopg.Error("what\nDETAIL:  more")
    found.sqlstate = code
    return found


@pytest.mark.parametrize(
    "code",
    ["22012", "22P02", "22P05", "23502", "23514", "0A000", "42704", "54001", "P0001", "57014"],
)
def test_data(code: str) -> None:
    """A statement that fails on its rows fails however often it is tried."""
    assert is_data(error(code))


@pytest.mark.parametrize(
    "code",
    [
        None,
        "08006",  # connection failure
        "25006",  # read-only: a failover
        "26000",  # no such prepared statement: a pooler changed the connection
        "28P01",  # invalid password
        "3D000",  # no such database
        "40001",  # serialization
        "40P01",  # deadlock
        "42501",  # a missing grant
        "42P01",  # no such table
        "42P05",  # duplicate prepared statement: a pooler again
        "53100",  # disk full
        "53300",  # too many connections
        "55P03",  # lock timeout
        "57P01",  # shutdown
        "57P03",  # starting up
        "58030",  # I/O
    ],
)
def test_state(code: str | None) -> None:
    """A server, connection or transaction in trouble says nothing about the data."""
    assert not is_data(error(code))


def test_transient() -> None:
    """A deadlock and a conflict are over with the next try; an outage is not."""
    assert [code for code in ("40001", "40P01", "55P03", "57P01") if is_transient(error(code))] == [
        "40001",
        "40P01",
        "55P03",
    ]


def test_in_a_line() -> None:
    """An error is told in its first line; one without words by its name."""
    assert in_a_line(error(None)) == "what"
    assert in_a_line(PoolTimeout("couldn't get a connection after 10.00 sec")) == "no connection"
    assert in_a_line(TimeoutError()) == "TimeoutError"
