"""Changing subscriptions: only what is given, as a fact, and the history of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from outbox import InvalidInput, NotFound, WrongState, subscriptions
from outbox.signing import new_private_key
from outbox.subscription_settings import DEFAULTS, changed
from outbox.subscriptions import Author
from tests.factories import BY, LOOPBACK, rows, subscribe, value

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tests.databases import Database

URL = "https://example.com/hooks"
GRACE = Author("grace", "outbox subscriptions update")
EVERYTHING: dict[str, Any] = {
    "name": "acme/billing", "tenant": "acme", "filter": "$.amount > 100", "method": "PUT",
    "format": "raw", "schemes": ("github",), "headers": {"X-Team": "billing"},
    "user_agent": "acme/1", "timeout": 3.0, "schedule": (0.0, 5.0), "max_age": 3600.0,
    "max_in_flight": 5, "rate": 1.5, "burst": 2, "ordered": "skip",
}  # fmt: skip


def count_changes(connection: Connection) -> int:
    return int(value(connection, "SELECT count(*) FROM outbox.subscription_change"))


def test_only_what_is_given(db: Connection) -> None:
    """All else stays as it was, and the change is told as a fact."""
    before = subscribe(db, URL, **EVERYTHING)
    done = subscriptions.update(db, before.id, by=GRACE, url="https://example.com/new")

    assert done.before == before
    assert done.after.settings == changed(before.settings, {"url": done.after.url})
    assert [(d.name, d.before, d.after) for d in done.differs] == [
        ("url", URL, "https://example.com/new")
    ]
    assert subscriptions.show(db, before.id) == done.after
    assert rows(
        db,
        "SELECT change, actor, after ->> 'url' FROM outbox.subscription_change WHERE revision = 2",
    ) == [("updated", "grace", "https://example.com/new")]


def test_everything_and_back(db: Connection) -> None:
    """Each setting can be set and unset; it is then as if it had never been set."""
    plain = subscribe(db, URL)
    full = subscriptions.update(db, plain.id, by=BY, **EVERYTHING).after
    unset: dict[str, Any] = dict.fromkeys(DEFAULTS)
    bare = subscriptions.update(db, plain.id, by=BY, **unset).after

    assert {name: getattr(full, name) for name in EVERYTHING} == EVERYTHING
    assert bare.settings == plain.settings
    assert bare.revision == 3


def test_nothing_to_change(db: Connection) -> None:
    """What is so already is not written: no revision, no fact."""
    before = subscribe(db, URL, **EVERYTHING)
    done = subscriptions.update(db, before.id, by=BY, **EVERYTHING)

    assert (done.after, done.differs, done.secret) == (before, [], None)
    assert count_changes(db) == 1


def test_types_and_tenant_are_what_matching_finds(db: Connection) -> None:
    """The patterns follow the types and the tenant."""
    id = subscribe(db, types=["a.b", "*"]).id
    subscriptions.update(db, id, by=BY, types=["c.*"], tenant="acme")
    patterns = "SELECT pattern, tenant FROM outbox.subscription_type"

    assert rows(db, patterns) == [("c.*", "acme")]

    subscriptions.update(db, id, by=BY, tenant=None)

    assert rows(db, patterns) == [("c.*", "")]


def test_a_url_that_was_allowed_stays(db: Connection) -> None:
    """What another operator allowed is not judged again as long as it stays."""
    id = subscribe(db).id

    assert subscriptions.update(db, id, by=BY, timeout=5).after.timeout == 5
    with pytest.raises(InvalidInput, match="not a public address"):
        subscriptions.update(db, id, by=BY, url="http://127.0.0.1:8/")
    assert subscriptions.update(db, id, by=BY, url="http://127.0.0.1:8/", allow=LOOPBACK).differs


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("url", {"url": "nope"}), ("filter", {"filter": "$.a >"}), ("name", {"name": "taken"}),
        ("burst", {"burst": 3}), ("scheme", {"schemes": ("md5",)}), ("types", {"types": None}),
        ("secret", {"secret_text": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}),
    ],
)  # fmt: skip
def test_mistakes(db: Connection, field: str, changes: dict[str, Any]) -> None:
    """A mistake changes nothing, and the transaction goes on."""
    subscribe(db, name="taken")
    before = subscribe(db)
    with pytest.raises(InvalidInput) as caught:
        subscriptions.update(db, before.id, by=BY, **changes)

    assert caught.value.field == field
    assert subscriptions.show(db, before.id) == before


def test_who_cannot_be_changed(db: Connection) -> None:
    """A removed one cannot, a stopped one can and stays stopped."""
    id = subscribe(db).id
    subscriptions.pause(db, id, by=BY)

    assert subscriptions.update(db, id, by=BY, timeout=5).after.state == "paused"

    subscriptions.remove(db, id, by=BY)
    with pytest.raises(WrongState, match="it cannot be changed"):
        subscriptions.update(db, id, by=BY, timeout=6)
    with pytest.raises(NotFound):
        subscriptions.update(db, UUID(int=0), by=BY, timeout=6)


# Names.


def test_a_name_belongs_to_one(db: Connection) -> None:
    """A name is free again when its subscription is removed."""
    first = subscribe(db, name="billing").id
    with pytest.raises(InvalidInput, match="billing is the name of another subscription"):
        subscribe(db, name="billing")
    subscriptions.remove(db, first, by=BY)

    assert subscribe(db, name="billing").name == "billing"


# Secrets.


def secrets_of(connection: Connection) -> list[str]:
    found = rows(connection, "SELECT sealed FROM outbox.secret ORDER BY created_at, id")
    return [sealed for (sealed,) in found]


def test_a_scheme_that_the_secret_fits(db: Connection) -> None:
    """The secret stays when the new scheme signs with it."""
    id, secret = (lambda made: (made[0].id, made[1]))(subscriptions.add(db, URL, ["*"], by=BY))

    assert subscriptions.update(db, id, by=BY, schemes=("github", "stripe")).secret is None
    assert secrets_of(db) == [secret]


def test_a_scheme_that_needs_another_secret(db: Connection) -> None:
    """It gets a new one beside the old, which is returned as that of `add` is."""
    key = new_private_key(bytes(32))
    id = subscribe(db, secret_text=key).id
    done = subscriptions.update(db, id, by=BY, schemes=("standard", "github"))

    assert done.secret is not None
    assert done.secret.startswith("whsec_")
    assert secrets_of(db) == [key, done.secret]


def test_a_secret_of_ones_own_for_the_new_scheme(db: Connection) -> None:
    """It can be brought along, if it is needed."""
    id = subscribe(db, schemes=("none",)).id
    done = subscriptions.update(db, id, by=BY, schemes=("logto",), secret_text="signing-key")  # noqa: S106

    assert done.secret == "signing-key"  # noqa: S105
    with pytest.raises(InvalidInput, match="rotate-secret"):
        subscriptions.update(db, id, by=BY, schemes=("github",), secret_text="another")  # noqa: S106


def test_a_scheme_that_needs_none(db: Connection) -> None:
    """Without a signature no secret is made, and none is taken."""
    id = subscribe(db).id

    assert subscriptions.update(db, id, by=BY, schemes=("none",)).secret is None
    with pytest.raises(InvalidInput, match="rotate-secret"):
        subscriptions.update(db, id, by=BY, secret_text="x")  # noqa: S106


def test_the_new_secret_can_be_rotated(db: Connection) -> None:
    """After a change of scheme, rotation makes a secret that fits the new one."""
    id = subscribe(db, secret_text=new_private_key(bytes(32))).id
    subscriptions.update(db, id, by=BY, schemes=("github",))
    _, new = subscriptions.rotate_secret(db, id, by=BY)

    assert new.startswith("whsec_")


# States.


def test_disable(db: Connection) -> None:
    """A person can stop one with a reason; the operator is told as if a worker had done it."""
    id = subscribe(db, tenant="acme").id
    disabled = subscriptions.disable(db, id, by=BY, reason="they were bought")

    assert (disabled.state, disabled.state_reason) == ("disabled", "they were bought")
    assert subscriptions.disable(db, id, by=BY, reason="again") == disabled
    assert rows(db, "SELECT type, subject, source, tenant, data::jsonb FROM outbox.event") == [
        (
            "subscription.disabled", f"subscription/{id}", "outbox", None,
            {"subscription_id": str(id), "tenant": "acme", "reason": "they were bought"},
        )
    ]  # fmt: skip
    assert subscriptions.resume(db, id, by=BY).state == "active"
    subscriptions.remove(db, id, by=BY)
    with pytest.raises(WrongState):
        subscriptions.disable(db, id, by=BY, reason="late")


# History.


def test_history(db: Connection) -> None:
    """Newest first: who, from where, and what differs; also of a removed one, never a secret."""
    id = subscribe(db, URL, headers={"X-Token": "hunter2"}).id
    subscriptions.update(db, id, by=GRACE, rate=5.0, headers={"X-Token": "hunter3"})
    subscriptions.pause(db, id, by=BY, reason="they migrate")
    subscriptions.rotate_secret(db, id, by=BY)
    subscriptions.remove(db, id, by=BY)
    removed, rotated, paused, updated, added = subscriptions.history(db, id)

    def told(change: subscriptions.Change) -> dict[str, tuple[Any, Any]]:
        return {d.name: (d.before, d.after) for d in change.differs}

    assert (updated.change, updated.actor, updated.command) == (
        "updated", "grace", "outbox subscriptions update",
    )  # fmt: skip
    assert told(updated) == {
        "rate": (None, 5.0), "header X-Token": ("[secure]", "[secure]"),
    }  # fmt: skip
    assert told(paused) == {"state": ("active", "paused"), "state_reason": (None, "they migrate")}
    assert (rotated.change, told(rotated)) == ("rotated", {})
    assert told(removed)["state"] == ("paused", "removed")
    assert told(added)["url"] == (None, URL)
    assert "hunter" not in str([removed, rotated, paused, updated, added])


def test_history_by_pages(db: Connection) -> None:
    """A page knows what came before it."""
    id = subscribe(db).id
    for n in range(1, 5):
        subscriptions.update(db, id, by=BY, timeout=n)
    first = subscriptions.history(db, id, limit=2)
    second = subscriptions.history(db, id, before=first[-1].id, limit=2)

    assert [each.revision for each in first + second] == [5, 4, 3, 2]
    assert [(d.before, d.after) for d in first[-1].differs] == [(2, 3)]
    assert subscriptions.history(db, id, before=subscriptions.history(db, id)[-1].id) == []
    with pytest.raises(NotFound):
        subscriptions.history(db, UUID(int=0))


# Together.


def test_two_at_once(committed_db: Database) -> None:
    """Updates of one subscription wait for each other: both count, each with its revision."""
    with committed_db.engine.begin() as connection:
        id = subscribe(connection).id
    second = threading.Thread(
        target=lambda: _update(committed_db, id, rate=5.0),
    )
    with committed_db.engine.begin() as connection:
        subscriptions.update(connection, id, by=BY, timeout=5)
        second.start()
        second.join(0.05)
        assert second.is_alive()
    second.join(10)

    with committed_db.engine.begin() as connection:
        found = subscriptions.show(connection, id)
    assert (found.timeout, found.rate, found.revision) == (5, 5.0, 3)


def _update(database: Database, id: UUID, **changes: Any) -> None:
    with database.engine.begin() as connection:
        subscriptions.update(connection, id, by=BY, **changes)
