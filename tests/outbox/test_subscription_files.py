"""Subscriptions as a file: read as they were written, compared, applied as a whole."""

from __future__ import annotations

import doctest
import json
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox import InvalidInput, NotFound, WrongState, subscriptions, toml
from outbox.subscription_files import as_document, dump, load
from outbox.subscription_plans import carry_out, plan
from tests.factories import BY, LOOPBACK, rows, subscribe, value

from .test_subscription_update import EVERYTHING

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from outbox.subscription_plans import Made, Step

URL = "https://example.com/hooks"
FILE = f"""
[billing]
url = "{URL}"
types = ["invoice.*"]
"""


def steps_of(connection: Connection, text: str, **options: Any) -> list[Step]:
    environ = options.pop("environ", {})
    found = subscriptions.list_subscriptions(connection, tenant=options.get("tenant"))
    return plan(load(text, environ=environ), found, **options)


def apply(connection: Connection, text: str, **options: Any) -> list[Made]:
    environ = options.get("environ", {})
    steps = steps_of(connection, text, **options)
    return carry_out(connection, steps, by=BY, environ=environ, allow=LOOPBACK)


def told(steps: list[Step]) -> list[tuple[Any, ...]]:
    return [(s.change, s.key, {d.name: (d.before, d.after) for d in s.differs}) for s in steps]


# Round trips.


def test_the_export_changes_nothing(db: Connection) -> None:
    """What was exported, applied to where it came from, is no change: all settings survive."""
    subscribe(db, **EVERYTHING)
    subscribe(db, name="plain")
    subscribe(db, types=["a", "b"] * 9, schedule=[0.001, 90, 90_000], rate=100 / 60)
    subscribe(db, name="quoted", filter='$.a == "it\'s" && $.b like_regex "\\\\d"',
              headers={"X-A": "1", "X.b": 'say "hi"', "X-Token": "hunter2"})  # fmt: skip
    found = subscriptions.list_subscriptions(db)

    assert steps_of(db, dump(found), prune=True) == []
    assert steps_of(db, json.dumps(as_document(found)), prune=True) == []
    assert "hunter2" not in dump(found)


def test_a_copy(db: Connection) -> None:
    """Applied to a database without them, the file makes the same subscriptions."""
    for name, options in (("full", {**EVERYTHING, "name": "full"}), ("plain", {"name": "plain"})):
        assert subscribe(db, **options).name == name
    before = subscriptions.list_subscriptions(db)
    text = dump(before)
    for each in before:
        subscriptions.remove(db, each.id, by=BY)
    made = apply(db, text)

    after = subscriptions.list_subscriptions(db)
    assert [each.settings for each in after] == [each.settings for each in before]
    assert [each.secret is not None for each in made] == [True, True]
    assert apply(db, text) == []


def test_only_what_is_set(db: Connection) -> None:
    """The file holds nothing that is usual."""
    subscribe(db, URL, name="billing", format="logto")

    assert as_document(subscriptions.list_subscriptions(db)) == {
        "billing": {"url": URL, "types": ["*"], "format": "logto"}
    }


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


@given(texts=st.dictionaries(st.sampled_from(["a", "b c", 'd"']), TEXTS), name=TEXTS,
       types=st.lists(TEXTS, max_size=20), number=st.floats(0.001, 100_000))  # fmt: skip
def test_toml_is_read_as_it_was_written(
    texts: dict[str, str], name: str, types: list[str], number: float
) -> None:
    """Python reads what we write, whatever characters are in it."""
    values = {"types": types, "rate": number, "headers": texts, "text": name}

    assert tomllib.loads(toml.table(name, values)) == {name: values}


def test_examples() -> None:
    """The examples of the writer hold."""
    assert doctest.testmod(toml).failed == 0


# Reading.


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("file", "url = 1 2"),
        ("file", "url = 'https://example.com'"),
        ("file", "{"),
        ("file", "{\"a\": []}"),
        ("billing: colour", FILE + "colour = 'red'"),
        ("billing: name", FILE + "name = 'x'"),
        ("billing: url", "[billing]\ntypes = ['*']"),
        ("billing: types", "[billing]\nurl = 'https://example.com'"),
        ("billing: types", "[billing]\nurl = 'https://example.com'\ntypes = '*'"),
        ("billing: types", "[billing]\nurl = 'https://example.com'\ntypes = ['a..b']"),
        ("billing: url", "[billing]\nurl = 5\ntypes = ['*']"),
        ("billing: url", "[billing]\nurl = 'ftp://a'\ntypes = ['*']"),
        ("name", "['a b']\nurl = 'https://example.com'\ntypes = ['*']"),
        ("billing: schedule", FILE + "schedule = 'soon'"),
        ("billing: schedule", FILE + "schedule = 5"),
        ("billing: rate", FILE + "rate = '5/fortnight'"),
        ("billing: rate", FILE + "rate = true"),
        ("billing: timeout", FILE + "timeout = '5'"),
        ("billing: timeout", FILE + "timeout = nan"),
        ("billing: burst", FILE + "burst = 5"),
        ("billing: headers", FILE + "headers = ['X-A: 1']"),
        ("billing: header", FILE + "headers = { Webhook-Id = '1' }"),
        ("billing: header X-A", FILE + "headers = { X-A = 1 }"),
        ("billing: header X-A", FILE + "headers = { X-A = { env = 'NOPE' } }"),
        ("billing: secret", FILE + "secret = 'whsec_hunter2'"),
        ("billing: format", FILE + "format = 'xml'"),
        ("billing: scheme", FILE + "schemes = ['md5']"),
    ],
)  # fmt: skip
def test_mistakes(field: str, text: str) -> None:
    """A mistake names the subscription and the word, before any SQL, and never a secret."""
    with pytest.raises(InvalidInput) as caught:
        load(text, environ={})

    assert caught.value.field.endswith(field)
    assert "hunter2" not in str(caught.value)


