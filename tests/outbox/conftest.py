"""Fixtures for the tests of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Connection


@pytest.fixture
def host(db: Connection) -> Connection:
    """A host with a table of users."""
    db.exec_driver_sql("""
        CREATE SCHEMA host;
        CREATE TABLE host.users (id int PRIMARY KEY, email text, org_id int, secret text)
    """)
    return db
