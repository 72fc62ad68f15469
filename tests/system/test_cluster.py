"""The private PostgreSQL of restart tests does what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from .pg import Cluster

pytestmark = pytest.mark.system


def test_own_cluster(own_cluster: Cluster) -> None:
    """What was committed is there, at the same URL, after each way to stop."""
    with psycopg.connect(own_cluster.url) as connection:
        connection.execute("CREATE TABLE kept ()")
    own_cluster.restart_immediate()
    own_cluster.stop()
    own_cluster.start()
    own_cluster.kill()
    own_cluster.start()

    with psycopg.connect(own_cluster.url) as connection:
        connection.execute("SELECT FROM kept, outbox.event")
