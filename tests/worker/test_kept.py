"""Connections that wait: the last one first, and none for longer than its time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from outbox.worker.kept import KEEP_ALIVE, Kept
from outbox.worker.route import Place

from .peers import OK
from .wires import Line

if TYPE_CHECKING:
    from collections.abc import Callable

A, B = Place(tls=False, host="a", port=80), Place(tls=False, host="b", port=80)


class Clock:
    """Takes the place of the event loop: time goes on when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.later: Callable[[], None] | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, what: Callable[[], None]) -> Clock:
        self.later = what
        return self

    def cancel(self) -> None:
        self.later = None

    def turn(self, seconds: float) -> None:
        """Let time pass, and do what was for later."""
        self.now += seconds
        later, self.later = self.later, None
        if later is not None:
            later()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def kept(clock: Clock) -> Kept:
    made = Kept()
    made._loop = clock  # type: ignore[assignment]
    return made


async def used() -> Line:
    """A connection that has had an answer."""
    line = Line([OK], hold=True)
    line.wire.ask(b"")
    await line.wire.headers()
    return line


def test_the_last_is_the_first(clock: Clock) -> None:
    """Of connections to one place the one that was used last is used next."""

    async def run() -> list[bool]:
        kept_ones, one, two, other = await kept(clock), *[await used() for _ in range(3)]
        for place, line in ((A, one), (B, other), (A, two)):
            kept_ones.keep(place, line.wire)
        taken = [kept_ones.take(A) for _ in range(3)]
        return [taken[0] is two.wire, taken[1] is one.wire, taken[2] is None]

    assert asyncio.run(run()) == [True, True, True]


def test_their_time(clock: Clock) -> None:
    """Nobody gets a connection whose time is over, also before it is swept away."""

    async def run() -> list[bool]:
        kept_ones, line = await kept(clock), await used()
        kept_ones.keep(A, line.wire)
        clock.now += KEEP_ALIVE
        return [kept_ones.take(A) is None, line.is_closing()]

    assert asyncio.run(run()) == [True, True]


def test_they_are_swept_away(clock: Clock) -> None:
    """Connections that nobody takes are closed, and then nothing is left to be done."""

    async def run() -> list[object]:
        kept_ones, old, young = await kept(clock), await used(), await used()
        kept_ones.keep(A, old.wire)
        clock.turn(KEEP_ALIVE / 2)
        kept_ones.keep(A, young.wire)
        clock.turn(KEEP_ALIVE / 2)
        found: list[object] = [old.is_closing(), young.is_closing(), clock.later is not None]
        clock.turn(KEEP_ALIVE / 2)
        return [*found, young.is_closing(), clock.later]

    assert asyncio.run(run()) == [True, False, True, True, None]


def test_the_end(clock: Clock) -> None:
    """At the end all are closed, and those that come back are not kept any more."""

    async def run() -> list[object]:
        kept_ones, waiting, late = await kept(clock), await used(), await used()
        kept_ones.keep(A, waiting.wire)
        await kept_ones.aclose()
        kept_ones.keep(A, late.wire)
        return [waiting.is_closing(), late.is_closing(), kept_ones.take(A), clock.later]

    assert asyncio.run(run()) == [True, True, None, None]
