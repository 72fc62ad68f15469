"""`outbox doctor`: what it prints, and what cron sees."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from outbox import doctor
from outbox.cli.doctor import report, worst
from outbox.findings import ERROR, OK, UNKNOWN, WARNING, Check, Finding, Opinion

from .conftest import Cli

if TYPE_CHECKING:
    from tests.databases import Database

FOUND = [
    Finding("schema", OK, "version 3"),
    Finding("secrets in clear", WARNING, "5 secrets stored in clear", "set OUTBOX_SECRET_KEY"),
    Finding("workers", ERROR, "none is alive: nothing is delivered", "start one: outbox-worker"),
    Finding("replays", UNKNOWN, "not visible: \x1b[2J"),
]


def test_report() -> None:
    """A line for each check, the remedy below what is bad, and the sum."""
    assert [line.plain for line in report(FOUND, None)] == [
        "ok       schema            version 3",
        "warning  secrets in clear  5 secrets stored in clear",
        "         -> set OUTBOX_SECRET_KEY",
        "error    workers           none is alive: nothing is delivered",
        "         -> start one: outbox-worker",
        r"unknown  replays           not visible: \x1b[2J",
        "",
        "1 error, 1 warning, 1 unknown, 1 ok",
    ]


@pytest.mark.parametrize("width", [60, 80])
def test_report_on_a_terminal(width: int) -> None:
    """What does not fit goes on below."""
    long = Finding("workers", ERROR, "word " * 40, "word " * 40)

    assert all(line.cell_len <= width for line in report([long], width))
    assert sum(line.plain.count("word") for line in report([long], width)) == 80


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([OK, OK], OK), ([OK, UNKNOWN], OK), ([OK, WARNING], WARNING),
        ([WARNING, ERROR, UNKNOWN], ERROR),
    ],
)  # fmt: skip
def test_worst(verdicts: list[str], expected: str) -> None:
    """The worst counts; what is unknown does not."""
    assert worst([Finding("a", verdict, "b") for verdict in verdicts]) == expected


@pytest.mark.parametrize(
    ("verdict", "plain", "strict"),
    [(OK, 0, 0), (UNKNOWN, 0, 0), (WARNING, 0, 1), (ERROR, 1, 1)],
)
def test_exit_codes(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, verdict: str, plain: int, strict: int
) -> None:
    """An error is 1, with --strict a warning as well; nothing is said on stderr."""
    check = Check("a", lambda _: None, lambda _: Opinion(verdict, "b"), any_schema=True)
    monkeypatch.setattr(doctor, "CHECKS", (check,))

    results = [cli("doctor"), cli("doctor", "--strict")]

    assert [result.exit_code for result in results] == [plain, strict]
    assert [result.stderr for result in results] == ["", ""]


def test_json(committed_db: Database, cli: Cli) -> None:
    """The verdict on the whole, and each check with its remedy."""
    result = cli("doctor", "--json")

    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"]) == (1, "error")
    assert [each["name"] for each in found["checks"]] == [each.name for each in doctor.CHECKS]
    workers = next(each for each in found["checks"] if each["name"] == "workers")
    assert workers == {
        "name": "workers", "verdict": "error", "found": "none is alive: nothing is delivered",
        "remedy": "start one: outbox-worker",
    }  # fmt: skip


def test_allow(committed_db: Database, cli: Cli) -> None:
    """What may be called is taken from the environment, or from --allow."""
    cli.out("subscriptions", "add", "http://127.0.0.1:9/", "--types", "*")

    assert "refused URLs                   none" in cli("doctor").stdout
    assert "1 refused" in cli("doctor", "--allow", "10.0.0.0/8").stdout


@pytest.mark.clone
def test_no_schema(cloned_db: Database) -> None:
    """On an empty database the schema is what is wrong."""
    with cloned_db.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA outbox CASCADE"))

    result = Cli(cloned_db.url)("doctor")

    assert result.exit_code == 1
    assert "-> outbox schema apply" in result.stdout


def test_no_database(bare_cli: Cli) -> None:
    """A database that is down is one clear line."""
    result = bare_cli("doctor", "--database-url", "postgresql://me@127.0.0.1:1/shop")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: database: ")
    assert result.stderr.count("\n") == 1


def test_a_wrong_key(cli: Cli) -> None:
    """A key that is none is wrong use."""
    result = cli("doctor", OUTBOX_SECRET_KEY="nope")  # noqa: S106 - it is none

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: OUTBOX_SECRET_KEY: must be ")
