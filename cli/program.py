"""The program as a whole: how it ends when something goes wrong.

Every error is one line on stderr and an exit code: 1 for what failed (not found, wrong
state, no database), 2 for wrong use, 130 for Ctrl-C. There is never a traceback.
"""

from __future__ import annotations

import errno
from typing import Any

import click

from outbox import InvalidInput, OutboxError

from .layout import shown


class Failure(click.ClickException):
    """Ends the program with `Error: message`."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class WrongUse(Failure):
    """The command was typed wrongly."""

    exit_code = 2


class Interrupted(Failure):
    """Ctrl-C."""

    exit_code = 130


class Program(click.Group):
    """The group above all commands, where errors become ends."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except InvalidInput as error:
            raise WrongUse(str(error)) from error
        except OutboxError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # nobody reads on: Click ends quietly
                raise
            raise Failure(error.strerror or str(error)) from error
        except (KeyboardInterrupt, click.Abort) as error:
            raise Interrupted("interrupted") from error
