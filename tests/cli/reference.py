"""Writes the reference of cli/README.md from the help of the commands.

python -m tests.cli.reference
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from outbox.cli.__main__ import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

README = Path(__file__).parents[2] / "cli" / "README.md"
MARK = "<!-- From here on this is made by `python -m tests.cli.reference`. -->\n"
WIDTH = 80


def commands(context: click.Context | None = None) -> Iterator[click.Context]:
    """The contexts of all commands, a group before what is in it."""
    context = context or click.Context(outbox, info_name="outbox", terminal_width=WIDTH)
    yield context
    if isinstance(context.command, click.Group):
        for name, command in context.command.commands.items():
            yield from commands(click.Context(command, context, name, terminal_width=WIDTH))


def reference() -> str:
    """A section for each command."""
    return "\n".join(map(_section, commands()))


def written() -> tuple[str, str]:
    """What the README has before and after the mark."""
    before, _, after = README.read_text().partition(MARK)
    return before, after


def _section(context: click.Context) -> str:
    heading = "##" if isinstance(context.command, click.Group) else "###"
    return f"\n{heading} {context.command_path}\n\n```\n{context.get_help()}\n```"


if __name__ == "__main__":
    README.write_text(f"{written()[0]}{MARK}{reference()}\n")
