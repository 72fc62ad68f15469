"""What goes wrong ends with one clear line on stderr, nothing on stdout, and an exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest

from outbox import embedded, schema
from tests.databases import embedded_server, engine_at
from tests.helpers import environment, eventually

from .conftest import Cli
from .rows import URL

if TYPE_CHECKING:
    from tests.databases import Database

NOBODY = "0190163d-8694-739b-aea5-966c26f8ad91"
ADD = ("subscriptions", "add", URL, "--types", "*")
PARTS = "parts of A-Z a-z 0-9 _ - joined by single . / or :"
PATTERN = f"{PARTS}, or the beginning of such a type and *, 1 to 129 characters"
MOMENT = "must be a time such as 2026-11-01, 2026-11-01T09:30:00Z, or 24h for so long ago"
LIST = ("deliveries", "list")
WHICH = "say which deliveries: by their ids, or by an option such as --state"

WRONG = {
    ("nope",): "No such command 'nope'.",
    ("event", "list"): "No such command 'event'. Did you mean 'events'?",
    ("events", "lst"): "No such command 'lst'. Did you mean 'list'?",
    ("schema", "print", "--jsn"): "No such option '--jsn'. Did you mean '--json'?",
    (os.fsdecode(b"\xff\x1b[2J"),): "No such command '\\udcff\\x1b[2J'.",
    ("events", "show", "\x1b[2J"): "Invalid value for 'ID': '\\x1b[2J' is not a valid UUID.",
    ("subscriptions", "show"): "Missing argument 'ID'.",
    ("subscriptions", "show", "1"): "Invalid value for 'ID': '1' is not a valid UUID.",
    ("subscriptions", "add", URL): "Missing option '--types'.",
    ("subscriptions", "add", URL, "--types", ""): f"types: must be {PATTERN}; got ''",
    ("subscriptions", "add", URL, "--types", "a,b c"): f"types: must be {PATTERN}; got 'b c'",
    ("subscriptions", "add", "ftp://example.com", "--types", "*"):
        "url: must begin with https:// or http://",
    ("subscriptions", "add", "https://me:pw@example.com", "--types", "*"):
        "url: must not hold a user name or password; use a header",
    ("subscriptions", "add", "https://example.com/?token=pw#x", "--types", "*"):
        "url: must not have a fragment (#...)",
    ("subscriptions", "add", "http://10.0.0.1/", "--types", "*", "--allow", "127.0.0.1"):
        "url: 10.0.0.1 is not a public address; "
        "an operator can allow it for the worker and here: OUTBOX_ALLOW=10.0.0.1",
    ("subscriptions", "add", os.fsdecode(b"https://example.com/\xff"), "--types", "*"):
        "url: must be https://host/path; the path in ASCII, escaped with %",
    (*ADD, "--rate", "5/d"): "rate: must be written as 50/s, 100/m or 1000/h",
    (*ADD, "--timeout", "x"): "Invalid value for '--timeout': 'x' is not a valid float.",
    (*ADD, "--timeout", "nan"): "timeout: must be a number from 0.1 to 300",
    (*ADD, "--allow", "nope*"):
        "allow: 'nope*' is no network, address, name or *.name (10.0.0.0/8, *.example.com)",
    (*ADD, "--secret-file", "/no/such"):
        "Invalid value for '--secret-file': File '/no/such' does not exist.",
    (*ADD, "--header", "nope"): "header: must be written as 'Name: value'",
    (*ADD, "--header", "Webhook-Id: 1"): "header: Webhook-Id is set by the outbox itself",
    (*ADD, "--filter", "$.a >"):
        "filter: is not an SQL/JSON path: syntax error at end of jsonpath input",
    (*ADD, "--schedule", "soon"):
        "schedule: must be 1 to 100 delays such as 0s, 0.5s, 5m, 2h or 1d, none over 30d; "
        "got 'soon'",
    (*ADD, "--tenant", ""): "tenant: must have 1 to 255 characters, not 0",
    (*ADD, "--secret-stdin"): "secret: there is none on stdin",
    ("events", "emit", "invoice..paid"):
        f"type: must be {PARTS}, 1 to 128 characters; got 'invoice..paid'",
    ("events", "emit", "a", "--data", "{"):
        "data: is not JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
    ("events", "emit", "a", "--data", "@/no/such/file"):
        "data: cannot be read from /no/such/file: No such file or directory",
    ("events", "emit", "a", "--data", r'"\u0000"'):
        "data: contains a NUL character, which PostgreSQL cannot store",
    ("events", "emit", "a", "--subject", "\x1b[2J"): "subject: contains a control character",
    ("events", "emit", "a", "--subject", "a\0b"): "subject: contains a control character",
    ("events", "emit", "a", "--data", os.fsdecode(b'"\xff"')):
        "data: contains a lone surrogate, which is half a character",
    ("events", "emit", "a\0b"):
        f"type: must be {PARTS}, 1 to 128 characters; got 'a\\x00b'",
    ("events", "emit", "a", "--due-at", "soon"):
        "due_at: must be a time such as 2030-01-31T09:00:00Z",
    ("events", "emit", "a", "--due-at", "2030-01-31"):
        "due_at: must be a datetime with a time zone",
    ("events", "list", "--limit", "0"):
        "Invalid value for '--limit': 0 is not in the range x>=1.",
    ("events", "list", "--type", "a*b"): f"type: must be {PATTERN}; got 'a*b'",
    ("events", "list", "--since", "soon"): f"since: {MOMENT}; got 'soon'",
    ("events", "list", "--until", "1w"): f"until: {MOMENT}; got '1w'",
    ("events", "list", "--since", "1h", "--until", "2h"): "since: must be before until",
    ("events", "list", "--text", ""): "text: must have 1 to 1,024 characters, not 0",
    ("events", "list", "--source", "\x07"): "source: contains a control character",
    ("events", "retry"): "say which events: by their ids, or --all",
    ("events", "retry", "--all", NOBODY): "say which events: by their ids, or --all",
    ("events", "retry", "1"): "Invalid value for '[ID]...': '1' is not a valid UUID.",
    ("events", "list", "--tenant", os.fsdecode(b"\xff")):
        "tenant: contains a lone surrogate, which is half a character",
    (*LIST, "--state", "open"):
        "Invalid value for '--state': 'open' is not one of "
        "'pending', 'delivered', 'dead', 'cancelled', 'held'.",
    (*LIST, "--outcome", "late"):
        "Invalid value for '--outcome': 'late' is not one of "
        "'delivered', 'retry', 'dead', 'cancelled', 'lost'.",
    (*LIST, "--error-class", "net"):
        "Invalid value for '--error-class': 'net' is not one of 'dns', 'connect', 'tls', "
        "'timeout', 'reset', 'stale', 'protocol', 'blocked', 'truncated', 'internal'.",
    (*LIST, "--status", "50"): "status: must be a status such as 503, or a class such as 5xx",
    (*LIST, "--type", "a*b"): f"type: must be {PATTERN}; got 'a*b'",
    (*LIST, "--tenant", ""): "tenant: must have 1 to 255 characters, not 0",
    (*LIST, "--subject", "\x1b"): "subject: contains a control character",
    (*LIST, "--text", "x" * 1_025): "text: must have 1 to 1,024 characters, not 1,025",
    (*LIST, "--since", "2026-13-01"): f"since: {MOMENT}; got '2026-13-01'",
    (*LIST, "--until", "soon"): f"until: {MOMENT}; got 'soon'",
    (*LIST, "--since", "1h", "--until", "24h"): "since: must be before until",
    (*LIST, "--event", "1"): "Invalid value for '--event': '1' is not a valid UUID.",
    (*LIST, "--subscription", "1"):
        "Invalid value for '--subscription': '1' is not a valid UUID.",
    (*LIST, "--replay", "1"): "Invalid value for '--replay': '1' is not a valid UUID.",
    (*LIST, "--before", "1"): "Invalid value for '--before': '1' is not a valid UUID.",
    ("deliveries", "show", NOBODY, "--attempt", "0"):
        "Invalid value for '--attempt': 0 is not in the range x>=1.",
    ("deliveries", "show", NOBODY, "--curl", "--json"):
        "--curl and --json are two shapes; give one",
    ("deliveries", "retry"): WHICH,
    ("deliveries", "cancel", "--yes"): WHICH,
    ("deliveries", "retry", "1"): "Invalid value for '[ID]...': '1' is not a valid UUID.",
    ("deliveries", "retry", NOBODY, "--state", "dead"):
        "give ids, or options that say which deliveries; not both",
    ("deliveries", "retry", "--state", "delivered"):
        "state: only pending, dead and cancelled deliveries can be retried; see `outbox replay`",
    ("deliveries", "retry", "--status", "2xx"):
        "state: only pending, dead and cancelled deliveries can be retried; see `outbox replay`",
    ("deliveries", "cancel", "--state", "dead"):
        "state: only pending deliveries can be cancelled",
    ("deliveries", "cancel", "--state", "held", "--reason", "\x1b"):
        "reason: contains a control character",
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), WRONG.items(), ids=map(" ".join, WRONG))
def test_wrong_use(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    """Wrong use is exit code 2, and the last line says what is wrong."""
    result = cli(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: {message}"
    assert result.stderr.startswith(("Error: ", "Usage: "))


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("subscription", ("subscriptions", "show", NOBODY)),
        ("subscription", ("subscriptions", "pause", NOBODY)),
        ("subscription", ("subscriptions", "resume", NOBODY)),
        ("subscription", ("subscriptions", "remove", NOBODY, "--yes")),
        ("event", ("events", "show", NOBODY)),
        ("delivery", ("deliveries", "show", NOBODY)),
        ("delivery", ("deliveries", "show", NOBODY, "--curl")),
        ("delivery", ("deliveries", "retry", NOBODY)),
        ("delivery", ("deliveries", "cancel", NOBODY)),
        ("event", ("events", "retry", NOBODY)),
    ],
)
def test_what_is_not_there(cli: Cli, kind: str, arguments: tuple[str, ...]) -> None:
    """An unknown id is exit code 1."""
    result = cli(*arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {kind}: there is none with the id {NOBODY}\n"


def test_a_wrong_secret_is_not_repeated(cli: Cli) -> None:
    """What is no secret is refused, and the message does not hold it."""
    result = cli(*ADD, "--secret-stdin", stdin="whsec_hunter2")

    assert result.exit_code == 2
    assert result.stderr == (
        "Error: secret: must be whsec_ and 24 to 64 bytes in standard base64 with padding\n"
    )


def test_no_database_url(bare_cli: Cli) -> None:
    """Without a database URL it says how to give one."""
    result = bare_cli("events", "list")

    assert result.exit_code == 2
    assert result.stderr == (
        "Error: database url: is missing; give --database-url or set OUTBOX_DATABASE_URL\n"
    )


def test_a_wrong_database_url_is_not_repeated(bare_cli: Cli) -> None:
    """A URL that is none may still hold a password."""
    result = bare_cli("events", "list", "--database-url", "mysql://me:hunter2@localhost/shop")

    assert result.exit_code == 2
    assert result.stderr == (
        "Error: database url: must be postgresql://user@host/database or embedded:PATH\n"
    )


def test_a_server_that_is_down(bare_cli: Cli) -> None:
    """No connection is one line without the password."""
    url = "postgresql://me:hunter2@127.0.0.1:1/shop"
    result = bare_cli("--database-url", url, "events", "list")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: database: connection failed: ")
    assert result.stderr.count("\n") == 1
    assert "hunter2" not in result.stderr


def test_a_database_that_does_not_exist(committed_db: Database) -> None:
    """An unknown database is one line of PostgreSQL's own words."""
    result = Cli(urlsplit(committed_db.url)._replace(path="/nope").geturl())("events", "list")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: database: ")
    assert result.stderr.endswith('database "nope" does not exist\n')


