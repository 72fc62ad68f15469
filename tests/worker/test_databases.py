"""The databases of a worker: how they are given, what they are called, what is refused."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING

import pytest

from outbox.errors import DatabaseUnavailable, InvalidInput, OutboxError, SchemaMismatch
from outbox.worker import databases as module
from outbox.worker.databases import Database, databases, name_of
from outbox.worker.process import decisive, exit_code
from outbox.worker.settings import Settings
from outbox.worker.supervisor import FUTILE

if TYPE_CHECKING:
    from collections.abc import Sequence

ONE, OTHER = "postgresql://ada:hunter2@db1/app", "postgresql://ada:hunter2@db2/app"
AWAY, WRONG = DatabaseUnavailable("refused"), SchemaMismatch(1, 3)


def names(*urls: str) -> list[str]:
    return [database.name for database in databases(urls)]


def test_examples() -> None:
    """What the docstrings show is so."""
    assert doctest.testmod(module).failed == 0


def test_the_only_one_has_no_name() -> None:
    """So nothing is said of it that would be said twice."""
    assert names(ONE) == [""]


def test_names() -> None:
    """A database is called by its host, its port where it is not the usual one, and its name."""
    assert names(ONE, OTHER) == ["db1/app", "db2/app"]
    assert names("postgresql://db1:5433/app", f"{ONE}?connect_timeout=1") == [
        "db1:5433/app", "db1/app",
    ]  # fmt: skip
    assert names("postgresql://a,b/app?target_session_attrs=read-write", ONE)[0] == "a,b/app"
    assert names("postgresql:///app?host=/run/pg", ONE)[0] == "/run/pg/app"
    assert names("postgresql://?service=x", ONE)[0] == "database 1"


def test_a_name_is_one_line() -> None:
    """What stands in a URL steers no terminal and makes no second line in the log."""
    assert name_of("host=a dbname='x\ny'", 2) == "database 2"


@pytest.mark.parametrize(
    ("urls", "told"),
    [
        ((ONE, "mysql://ada:hunter2@db/app"), "database url 2: must be postgresql://"),
        ((ONE, OTHER, f"{ONE}?sslmode=require"), "database url: db1/app is given twice"),
    ],
)
def test_wrong(urls: tuple[str, ...], told: str) -> None:
    """What is wrong is told with its place or its name, and without a password."""
    with pytest.raises(InvalidInput) as refused:
        databases(urls)

    assert str(refused.value).startswith(told)
    assert "hunter2" not in str(refused.value)


def test_target() -> None:
    """Each is connected to as the worker."""
    assert databases((ONE,)) == [
        Database("user=ada password=hunter2 dbname=app host=db1"
                 " application_name=outbox-worker connect_timeout=10")
    ]  # fmt: skip


def test_settings() -> None:
    """One URL may stand alone; there is a request at least for each of several."""
    assert Settings(database_url=ONE).database_urls == (ONE,)
    assert Settings(database_url=(ONE, OTHER), concurrency=2).database_urls == (ONE, OTHER)
    with pytest.raises(InvalidInput, match="concurrency: must be at least one for each database"):
        Settings(database_url=(ONE, OTHER), concurrency=1)


# What a worker makes of it.


@pytest.mark.parametrize(
    ("faults", "fault"),
    [
        ([None], None),
        ([AWAY], AWAY),
        ([None, AWAY], None),
        ([AWAY, AWAY], AWAY),
        ([AWAY, WRONG], WRONG),
        ([None, WRONG], WRONG),
    ],
)
def test_what_decides(faults: Sequence[OutboxError | None], fault: OutboxError | None) -> None:
    """A wrong setting is refused; of several one may be away, but not all."""
    assert decisive(faults) is fault


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0], 0), ([1], 1), ([FUTILE], FUTILE), ([0, FUTILE], 1), ([FUTILE, FUTILE], FUTILE)],
)
def test_exit_code(codes: list[int], code: int) -> None:
    """To start again is futile if it is for all; one that failed makes the whole fail."""
    assert exit_code(codes) == code
