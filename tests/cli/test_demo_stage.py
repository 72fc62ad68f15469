"""What the demo starts is stopped, whenever it is interrupted."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from outbox.cli.demo_stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


class Log(list[str]):
    """What was begun and ended."""

    @contextmanager
    def thing(self, name: str, *, interrupted_by: signal.Signals | None = None) -> Iterator[str]:
        if interrupted_by is not None:
            signal.raise_signal(interrupted_by)
        self.append(f"{name} begins")
        try:
            yield name
        finally:
            self.append(f"{name} ends")


def test_the_last_is_stopped_first() -> None:
    """Things end in the opposite order."""
    log = Log()
    with Stage() as stage:
        assert stage.start(log.thing("a")) == "a"
        stage.start(log.thing("b"))

    assert log == ["a begins", "b begins", "b ends", "a ends"]


@SIGNALS
def test_a_start_is_finished_before_it_is_undone(number: signal.Signals) -> None:
    """An interruption in the middle of a start waits, so that nothing is left behind."""
    log = Log()

    def play() -> None:
        with Stage() as stage:
            stage.start(log.thing("a", interrupted_by=number))
            stage.start(log.thing("b"))

    with pytest.raises(KeyboardInterrupt):
        play()
    assert log == ["a begins", "a ends"]


@SIGNALS
def test_a_pause_is_interrupted(number: signal.Signals) -> None:
    """An interruption between two steps ends the play with the next pause."""
    log = Log()

    def play() -> None:
        with Stage() as stage:
            stage.start(log.thing("a"))
            signal.raise_signal(number)
            stage.pause(0)

    with pytest.raises(KeyboardInterrupt):
        play()
    assert log == ["a begins", "a ends"]


def test_an_interrupted_start_that_fails_is_an_interruption() -> None:
    """Ctrl-C reaches child processes as well; what it breaks there is no error of its own."""

    @contextmanager
    def broken() -> Iterator[None]:
        signal.raise_signal(signal.SIGINT)
        raise OSError
        yield

    with pytest.raises(KeyboardInterrupt), Stage() as stage:
        stage.start(broken())


@SIGNALS
def test_a_stop_is_not_interrupted(number: signal.Signals) -> None:
    """Whoever presses Ctrl-C again does not stop the stopping."""
    log = Log()

    @contextmanager
    def slow() -> Iterator[None]:
        yield
        signal.raise_signal(number)
        log.append("slow ends")

    with Stage() as stage:
        stage.start(log.thing("a"))
        stage.start(slow())

    assert log == ["a begins", "slow ends", "a ends"]


@SIGNALS
def test_signals_mean_what_they_did_before(number: signal.Signals) -> None:
    """The handlers of the program are put back."""
    before = signal.getsignal(number)
    with Stage():
        assert signal.getsignal(number) != before

    assert signal.getsignal(number) == before