DATABASE_URLS = {
    os.fsdecode(b"postgresql://hunter2\xff@localhost/x"): "must be text in UTF-8",
    "postgresql://hunter2\0@localhost/x": "contains a control character",
    "postgresql://me:hun@ter2@localhost/x":
        "an @ in the user or the password is written as %40",
    "postgresql://me:hunter2@localhost/x?nope=1":
        "must be postgresql://user@host/database or embedded:PATH",
}  # fmt: skip


@pytest.mark.parametrize(("url", "rule"), DATABASE_URLS.items(), ids=DATABASE_URLS.values())
def test_wrong_database_urls(bare_cli: Cli, url: str, rule: str) -> None:
    """What is no URL is told by the rule it breaks, and not repeated."""
    result = bare_cli("events", "list", "--database-url", url)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: database url: {rule}\n"


SETTINGS = {
    "role=pg_monitor": "permission denied for schema outbox; "
    "the role lacks the right; see `outbox grant`",
    "default_transaction_read_only=on": "cannot execute SELECT in a read-only transaction; "
    "is it a standby? give the url of the primary",
    "lock_timeout=1": "canceling statement due to lock timeout; another session holds a lock",
    "statement_timeout=10": "canceling statement due to statement timeout",
}


@pytest.mark.parametrize(("setting", "message"), SETTINGS.items(), ids=SETTINGS)
def test_what_the_server_refuses(committed_db: Database, setting: str, message: str) -> None:
    """What the server does not do is one line, without the statement, and with the remedy."""
    cli = Cli(f"{committed_db.url}&options={quote(f'-c {setting}')}")
    with committed_db.engine.begin() as other:
        if "timeout" in setting:
            other.exec_driver_sql("LOCK TABLE outbox.event IN EXCLUSIVE MODE")
        result = cli("events", "emit", "invoice.paid")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: database: {message}\n"


