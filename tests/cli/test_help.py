"""The help of every command, and the reference made of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from outbox import __version__, cli

from .reference import commands, reference, written

if TYPE_CHECKING:
    from .conftest import Cli

COMMANDS = {context.command_path: context for context in commands()}
PRINTING = {"print", "click.echo", "sys.stdout.write", "sys.stderr.write"}
VERBS = [path for path, found in COMMANDS.items() if not isinstance(found.command, click.Group)]


def test_the_readme_is_the_reference() -> None:
    """cli/README.md has the help of every command; `python -m tests.cli.reference` makes it."""
    assert written()[1] == f"{reference()}\n"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_with_an_example(bare_cli: Cli, path: str) -> None:
    """Help needs no database, fits 80 columns, and shows how the command is typed."""
    out = bare_cli.out(*path.split()[1:], "--help")

    assert max(map(len, out.splitlines())) <= 80
    assert re.search(rf"\n  Example:\n( .*\n)*    {path}", out)


@pytest.mark.parametrize("path", VERBS)
def test_every_command_has_json(path: str) -> None:
    """Every command can speak to programs."""
    options = [option for each in COMMANDS[path].command.params for option in each.opts]

    assert "--json" in options


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_on_a_database_takes_its_url(path: str) -> None:
    """--database-url stands wherever a database is used."""
    options = [option for each in COMMANDS[path].command.params for option in each.opts]

    without = {"outbox demo", "outbox listen", "outbox schema print", "outbox secrets new-key"}
    assert ("--database-url" in options) == (path not in without)


def test_version(bare_cli: Cli) -> None:
    """--version prints it."""
    assert bare_cli.out("--version") == f"outbox {__version__}\n"


def test_only_output_prints() -> None:
    """The one module that prints is output.py."""
    files = Path(cli.__path__[0]).glob("*.py")

    assert [file.name for file in files if PRINTING & calls(file)] == ["output.py"]


def calls(file: Path) -> set[str]:
    """The names of everything that a module calls."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
