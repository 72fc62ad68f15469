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


@pytest.fixture(autouse=True)
def discretion() -> Iterator[None]:
    """No secret, no body and no query of a URL stands in any line that a test made us log."""
    yield
    assert logs.told(logs.take()) == []


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that answers 200 until it is told otherwise."""
    with Receiver() as server:
        yield server
