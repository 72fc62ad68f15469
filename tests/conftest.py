"""Fixtures for all tests; databases.py says which database to take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import logs
from .backlog import backlog, backlogs
from .databases import cloned_db, committed_db, db, server, shared_database, template
from .receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "backlog", "backlogs", "cloned_db", "committed_db", "db", "receiver", "server",
    "shared_database", "template",
]  # fmt: skip


def pytest_configure() -> None:
    """From the first line on."""
    logs.listen()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the logs of all the others comes last."""
    items.sort(key=lambda item: "test_logs.py" in item.nodeid)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that answers 200 until it is told otherwise."""
    with Receiver() as server:
        yield server
