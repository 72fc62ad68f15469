"""Subscriptions: what they may be, and every change as a fact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

import outbox
from outbox import Event, InvalidInput, NotFound, WrongState, subscriptions
from outbox.signing import secret_key
from outbox.subscriptions import Author
from tests.databases import Database, engine_at
from tests.factories import BY, rows, subscribe, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

URL = "https://example.com/hooks"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - a public vector


def changes(connection: Connection) -> list[tuple[Any, ...]]:
    return rows(
        connection,
        "SELECT revision, change, actor, command, after ->> 'state'"
        " FROM outbox.subscription_change ORDER BY id",
    )


def test_add(db: Connection) -> None:
    """A new subscription is active; it is returned as it is stored, with its secret."""
    added, secret = subscriptions.add(
        db,
        URL,
        ["invoice.*", "user.created", "invoice.*"],
        by=BY,
        tenant="acme",
        filter="$.amount  > 100",
        headers={"X-Team": "billing"},
        schedule=[0, 0.5, 60],
    )

    assert (added.tenant, added.url, added.types) == ("acme", URL, ("invoice.*", "user.created"))
    assert (added.filter, added.headers) == ("$.amount  > 100", {"X-Team": "billing"})
    assert (added.schedule, added.state, added.revision) == ((0.0, 0.5, 60.0), "active", 1)
    assert subscriptions.show(db, added.id) == added
    assert secret is not None
    assert len(secret_key(secret)) == 32
    assert rows(db, "SELECT subscription_id, sealed FROM outbox.secret") == [(added.id, secret)]


def test_own_secret(db: Connection) -> None:
    """A secret that the receiver has already can be brought along."""
    _, secret = subscriptions.add(db, URL, ["*"], by=BY, secret_text=SECRET)

    assert secret == SECRET


def test_secrets_differ(db: Connection) -> None:
    """Each subscription has a secret of its own."""
    made = {subscriptions.add(db, URL, ["*"], by=BY)[1] for _ in range(3)}

    assert len(made) == 3


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("url", {"url": ""}),
        ("url", {"url": "ftp://example.com/"}),
        ("url", {"url": "https:///path"}),
        ("url", {"url": "http://example.com:65558/"}),
        ("url", {"url": "http://example.com:0/"}),
        ("url", {"url": "http://ada:pw@example.com/"}),
        ("url", {"url": "http://example.com/#part"}),
        ("url", {"url": "http://exa mple.com/"}),
        ("url", {"url": "http://example.com/\r\nX: y"}),
        ("url", {"url": "http://" + "a" * 3000}),
        ("types", {"types": []}),
        ("types", {"types": ["a.b", "a..b"]}),
        ("types", {"types": ["*.paid"]}),
        ("tenant", {"tenant": ""}),
        ("filter", {"filter": "amount >"}),
        ("header", {"headers": {"Webhook-Id": "1"}}),
        ("header", {"headers": {"Content-Length": "1"}}),
        ("header", {"headers": {"A B": "1"}}),
        ("header", {"headers": {"A": "1\r\nB: 2"}}),
        ("headers", {"headers": {f"A{n}": "1" for n in range(21)}}),
        ("schedule", {"schedule": []}),
        ("schedule", {"schedule": [-1]}),
        ("schedule", {"schedule": [float("nan")]}),
        ("secret", {"secret_text": "whsec_short"}),
        ("secret", {"secret_text": SECRET.removeprefix("whsec_")}),
    ],
)
def test_mistakes(db: Connection, field: str, options: dict[str, Any]) -> None:
    """A mistake names its field; nothing is stored, and the transaction goes on."""
    with pytest.raises(InvalidInput) as caught:
        subscriptions.add(db, **{"url": URL, "types": ["*"], "by": BY, **options})

    assert caught.value.field == field
    assert options.get("secret_text", "whsec_?") not in str(caught.value)
    assert value(db, "SELECT count(*) FROM outbox.subscription") == 0


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_every_driver(committed_db: Database, driver: str) -> None:
    """Subscriptions can be managed on every driver; a bad filter is told from an outage."""
    with engine_at(committed_db.url, driver).begin() as connection:
        id = subscribe(connection, filter="$.a", headers={"A": "1"}, schedule=[1]).id
        with pytest.raises(InvalidInput, match="filter"):
            subscribe(connection, filter="a >")
        found = subscriptions.pause(connection, id, by=BY)

    assert (found.headers, found.schedule, found.state) == ({"A": "1"}, (1.0,), "paused")


def test_changes_are_facts(db: Connection) -> None:
    """Each change tells who made it, from where, and what the subscription was afterwards."""
    id = subscribe(db).id
    grace = Author("grace", "outbox subscriptions pause")
    paused = subscriptions.pause(db, id, by=grace, reason="maintenance")
    resumed = subscriptions.resume(db, id, by=BY)
    removed = subscriptions.remove(db, id, by=BY)

    assert changes(db) == [
        (1, "added", "ada", "a test", "active"),
        (2, "paused", "grace", "outbox subscriptions pause", "paused"),
        (3, "resumed", "ada", "a test", "active"),
        (4, "removed", "ada", "a test", "removed"),
    ]
    assert [c.revision for c in (paused, resumed, removed)] == [2, 3, 4]
    assert (paused.state_reason, resumed.state_reason) == ("maintenance", None)


def test_a_change_is_the_whole_row(db: Connection) -> None:
    """The row after the last change is the row as it stands, without any secret."""
    id, secret = (lambda added: (added[0].id, added[1]))(subscriptions.add(db, URL, ["*"], by=BY))
    subscriptions.pause(db, id, by=BY)
    query = """
        SELECT after = to_jsonb(s), after::text FROM outbox.subscription_change c
        JOIN outbox.subscription s ON s.id = c.subscription_id AND s.revision = c.revision
    """
    ((same, text),) = rows(db, query)

    assert same is True
    assert secret not in text


@pytest.mark.parametrize("change", [subscriptions.pause, subscriptions.resume])
def test_no_change_is_no_fact(db: Connection, change: Callable[..., Any]) -> None:
    """To pause what is paused, or resume what is active, changes nothing."""
    id = subscribe(db).id
    before = change(db, id, by=BY)
    told = len(changes(db))

    assert change(db, id, by=BY) == before
    assert len(changes(db)) == told


@pytest.mark.parametrize(
    "change", [subscriptions.pause, subscriptions.resume, subscriptions.remove]
)
def test_removed_is_for_good(db: Connection, change: Callable[..., Any]) -> None:
    """Nothing can be done with a removed subscription, nor with an unknown one."""
    id = subscribe(db).id
    subscriptions.remove(db, id, by=BY)

    with pytest.raises(WrongState, match="is removed"):
        change(db, id, by=BY)
    with pytest.raises(NotFound):
        change(db, UUID(int=0), by=BY)


def test_disabled_by_a_worker(db: Connection) -> None:
    """A person can resume or remove what a worker disabled, but not pause it."""
    id = subscribe(db).id
    db.exec_driver_sql("UPDATE outbox.subscription SET state = 'disabled', state_reason = 'gone'")

    with pytest.raises(WrongState, match="is disabled"):
        subscriptions.pause(db, id, by=BY)
    assert subscriptions.resume(db, id, by=BY).state_reason is None


def test_remove_cancels(db: Connection) -> None:
    """Removing ends what is open as cancelled, with the reason, and deletes the secret."""
    kept, removed = subscribe(db).id, subscribe(db).id
    for id, attempt in ((kept, 0), (removed, 0), (removed, 3)):
        db.exec_driver_sql(f"""
            WITH made AS (
                INSERT INTO outbox.delivery (event_id, subscription_id)
                VALUES (outbox.uuid7(), '{id}') RETURNING *
            )
            INSERT INTO outbox.delivery_queue
                (delivery_id, subscription_id, event_id, due_at, attempt, failures)
            SELECT id, subscription_id, event_id, now(), {attempt}, {attempt} FROM made
        """)  # noqa: S608 - ids
    subscriptions.remove(db, removed, by=BY)
    query = """
        SELECT subscription_id, attempt, outcome, error
        FROM outbox.attempt JOIN outbox.delivery ON id = delivery_id ORDER BY attempt
    """

    assert rows(db, query) == [
        (removed, 0, "cancelled", "removed by ada"),
        (removed, 3, "cancelled", "removed by ada"),
    ]
    assert rows(db, "SELECT subscription_id FROM outbox.delivery_queue") == [(kept,)]
    assert rows(db, "SELECT subscription_id FROM outbox.secret") == [(kept,)]
    assert rows(db, "SELECT subscription_id FROM outbox.subscription_type") == [(kept,)]


def test_list(db: Connection) -> None:
    """Subscriptions are listed oldest first, of one tenant or all, removed ones if asked for."""
    x, y, every = (subscribe(db, tenant=tenant) for tenant in ("x", "y", None))
    removed = subscriptions.remove(db, subscribe(db).id, by=BY)

    assert subscriptions.list_subscriptions(db) == [x, y, every]
    assert subscriptions.list_subscriptions(db, tenant="y") == [y]
    assert subscriptions.list_subscriptions(db, removed=True) == [x, y, every, removed]


def test_rolled_back(db: Connection) -> None:
    """A subscription lives and dies with the caller's transaction."""
    savepoint = db.begin_nested()
    subscribe(db)
    savepoint.rollback()

    assert changes(db) == []
    assert outbox.emit(db, Event(type="a.b"))
