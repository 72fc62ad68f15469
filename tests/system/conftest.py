"""Fixtures for tests that run real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import pg

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def own_cluster() -> Iterator[pg.Cluster]:
    """A PostgreSQL that the test may stop, restart and kill."""
    with pg.own_cluster() as cluster:
        yield cluster
