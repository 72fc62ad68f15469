"""What is answered: by the path, the signature, chance, and how often the webhook came."""

from __future__ import annotations

from random import Random

import pytest

from outbox import InvalidInput
from outbox.cli.answers import Answers, choose, parse_chance, parse_statuses
from outbox.cli.arrivals import BROKEN_OFF

from .arrivals import request

RNG = Random(1)  # noqa: S311 - of a test


def test_chance_is_of_the_seed() -> None:
    """The same seed refuses the same requests, about as many as asked."""

    def refused(seed: int) -> list[int]:
        rng, told = Random(seed), Answers(fail=0.3)  # noqa: S311 - of a test
        return [n for n in range(1_000) if choose(told, request(), "verified", 0, rng) == 503]

    assert refused(1) == refused(1) != refused(2)
    assert 250 < len(refused(1)) < 350


@pytest.mark.parametrize(
    ("told", "path", "state", "status"),
    [
        (Answers(path="/hooks"), "/hooks?a=1", "verified", 200),
        (Answers(path="/hooks"), "/hooks/", "verified", 404),
        (Answers(strict=True), "/", "verified", 200),
        (Answers(strict=True), "/", "wrong", 401),
        (Answers(strict=True), "/", "bad time", 401),
        (Answers(strict=True, path="/a"), "/b", "wrong", 404),
        (Answers(fail=1.0), "/", "verified", 503),
    ],
)
def test_what_is_refused(told: Answers, path: str, state: str, status: int) -> None:
    """A wrong path, a wrong signature and bad luck are refused, if that was asked for."""
    assert choose(told, request(path), state, 0, RNG) == status


def test_a_flaw_comes_first() -> None:
    """What is not whole is answered so, whatever else was told."""
    assert choose(Answers((200,)), request(flaw=BROKEN_OFF), "unchecked", 0, RNG) == 400


@pytest.mark.parametrize(
    "text", ["", "99", "100", "600", "503;200", "503,,200", "٢٠٠", "200," * 101]
)
def test_wrong_statuses(text: str) -> None:
    """A status is a final one of HTTP."""
    with pytest.raises(InvalidInput, match=r"^status: must be 1 to 100 of 200 to 599"):
        parse_statuses(text)


@pytest.mark.parametrize("text", ["", "30", "101%", "-1%", "nan%", "1e1%", "0.5"])
def test_wrong_chances(text: str) -> None:
    """A chance is written in percent."""
    with pytest.raises(InvalidInput, match=r"^fail: must be a percentage such as 30%"):
        parse_chance(text)
