"""Keys as they are pressed, without waiting for Enter. Nothing is echoed meanwhile.

Where stdin is no terminal there are none, and `read` only waits.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from typing import Any


class Keys:
    """What is typed, until `close`."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._before: list[Any] = []
        if sys.stdin.isatty():
            self._file = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)

    def read(self, timeout: float) -> str | None:
        """Return the key that was pressed within `timeout` seconds, None if none was.

        The end of input is a `q`.
        """
        if self._file is None:
            time.sleep(timeout)
            return None
        ready, _, _ = select.select([self._file], [], [], timeout)
        if not ready:
            return None
        key = os.read(self._file, 1).decode(errors="replace")
        return key or "q"  # the terminal is gone

    def close(self) -> None:
        """Leave the terminal as it was found."""
        if self._file is not None:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)
