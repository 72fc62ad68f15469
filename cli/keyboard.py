"""Single keys from the terminal, while the program does something else.

The terminal gives each key at once and does not show it (cbreak); Ctrl-C and Ctrl-Z work
as ever. Whatever happens, it is put back as it was. A program in the background leaves
the terminal alone, or it would be stopped by it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if sys.platform != "win32":
    import termios
    import tty


@dataclass(frozen=True, slots=True)
class Key:
    """A letter, and the number that was typed before it."""

    letter: str
    number: int | None


def typed(before: str, text: str) -> tuple[str, list[Key]]:
    """Return the digits that wait for a letter, and the keys that are whole.

    >>> typed("1", "2rq3")
    ('3', [Key(letter='r', number=12), Key(letter='q', number=None)])
    """
    keys, digits = [], before
    for character in re.sub(r"\x1b(\[[0-9;]*.|O.)?", "", text):  # arrows and the like mean nothing
        if character.isascii() and character.isdecimal():
            digits = (digits + character)[-12:]
        else:
            keys.append(Key(character.lower(), int(digits) if digits else None))
            digits = ""
    return digits, keys


@contextmanager
def keyboard(take: Callable[[Key], None]) -> Iterator[bool]:
    """Call `take` with each key; yield whether there is a keyboard."""
    if sys.platform == "win32" or not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield False
        return
    keys = _Keyboard(sys.stdin.fileno(), take)
    keys.begin()
    try:
        yield True
    finally:
        keys.end()


class _Keyboard:
    def __init__(self, terminal: int, take: Callable[[Key], None]) -> None:
        self._terminal = terminal
        self._take = take
        self._digits = ""
        self._before = termios.tcgetattr(terminal)
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        self._loop.add_signal_handler(signal.SIGCONT, self._listen)  # `fg` after Ctrl-Z
        self._listen()

    def end(self) -> None:
        self._loop.remove_signal_handler(signal.SIGCONT)
        self._loop.remove_reader(self._terminal)
        if self._is_ours():
            with suppress(termios.error):  # the terminal has gone
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)

    def _listen(self) -> None:
        if self._is_ours():
            with suppress(termios.error):
                tty.setcbreak(self._terminal)
                self._loop.add_reader(self._terminal, self._read)

    def _read(self) -> None:
        try:
            text = os.read(self._terminal, 1_024) if self._is_ours() else b""
        except OSError:
            text = b""
        if not text:  # it has gone, or is another's now
            self._loop.remove_reader(self._terminal)
            return
        self._digits, keys = typed(self._digits, text.decode(errors="replace"))
        for key in keys:
            self._take(key)

    def _is_ours(self) -> bool:
        try:
            return os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:
            return False
