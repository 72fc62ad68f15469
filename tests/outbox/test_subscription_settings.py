"""What a subscription may be asked to be, and what differs between two."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from outbox import InvalidInput, headers, subscription_settings
from outbox.subscription_settings import (
    DEFAULTS,
    NAMES,
    Settings,
    changed,
    check,
    check_name,
    differences,
    is_id,
)

PLAIN = Settings(url="https://example.com/hooks", types=("*",))


def test_what_is_stored() -> None:
    """The checked value is as it is stored: a URL in ASCII, each type once, the format's scheme."""
    wanted = check(
        Settings(url="https://bücher.example", types=("a.b", "*", "a.b"), format="logto")
    )

    assert wanted.url == "https://xn--bcher-kva.example"
    assert (wanted.types, wanted.schemes) == (("a.b", "*"), ("logto",))
    assert check(wanted) == wanted


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "a b"}),
        ("name", {"name": "-a"}),
        ("name", {"name": "a" * 129}),
        ("name", {"name": "0190163d-8694-739b-aea5-966c26f8ad91"}),
        ("tenant", {"tenant": ""}),
        ("url", {"url": "ftp://example.com"}),
        ("types", {"types": ()}),
        ("types", {"types": ("a..b",)}),
        ("method", {"method": "GET"}),
        ("format", {"format": "xml"}),
        ("scheme", {"schemes": ("md5",)}),
        ("header", {"headers": {"Webhook-Id": "1"}}),
        ("user-agent", {"user_agent": "é"}),
        ("timeout", {"timeout": 0.01}),
        ("timeout", {"timeout": float("nan")}),
        ("schedule", {"schedule": (-1,)}),
        ("max-age", {"max_age": 0}),
        ("max-in-flight", {"max_in_flight": 1.5}),
        ("rate", {"rate": 0}),
        ("burst", {"burst": 5}),
        ("ordered", {"ordered": "wait"}),
    ],
)
def test_mistakes(field: str, changes: dict[str, Any]) -> None:
    """A mistake names its field, without any database."""
    with pytest.raises(InvalidInput) as caught:
        check(changed(PLAIN, changes))

    assert caught.value.field == field


@pytest.mark.parametrize("name", ["a", "acme/billing", "Billing_2.eu-west"])
def test_names(name: str) -> None:
    """A name is of letters, digits and what holds words together."""
    assert check_name(name) == name
    assert not is_id(name)


def test_unset_is_what_is_usual() -> None:
    """None makes each setting what it is without it; url and types cannot be unset."""
    assert changed(PLAIN, dict.fromkeys(DEFAULTS)) == PLAIN
    assert set(NAMES) - set(DEFAULTS) == {"url", "types"}
    for name in ("url", "types"):
        with pytest.raises(InvalidInput, match="cannot be unset"):
            changed(PLAIN, {name: None})
    with pytest.raises(InvalidInput, match="colour"):
        changed(PLAIN, {"colour": "red"})


def test_differences() -> None:
    """Only what differs, header by header, and no credential."""
    before = {"url": "a", "rate": 5, "headers": {"X-Team": "a", "X-Token": "old", "X-Gone": "1"}}
    after = {"url": "b", "rate": 5, "headers": {"X-Team": "b", "X-Token": "new"}}
    found = [(d.name, d.before, d.after) for d in differences(before, after)]

    assert found == [
        ("url", "a", "b"),
        ("header X-Team", "a", "b"),
        ("header X-Token", "[secure]", "[secure]"),
        ("header X-Gone", "1", None),
    ]


@pytest.mark.parametrize("module", [subscription_settings, headers])
def test_examples(module: Any) -> None:
    """The examples of the modules hold."""
    assert doctest.testmod(module).failed == 0
