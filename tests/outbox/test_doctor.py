"""The examination as a whole: on what it may not see, on other schemas, and that it only reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from outbox import (
    __version__,
    doctor,
    findings,
)  # fmt: skip
from outbox.findings import ERROR, OK, UNKNOWN, Patient
from outbox.keyring import Keyring, new_key
from tests.factories import LOOPBACK, subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from tests.databases import Database

KEYRING = Keyring.read(new_key())


def test_all_well(db: Connection) -> None:
    """On a healthy database nothing is bad; only what the tests run without is."""
    db.execute(
        text("INSERT INTO outbox.worker (host, pid, version) VALUES ('a', 1, :v)"),
        {"v": __version__},
    )
    subscribe(db, keyring=KEYRING)

    found = doctor.examine(db, allow=LOOPBACK, keyring=KEYRING)

    bad = {each.name for each in found if each.verdict != OK}
    assert bad <= {"fsync", "full_page_writes", "synchronous_commit"}
    assert [each.name for each in found] == [check.name for check in doctor.CHECKS]


def test_a_reduced_role(db: Connection) -> None:
    """What a role may not see is unknown; the other checks go on."""
    for statement in (
        "CREATE ROLE onlooker", "GRANT USAGE ON SCHEMA outbox TO onlooker",
        "GRANT SELECT ON outbox.schema_version, outbox.worker TO onlooker",
        "SET LOCAL ROLE onlooker",
    ):  # fmt: skip
        db.execute(text(statement))

    found = {each.name: each for each in doctor.examine(db, allow=LOOPBACK, keyring=KEYRING)}

    assert found["schema"].verdict == OK
    assert found["workers"].verdict == ERROR
    assert found["partitions ahead"].verdict == OK
    for name in ("keys of secrets", "oldest event", "abandoned claims", "refused URLs"):
        assert (found[name].verdict, "not visible" in found[name].found) == (UNKNOWN, True)


def test_a_role_that_sees_nothing(db: Connection) -> None:
    """Without any right all of ours is unknown, and PostgreSQL is still looked at."""
    db.execute(text("CREATE ROLE stranger"))
    db.execute(text("SET LOCAL ROLE stranger"))

    found = {each.name: each.verdict for each in doctor.examine(db, keyring=KEYRING)}

    assert (found["schema"], found["workers"], found["server"]) == (UNKNOWN, UNKNOWN, OK)


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP SCHEMA outbox CASCADE",),
        ("DROP TABLE outbox.replay CASCADE", "UPDATE outbox.schema_version SET version = 2"),
    ],
    ids=["none", "old"],
)
def test_another_schema(db: Connection, statements: tuple[str, ...]) -> None:
    """The schema is what is wrong; of the rest only PostgreSQL is looked at."""
    for statement in statements:
        db.execute(text(statement))

    found = {each.name: each.verdict for each in doctor.examine(db, keyring=KEYRING)}

    assert (found["schema"], found["replays"], found["workers"]) == (ERROR, UNKNOWN, UNKNOWN)
    assert (found["server"], found["clock"]) == (OK, OK)


def test_what_takes_too_long_is_unknown(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that takes longer than the patience is given up, the next check goes on."""
    slow = replace_check(
        "replays", lambda patient: patient.connection.execute(text("SELECT pg_sleep(9)"))
    )
    monkeypatch.setattr(doctor, "CHECKS", (slow, doctor.SCHEMA))
    monkeypatch.setitem(doctor._SETTINGS, "statement_timeout", "50ms")

    found = doctor.examine(db, keyring=KEYRING)

    assert [each.verdict for each in found] == [UNKNOWN, OK]
    assert "not seen within" in found[0].found


def replace_check(name: str, look: Callable[[Patient], Any]) -> findings.Check:
    return next(check for check in doctor.CHECKS if check.name == name)._replace(look=look)


def test_it_only_reads(db: Connection) -> None:
    """The transaction cannot write any more."""
    doctor.examine(db, keyring=KEYRING)

    with pytest.raises(DBAPIError, match="read-only transaction"):
        db.execute(text("DELETE FROM outbox.worker"))


def test_a_lost_connection_is_no_finding(
    committed_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the examination."""
    kill = replace_check("replays", lambda patient: patient.connection.execute(
        text("SELECT pg_terminate_backend(pg_backend_pid())")))  # fmt: skip
    monkeypatch.setattr(doctor, "CHECKS", (kill, doctor.SCHEMA))

    with committed_db.engine.connect() as connection, pytest.raises(DBAPIError):
        doctor.examine(connection, keyring=KEYRING)
