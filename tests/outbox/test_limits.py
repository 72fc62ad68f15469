"""Which limits a subscription may have."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from outbox import InvalidInput, limits
from outbox.limits import check_limits, parse_rate


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(limits).failed == 0


def test_what_may_be_set() -> None:
    """Limits within their ranges are kept as they are; None is no limit."""
    given = {
        "timeout": 0.1, "max_age": 1, "max_in_flight": 10_000, "rate": 0.001, "burst": 1,
        "ordered": "stop", "method": "PATCH",
    }  # fmt: skip

    assert check_limits(**given) == given
    assert check_limits(rate=None, burst=None) == {"rate": None, "burst": None}


@pytest.mark.parametrize(
    "given",
    [
        {"timeout": 0}, {"timeout": 301}, {"timeout": float("nan")}, {"timeout": "3"},
        {"max_age": 0.5}, {"max_in_flight": 0}, {"max_in_flight": 1.5}, {"max_in_flight": True},
        {"rate": 0}, {"rate": float("inf")}, {"rate": 1, "burst": 0}, {"burst": 3},
        {"ordered": "yes"}, {"method": "get"}, {"method": "DELETE"},
    ],
    ids=str,
)  # fmt: skip
def test_what_may_not(given: dict[str, Any]) -> None:
    """Everything else is refused by name."""
    with pytest.raises(InvalidInput, match=next(iter(given)).replace("_", "-") + "|burst"):
        check_limits(**given)


@pytest.mark.parametrize(
    ("text", "rate"), [("50/s", 50), ("50", 50), ("120/m", 2), ("1800/h", 0.5), ("0.5/s", 0.5)]
)
def test_rates(text: str, rate: float) -> None:
    """A rate is a number of requests, in a second if nothing else is said."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "/s", "50/d", "50/S", "-1/s", "1e3", "٣/s", "50 /s", "1//s"])
def test_no_rates(text: str) -> None:
    """What is no rate is refused."""
    with pytest.raises(InvalidInput, match="rate"):
        parse_rate(text)
