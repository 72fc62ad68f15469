"""Fixtures for the tests of the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from outbox.cli.__main__ import outbox

if TYPE_CHECKING:
    from click.testing import Result

    from tests.databases import Database


PLAIN = {
    "COLUMNS": "80", "FORCE_COLOR": None, "NO_COLOR": None, "TERM": "xterm",
    "OUTBOX_ALLOW": "127.0.0.0/8",
}  # fmt: skip


@dataclass(frozen=True)
class Cli:
    """Runs commands in this process, on the database of `url`."""

    url: str | None

    def __call__(
        self, *arguments: str, stdin: str | bytes | None = None, **env: str | None
    ) -> Result:
        return CliRunner().invoke(
            outbox,
            arguments,
            input=stdin,
            env={**PLAIN, "OUTBOX_DATABASE_URL": self.url, **env},
            prog_name="outbox",
            catch_exceptions=False,
        )

    def out(self, *arguments: str, stdin: str | bytes | None = None) -> str:
        """The stdout of a command that succeeds."""
        result = self(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def json(self, *arguments: str, stdin: str | bytes | None = None) -> Any:
        """The one JSON document of a command that succeeds and says nothing else."""
        result = self(*arguments, "--json", stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)


@pytest.fixture
def cli(committed_db: Database) -> Cli:
    """The command line on the shared database."""
    return Cli(committed_db.url)


@pytest.fixture
def bare_cli() -> Cli:
    """The command line without a database."""
    return Cli(None)