def test_a_login_that_is_refused(committed_db: Database) -> None:
    """A role that may not connect, or not so often, is one line of PostgreSQL's own words."""
    with committed_db.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE outbox_test_crowd LOGIN CONNECTION LIMIT 0")
    said = []
    try:
        for role in ("outbox_test_crowd", "outbox_test_nobody", "pg_monitor"):
            parts = urlsplit(committed_db.url)
            url = parts._replace(netloc=f"{role}@").geturl()
            said.append(Cli(url)("events", "list").stderr)
    finally:
        with committed_db.engine.begin() as connection:
            connection.exec_driver_sql("DROP ROLE outbox_test_crowd")

    assert [line.partition("FATAL: ")[2] for line in said] == [
        'too many connections for role "outbox_test_crowd"\n',
        'role "outbox_test_nobody" does not exist\n',
        'role "pg_monitor" is not permitted to log in\n',
    ]


@pytest.mark.slow
def test_a_wrong_password() -> None:
    """A password that is wrong is refused in one line, and is not repeated."""
    with embedded_server("fsync = off\n") as (url, folder):
        engine = engine_at(embedded.resolve(url))
        hba = folder / "data" / "pg_hba.conf"
        hba.write_text(f"local all me scram-sha-256\n{hba.read_text()}")
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE ROLE me LOGIN PASSWORD 'right'")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        parts = urlsplit(embedded.resolve(url))
        wrong = parts._replace(netloc="me:hunter2@").geturl()
        eventually(lambda: Cli(wrong)("events", "list").exit_code)  # once the file was read
        result = Cli(wrong)("events", "list")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: database: connection failed: connection to server on ")
    assert result.stderr.endswith('FATAL: password authentication failed for user "me"\n')
    assert result.stderr.count("FATAL") == 1
    assert "hunter2" not in result.stderr


