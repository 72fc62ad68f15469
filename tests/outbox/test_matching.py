"""Matching: which events a subscription gets, asked of the statement that fans out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import outbox
from outbox import Event, InvalidInput, subscriptions
from outbox.worker.store import query
from tests.factories import BY, event, rows, subscribe, value

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection


def fan_out(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    driver.execute(query("fan_out"), {"limit": 500, "owner": 0, "only": None})


def delivered_to(connection: Connection, event: Event) -> set[UUID]:
    """The subscriptions that get a delivery of the event."""
    id = outbox.emit(connection, event)
    fan_out(connection)
    found = rows(
        connection, "SELECT subscription_id FROM outbox.delivery WHERE event_id = :id", id=id
    )
    assert len(found) == len(set(found))
    return {row[0] for row in found}


def matches(connection: Connection, event: Event, **options: Any) -> bool:
    """Whether a subscription with these options gets the event."""
    return delivered_to(connection, event) == {subscribe(connection, **options).id}


# Types.


@pytest.mark.parametrize(
    ("pattern", "type", "expected"),
    [
        ("*", "invoice.paid", True),
        ("invoice.paid", "invoice.paid", True),
        ("invoice.paid", "invoice.paid.late", False),
        ("invoice.paid", "invoice.pai", False),
        ("invoice.*", "invoice.paid", True),
        ("invoice.*", "invoice.paid.late", True),
        ("invoice.*", "invoice", False),
        ("invoice.*", "invoices.paid", False),
        ("inv*", "invoice.paid", True),
        ("invoice.paid*", "invoice.paid", True),
        ("add-*", "add-user", True),
        ("mfa/setup/*", "mfa/setup/verify", True),
        ("User:*", "User:Created", True),
        ("user:*", "User:Created", False),
        ("a_c", "abc", False),
        ("a_*", "abc", False),
    ],
)
def test_types(db: Connection, pattern: str, type: str, expected: bool) -> None:
    """A pattern is a type, or the beginning of one; case and every character count."""
    id = subscribe(db, types=[pattern]).id

    assert delivered_to(db, event(type)) == ({id} if expected else set())


PARTS = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(type=PARTS.map(".".join), cut=st.integers(0, 12), star=st.booleans(), other=PARTS)
def test_patterns_are_prefixes(
    db: Connection, type: str, cut: int, star: bool, other: list[str]
) -> None:
    """The candidates of a type are itself and each of its prefixes with a star, and no more."""
    stem = (type[:cut] if cut % 2 else ".".join(other)) + ("*" if star else "")
    expected = type.startswith(stem[:-1]) if star else type == stem

    assert (
        value(db, "SELECT :stem = ANY (outbox.patterns(:type))", stem=stem, type=type) == expected
    )


def test_several_patterns_make_one_delivery(db: Connection) -> None:
    """A subscription gets an event once, however many of its patterns fit."""
    id = subscribe(db, types=["*", "invoice.*", "invoice.paid"]).id

    assert delivered_to(db, event("invoice.paid")) == {id}


def test_nothing_matches(db: Connection) -> None:
    """An event that nobody wants is kept, and is out of the queue."""
    subscribe(db, types=["user.*"])

    assert delivered_to(db, event("invoice.paid")) == set()
    assert value(db, "SELECT count(*) FROM outbox.event") == 1
    assert value(db, "SELECT count(*) FROM outbox.event_queue") == 0


# Tenants.


def test_tenants(db: Connection) -> None:
    """A tenant's subscription gets that tenant's events; one without a tenant gets all."""
    x, y = (subscribe(db, tenant=tenant).id for tenant in ("x", "y"))
    everyone = subscribe(db).id

    assert delivered_to(db, event(tenant="x")) == {x, everyone}
    assert delivered_to(db, event(tenant="y")) == {y, everyone}
    assert delivered_to(db, event(tenant="X")) == {everyone}
    assert delivered_to(db, event()) == {everyone}


def test_batch_of_tenants_and_types(db: Connection) -> None:
    """Events of one batch do not mix: each goes where it would go alone."""
    x = subscribe(db, tenant="x", types=["a.*"]).id
    every = subscribe(db, types=["b.*"], filter="$.n > 1").id
    batch = [
        event(t, tenant=w, data={"n": n})
        for t in ("a.a", "b.b")
        for w in ("x", "y")
        for n in (1, 2)
    ]
    ids = outbox.emit_many(db, batch)
    fan_out(db)

    expected = {(ids[0], x), (ids[1], x), (ids[5], every), (ids[7], every)}
    assert set(rows(db, "SELECT event_id, subscription_id FROM outbox.delivery")) == expected


# Filters.


@pytest.mark.parametrize(
    ("filter", "data", "expected"),
    [
        ("$.amount > 100", {"amount": 101}, True),
        ("$.amount > 100", {"amount": 100.5}, True),
        ("$.amount > 100", {"amount": 100}, False),
        ("$.amount > 100", {"amount": "101"}, False),
        ("$.amount > 100", {}, False),
        ("$.amount > 100", [], False),
        ("$.amount > 100", None, False),
        ("$.amount > 100 && $.currency == \"EUR\"", {"amount": 101, "currency": "EUR"}, True),
        ("$.amount > 100 && $.currency == \"EUR\"", {"amount": 101, "currency": "USD"}, False),
        ("$.id", {"id": 0}, True),
        ("$.id", {"id": ""}, True),
        ("$.id", {"id": {}}, True),
        ("$.id", {"id": None}, False),
        ("$.id", {"id": False}, False),
        ("$.id", {"other": 1}, False),
        ("$.items[*] ? (@.price > 10)", {"items": [{"price": 1}, {"price": 11}]}, True),
        ("$.items[*] ? (@.price > 10)", {"items": [{"price": 1}]}, False),
        ("$.flags[*]", {"flags": [False, None, True]}, True),
        ("$.flags[*]", {"flags": [False, None]}, False),
        ("exists($.a.b)", {"a": {"b": None}}, True),
        ("strict $.a.b", {"a": {}}, False),
        ("strict $.a.b", {"a": {"b": 1}}, True),
        ("$.a + 1", {"a": 1}, True),
        ("$.a + 1", {"a": "x"}, False),
        ("1 / $.a", {"a": 0}, False),
        ("$.a.double() > 1", {"a": "x"}, False),
        ("$.name like_regex \"^a\"", {"name": "abc"}, True),
        ("$.name like_regex \"^a\"", {"name": 7}, False),
        ("$.day.datetime() > \"2026-01-01\".datetime()", {"day": "2026-01-31"}, True),
        ("$.day.datetime() > \"2026-01-01\".datetime()", {"day": "today"}, False),
        ("$.text == \"100 %s $x\"", {"text": "100 %s $x"}, True),
    ],
)  # fmt: skip
def test_filters(db: Connection, filter: str, data: Any, expected: bool) -> None:
    """A filter passes if its path yields what is neither false nor null; errors are silent."""
    id = subscribe(db, filter=filter).id

    assert delivered_to(db, event(data=data)) == ({id} if expected else set())


@pytest.mark.parametrize(
    "at", ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "2026-01-31", "12:00:00+01", "x"]
)
def test_filter_on_moments(db: Connection, at: str) -> None:
    """A filter that compares moments with and without a zone harms nobody else."""
    subscribe(db, filter='$.at.datetime() > "2026-01-01T00:00:00Z".datetime()')
    other = subscribe(db).id

    assert other in delivered_to(db, event(data={"at": at}))


@pytest.mark.parametrize(
    "filter",
    ["", "$.", "amount > 100", "$.a >", "$[", "$.a like_regex \"(\"", "$ ? (@", "$.a == 'x'",
     "$.a\n\0", "$.a > $limit", "$.a ? (@ == $x)", "$x", "$" + ".a" * 3000],
)  # fmt: skip
def test_what_is_no_filter(db: Connection, filter: str) -> None:
    """What PostgreSQL cannot evaluate for every event is refused, and the transaction goes on."""
    with pytest.raises(InvalidInput) as caught:
        subscribe(db, filter=filter)

    assert caught.value.field == "filter"
    assert value(db, "SELECT count(*) FROM outbox.subscription") == 0


def test_filter_with_a_dollar_in_text(db: Connection) -> None:
    """A dollar in a text or a key of a filter is no variable."""
    text = '$."$a" == "$\\"$b"'

    assert subscribe(db, filter=text).filter == text
    assert value(db, "SELECT count(*) FROM outbox.subscription") == 1


# States.


def test_paused_still_matches(db: Connection) -> None:
    """A paused subscription gets its deliveries, to be sent when it is resumed."""
    id = subscribe(db).id
    subscriptions.pause(db, id, by=BY)

    assert delivered_to(db, event()) == {id}
    assert subscriptions.resume(db, id, by=BY).state == "active"


def test_disabled_still_matches(db: Connection) -> None:
    """So does one that a worker disabled."""
    id = subscribe(db).id
    db.exec_driver_sql("UPDATE outbox.subscription SET state = 'disabled', state_reason = 'gone'")

    assert delivered_to(db, event()) == {id}


def test_removed_does_not_match(db: Connection) -> None:
    """A removed subscription gets nothing more."""
    subscriptions.remove(db, subscribe(db).id, by=BY)

    assert delivered_to(db, event()) == set()


def test_added_later(db: Connection) -> None:
    """A subscription gets what is fanned out after it was added, and nothing from before."""
    first = delivered_to(db, event())

    assert first == set()
    assert matches(db, event()) is False
    assert value(db, "SELECT count(*) FROM outbox.delivery") == 0


def test_schedule_delays_the_first_attempt(db: Connection) -> None:
    """The first delay of a subscription's schedule is waited before the first attempt."""
    subscribe(db, schedule=[60, 60])
    outbox.emit(db, event())
    fan_out(db)

    assert value(db, "SELECT due_at - now() = interval '60 s' FROM outbox.delivery_queue") is True