def test_words_of_the_command_line() -> None:
    """A rate and a schedule are written as they are typed."""
    (entry,) = load(FILE + "rate = '90/m'\nschedule = '0s, 5m'", environ={})

    assert (entry.settings.rate, entry.settings.schedule) == (1.5, (0.0, 300.0))
    assert entry.settings.name == "billing"


# Planning.


def test_added_changed_removed(db: Connection) -> None:
    """What is new is added, what differs is changed, what is not named is removed if asked."""
    old = subscribe(db, URL, ["user.*"], name="billing", rate=5)
    gone = subscribe(db, name="gone")
    subscribe(db)
    text = FILE + f"[new]\nurl = '{URL}'\ntypes = ['*']"
    changed = ("changed", "billing", {"types": (("user.*",), ("invoice.*",)), "rate": (5.0, None)})

    assert told(steps_of(db, text))[0] == changed
    assert [step.change for step in steps_of(db, text)] == ["changed", "added"]
    assert [(s.change, s.key) for s in steps_of(db, text, prune=True)] == [
        ("changed", "billing"), ("removed", "gone"), ("added", "new"),
    ]  # fmt: skip

    made = apply(db, text, prune=True)

    assert [each.id for each in made[:2]] == [old.id, gone.id]
    assert subscriptions.show(db, gone.id).state == "removed"
    assert {each.name for each in subscriptions.list_subscriptions(db)} == {"billing", "new", None}
    assert steps_of(db, text, prune=True) == []


def test_one_without_a_name(db: Connection) -> None:
    """It stands under its id, which must be one that there is."""
    id = subscribe(db, URL).id
    text = f"[{id}]\nurl = '{URL}'\ntypes = ['a']"

    assert told(steps_of(db, text)) == [("changed", str(id), {"types": (("*",), ("a",))})]
    subscriptions.update(db, id, by=BY, name="named")
    assert told(steps_of(db, text)) == [("changed", str(id), {"types": (("*",), ("a",))})]
    with pytest.raises(InvalidInput, match="is the same subscription as"):
        steps_of(db, text + f"\n[named]\nurl = '{URL}'\ntypes = ['b']")
    subscriptions.remove(db, id, by=BY)
    with pytest.raises(NotFound):
        steps_of(db, text)


def test_one_tenant(db: Connection) -> None:
    """With a tenant nothing of another one is touched."""
    subscribe(db, name="other", tenant="beta")
    subscribe(db, name="mine", tenant="acme")
    text = FILE + "tenant = 'acme'"

    assert [(s.change, s.key) for s in steps_of(db, text, prune=True, tenant="acme")] == [
        ("removed", "mine"), ("added", "billing"),
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="billing: tenant: is not acme"):
        steps_of(db, FILE, tenant="acme")


def test_headers_that_stay(db: Connection) -> None:
    """[secure] leaves a value as it is; where there is none it must be said."""
    subscribe(db, URL, ["invoice.*"], name="billing", headers={"X-Key": "old"})
    kept = FILE + "headers = { X-Key = '[secure]', X-Team = 'a' }"

    assert told(steps_of(db, kept)) == [("changed", "billing", {"header X-Team": (None, "a")})]
    apply(db, kept)
    assert value(db, "SELECT headers ->> 'X-Key' FROM outbox.subscription") == "old"
    with pytest.raises(InvalidInput, match="header X-Token"):
        steps_of(db, FILE + "headers = { X-Token = '[secure]' }")
    new = FILE + "headers = { X-Key = { env = 'KEY' } }"
    apply(db, new, environ={"KEY": "new"})
    assert value(db, "SELECT headers ->> 'X-Key' FROM outbox.subscription") == "new"


def test_a_secret_of_the_environment(db: Connection) -> None:
    """It is taken for a new subscription, is asked for only then, and is not given back."""
    text = FILE + "schemes = ['github']\nsecret = { env = 'SECRET' }"
    (made,) = apply(db, text, environ={"SECRET": "sesame"})

    assert made.secret is None
    assert rows(db, "SELECT sealed FROM outbox.secret") == [("sesame",)]
    assert apply(db, text) == []
    subscriptions.remove(db, made.id, by=BY)
    with pytest.raises(InvalidInput, match="billing: secret: the environment has no SECRET"):
        apply(db, text)


def test_nothing_is_half_done(db: Connection) -> None:
    """If one step fails, the error names it, and the caller's transaction undoes all."""
    text = FILE + f"[worse]\nurl = '{URL}'\ntypes = ['*']\nfilter = '$.a >'"
    savepoint = db.begin_nested()
    with pytest.raises(InvalidInput, match="worse: filter"):
        apply(db, text)
    savepoint.rollback()

    assert subscriptions.list_subscriptions(db) == []


def test_changed_meanwhile(db: Connection) -> None:
    """A plan is carried out on what it was made for, or not at all."""
    id = subscribe(db, URL, name="billing").id
    steps = steps_of(db, FILE)
    subscriptions.update(db, id, by=BY, rate=5)
    with pytest.raises(WrongState, match="not as it was"):
        carry_out(db, steps, by=BY, environ={})


def test_an_address_that_is_not_allowed(db: Connection) -> None:
    """A new url is judged, one that was there already is not."""
    subscribe(db, "http://127.0.0.1:9/", name="billing")
    text = "[billing]\nurl = 'http://127.0.0.1:{}/'\ntypes = ['a']"
    carry_out(db, steps_of(db, text.format(9)), by=BY, environ={})
    with pytest.raises(InvalidInput, match="billing: url"):
        carry_out(db, steps_of(db, text.format(8)), by=BY, environ={})
