"""Least privilege: what each duty may do, and everything that it may not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from outbox import Event, InvalidInput, emit, grants
from outbox.repairs import deliver_again
from tests.factories import emit_many, event, rows, subscribe, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

ROLE = 'an "odd" role'
FACTS = ("event", "event_key", "delivery", "attempt", "subscription_change")
TABLES = """
SELECT relname::text FROM pg_class
WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'p')
"""


@contextmanager
def acting(db: Connection, role: str = ROLE) -> Iterator[None]:
    """Everything within is done by the role."""
    db.execute(text(f"SET LOCAL ROLE {quoted(role)}"))
    yield
    db.execute(text("RESET ROLE"))


def quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'


@pytest.fixture
def role(db: Connection) -> str:
    """A role that may do nothing yet."""
    db.execute(text(f"CREATE ROLE {quoted(ROLE)}"))
    return ROLE


def refused(db: Connection, statement: str) -> bool:
    """Whether PostgreSQL refuses it for want of a right."""
    try:
        with db.begin_nested():
            db.exec_driver_sql(statement)
    except DBAPIError as error:
        return getattr(error.orig, "sqlstate", None) == "42501"
    return False


def allowed(db: Connection, table: str) -> set[str]:
    """What the role may do with a table, or with any column of it."""
    verbs = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER", "REFERENCES")
    query = "SELECT has_table_privilege(:role, :table, :verb)"
    name = f'outbox."{table}"'
    return {verb for verb in verbs if value(db, query, role=ROLE, table=name, verb=verb)}


def test_a_stranger_may_nothing(db: Connection, role: str) -> None:
    """Who was granted nothing does not even see the schema."""
    with acting(db):
        assert refused(db, "SELECT FROM outbox.event")
        assert refused(db, "SELECT outbox.uuid7()")


def test_a_host_inserts_events_and_nothing_else(db: Connection, role: str) -> None:
    """Plain, through emit and with a key; it reads no event back, and touches nothing else."""
    grants.grant(db, "host", role)
    with acting(db):
        db.exec_driver_sql("""INSERT INTO outbox.event (type, data) VALUES ('a.b', '{"id": 1}')""")
        emit(db, Event(type="a.b", key="once"))
        assert emit(db, Event(type="a.b", key="twice")) == emit(db, Event(type="a.b", key="twice"))
        assert refused(db, "SELECT FROM outbox.event")
        assert refused(db, "SELECT outbox.make_partitions(1)")

    rights = {name: allowed(db, name) for (name,) in rows(db, TABLES)}
    assert {name: verbs for name, verbs in rights.items() if verbs} == {
        "event": {"INSERT"}, "event_key": {"SELECT", "INSERT"},
    }  # fmt: skip
    assert value(db, "SELECT count(*) FROM outbox.event_queue") == 3


@pytest.mark.parametrize("duty", ["worker", "operator"])
def test_nobody_changes_a_fact(db: Connection, role: str, duty: str) -> None:
    """A worker and an operator add facts; they change none, nor any partition by its name."""
    grants.grant(db, duty, role)

    for fact in FACTS:
        assert allowed(db, fact) <= {"SELECT", "INSERT"}
    partitions = [name for (name,) in rows(db, TABLES) if name.rpartition("_")[2].isdigit()]
    assert partitions
    assert {verb for name in partitions for verb in allowed(db, name)} == set()
    with acting(db):
        assert refused(db, "ALTER TABLE outbox.event DISABLE TRIGGER refuse_change")
        assert refused(db, "DROP TABLE outbox.attempt")
        assert refused(db, "CREATE TABLE outbox.mine ()")
        assert not refused(db, "SELECT outbox.make_partitions(7)")


def test_a_worker_changes_of_a_subscription_its_state_alone(db: Connection, role: str) -> None:
    """It can stop one; it cannot send elsewhere, and makes no secrets."""
    grants.grant(db, "worker", role)
    subscribe(db)
    with acting(db):
        assert refused(db, "UPDATE outbox.subscription SET url = 'http://evil.example'")
        assert refused(db, "UPDATE outbox.secret SET sealed = ''")
        assert refused(db, "INSERT INTO outbox.subscription (url, types) VALUES ('', '{*}')")
        assert not refused(db, "UPDATE outbox.subscription SET state = 'disabled'")


def test_a_reader_sees_all_but_secrets(db: Connection, role: str) -> None:
    """It reads every table but that one, and writes none."""
    grants.grant(db, "reader", role)
    names = {name for (name,) in rows(db, f"{TABLES} AND NOT relispartition")}

    assert {name: allowed(db, name) for name in names} == {
        name: set() if name == "secret" else {"SELECT"} for name in names
    }


@pytest.mark.parametrize("by_setting", [False, True])
def test_a_reader_of_one_tenant(db: Connection, role: str, by_setting: bool) -> None:
    """It sees the events, subscriptions, deliveries and attempts of its tenant; others see all."""
    grants.grant(db, "host", "pg_monitor")
    for _ in range(2):  # a second time is no harm
        grants.grant(
            db, "reader", role, tenant=None if by_setting else "acme", by_setting=by_setting
        )
    seen = ("event", "subscription", "delivery", "delivery_queue", "attempt")
    for tenant in ("acme", "evil", None):
        to = subscribe(db, tenant=tenant).id
        (id,) = emit_many(db, [event(tenant=tenant)])
        deliver_again(db, [(id, to)])
    db.exec_driver_sql(
        "INSERT INTO outbox.attempt (delivery_id, attempt, outcome)"
        " SELECT id, 1, 'retry' FROM outbox.delivery"
    )

    with acting(db):
        if by_setting:
            assert value(db, "SELECT count(*) FROM outbox.event") == 0
            db.exec_driver_sql("SET LOCAL outbox.tenant = 'acme'")
        counts = [value(db, f"SELECT count(*) FROM outbox.{name}") for name in seen]  # noqa: S608
        tenants = value(db, "SELECT array_agg(DISTINCT tenant) FROM outbox.event")
        assert refused(db, "SELECT FROM outbox.secret")
        assert refused(db, "SELECT FROM outbox.subscription_change")
        assert refused(db, "INSERT INTO outbox.event (type, data) VALUES ('a.b', '1')")
    with acting(db, "pg_monitor"):
        emit(db, Event(type="a.b", tenant="evil"))

    assert (counts, tenants) == ([1, 1, 1, 1, 1], ["acme"])
    assert value(db, "SELECT count(*) FROM outbox.event") == 4


def test_revoke(db: Connection, role: str) -> None:
    """What was granted is taken back, policies as well."""
    for duty in grants.DUTIES:
        grants.grant(db, duty, role)
    grants.grant(db, "reader", role, tenant="acme")
    grants.revoke(db, role)

    assert {verb for (name,) in rows(db, TABLES) for verb in allowed(db, name)} == set()
    assert rows(db, "SELECT FROM pg_policies WHERE policyname <> 'everyone'") == []
    with acting(db):
        assert refused(db, "SELECT FROM outbox.event")
    db.execute(text(f"DROP ROLE {quoted(role)}"))  # nothing depends on it any more


@pytest.mark.parametrize(
    ("duty", "options", "message"),
    [
        ("owner", {}, "duty: must be one of host, worker, operator, reader"),
        ("host", {"tenant": "acme"}, "tenant: is for readers: the others work for all tenants"),
        (
            "reader", {"tenant": "acme", "by_setting": True},
            "tenant: is given, or comes from the setting: not both",
        ),
        ("worker", {}, "worker: there is no role 'nobody; DROP' in this PostgreSQL"),
    ],
)  # fmt: skip
def test_wrong_grants(db: Connection, duty: str, options: dict[str, object], message: str) -> None:
    """What makes no sense is refused before anything is granted."""
    with pytest.raises(InvalidInput) as caught:
        grants.grant(db, duty, "nobody; DROP", **options)  # type: ignore[arg-type]

    assert str(caught.value) == message