@pytest.mark.clone
def test_another_schema(cloned_db: Database) -> None:
    """An older schema says how to upgrade it, a newer one that this program is too old."""
    cli, version = Cli(cloned_db.url), schema.VERSION
    with cloned_db.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO outbox.schema_version (version) VALUES (99)")
    newer = cli("events", "list")
    with cloned_db.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM outbox.schema_version")
        connection.exec_driver_sql("INSERT INTO outbox.schema_version (version) VALUES (1)")
    older = cli("events", "list")

    assert (newer.exit_code, older.exit_code) == (1, 1)
    assert newer.stderr == (
        f"Error: schema: the database has version 99, this program knows only {version}; "
        "install a newer outbox-webhooks\n"
    )
    assert older.stderr == (
        f"Error: schema: the database has version 1, this program needs {version}; "
        "run `outbox schema apply`\n"
    )


def test_a_limit_beyond_all_numbers(cli: Cli) -> None:
    """More than there can be is all there is."""
    assert cli("events", "list", "--limit", "9" * 30).exit_code == 0


@pytest.mark.system
def test_ctrl_c_in_the_middle(committed_db: Database) -> None:
    """Ctrl-C ends a command that waits for the database at once, with one line."""
    with committed_db.engine.begin() as other:
        other.exec_driver_sql("LOCK TABLE outbox.event IN ACCESS EXCLUSIVE MODE")
        with subprocess.Popen(
            [sys.executable, "-m", "outbox.cli", "events", "list"],
            env=environment(committed_db.url), stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            eventually(lambda: waiting(committed_db))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (130, "Error: interrupted\n")


def waiting(database: Database) -> bool:
    """Whether a command waits for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    query += " AND datname = current_database() AND application_name = 'outbox'"
    with database.engine.begin() as connection:
        return bool(connection.exec_driver_sql(query).scalar())


@pytest.mark.parametrize("command", ["events list", "subscriptions list", "deliveries list"])
def test_a_database_without_the_schema(committed_db: Database, command: str) -> None:
    """Where the schema is not installed it says how to install it."""
    url = urlsplit(committed_db.url)._replace(path="/template1").geturl()
    result = Cli(url)(*command.split())

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: schema: not installed in this database; run `outbox schema apply`\n"
    )


def test_the_database_url_of_a_command_wins(committed_db: Database) -> None:
    """--database-url works before the command and after it; the last one counts."""
    cli, url = Cli("postgresql://127.0.0.1:1/env"), committed_db.url
    wrong = "postgresql://127.0.0.1:1/wrong"

    assert cli("--database-url", url, "events", "list").exit_code == 0
    assert cli("events", "--database-url", url, "list").exit_code == 0
    assert cli("events", "list", "--database-url", url).exit_code == 0
    assert cli("--database-url", wrong, "events", "list", "--database-url", url).exit_code == 0
    assert cli("--database-url", url, "events", "list", "--database-url", wrong).exit_code == 1


def test_ctrl_c(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is one line and exit code 130."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("outbox.events.list_events", interrupt)
    result = cli("events", "list")

    assert result.exit_code == 130
    assert result.stderr == "Error: interrupted\n"


def test_a_full_disk(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operating system refuses is one line as well."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("outbox.cli.output.document", fail)
    result = cli("events", "list", "--json")

    assert result.exit_code == 1
    assert result.stderr == "Error: No space left on device\n"


@pytest.mark.system
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_reader_that_went_away(option: list[str]) -> None:
    """A pipe that nobody reads ends the program quietly."""
    command = [sys.executable, "-m", "outbox.cli", "schema", "print", *option]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()

        assert process.stderr.read() == ""
        assert process.wait() == 1
