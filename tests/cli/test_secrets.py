"""`outbox secrets`, `rotate-secret`, and the options that carry secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outbox.binary import to_base64
from outbox.keyring import Keyring
from outbox.signing import new_private_key, new_secret, public_key, sign, verify
from tests.factories import rows

from .rows import URL, add_event, add_subscription

if TYPE_CHECKING:
    from pathlib import Path

    from tests.databases import Database

    from .conftest import Cli

SECRET = new_secret(b"s" * 32)
ONE, TWO = to_base64(b"1" * 32), to_base64(b"2" * 32)
VARIABLE = "OUTBOX_SECRET_KEY"


def sealed(database: Database) -> list[tuple[str | None, str]]:
    with database.engine.connect() as connection:
        found = rows(connection, "SELECT key_id, sealed FROM outbox.secret ORDER BY id")
        return [(key, text) for key, text in found]


def test_new_key_is_a_key(bare_cli: Cli) -> None:
    """`new-key` prints a key, another each time, for people and programs."""
    first, second = bare_cli.out("secrets", "new-key").strip(), bare_cli.json("secrets", "new-key")

    assert Keyring.read(first).sealing_key != Keyring.read(second["key"]).sealing_key


def test_reseal_tells_how_many(
    cli: Cli, committed_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`reseal` seals what is in clear, once; then there is nothing to do."""
    for _ in range(3):
        add_subscription(committed_db)
    monkeypatch.setenv(VARIABLE, ONE)
    key = Keyring.read().sealing_key

    assert cli.json("secrets", "reseal") == {"resealed": 3, "unopened": 0, "key": key}
    assert cli.json("secrets", "reseal") == {"resealed": 0, "unopened": 0, "key": key}
    assert {each for each, _ in sealed(committed_db)} == {key}


def test_reseal_without_the_old_key(cli: Cli, committed_db: Database) -> None:
    """What does not open is told, left as it is, and the exit code is 1."""
    assert cli("subscriptions", "add", URL, "--types", "*", **{VARIABLE: ONE}).exit_code == 0
    before = sealed(committed_db)
    result = cli("secrets", "reseal", **{VARIABLE: TWO})

    assert result.exit_code == 1
    assert result.stderr == "Error: 1 secrets do not open with the keys of OUTBOX_SECRET_KEY\n"
    assert sealed(committed_db) == before


@pytest.mark.parametrize("keys", ["hunter2-hunter2", ONE[:-2], f"{ONE};{TWO}"])
def test_malformed_key(cli: Cli, keys: str) -> None:
    """A key of another form is wrong use, in one line that does not repeat it."""
    for command in (["secrets", "reseal"], ["subscriptions", "add", URL, "--types", "*"]):
        result = cli(*command, **{VARIABLE: keys})

        assert result.exit_code == 2
        assert result.stderr.startswith("Error: OUTBOX_SECRET_KEY: must be 32 random bytes")
        assert keys not in result.stderr
        assert result.stderr.count("\n") == 1


def test_add_with_a_key(cli: Cli, committed_db: Database) -> None:
    """With a key the secret is shown, stored sealed, and nobody is warned."""
    result = cli("subscriptions", "add", URL, "--types", "*", **{VARIABLE: ONE})
    ((key_id, text),) = sealed(committed_db)

    assert result.stderr == "Keep the secret now: it is not shown again.\n"
    assert key_id == Keyring.read(ONE).sealing_key
    assert text not in result.stdout


def test_a_key_pair(cli: Cli, committed_db: Database) -> None:
    """--ed25519 shows what a receiver needs, the public key, and never the private one."""
    result = cli("subscriptions", "add", URL, "--types", "*", "--ed25519")
    ((_, private),) = sealed(committed_db)
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())

    assert private.startswith("whsk_")
    assert lines["public_key"] == public_key(private)
    assert "whsk_" not in result.output
    assert result.stderr.startswith("Give the receiver the public key; it verifies v1a")


def test_a_secret_from_a_file(cli: Cli, committed_db: Database, tmp_path: Path) -> None:
    """--secret-file takes what is in the file, without the line's end."""
    file = tmp_path / "secret"
    file.write_text("It's a Secret to Everybody\n")
    added = cli.json(
        "subscriptions", "add", URL, "--types", "*", "--scheme", "github",
        "--secret-file", str(file),
    )  # fmt: skip

    assert added["secret"] == "It's a Secret to Everybody"  # noqa: S105
    assert added["schemes"] == ["github"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--secret-file", "/nowhere/secret"], "does not exist"),
        (["--secret-file", "-"], "secret: there is none on stdin"),
        (["--ed25519", "--secret-file", "-"], "takes none from a file"),
        (["--ed25519", "--scheme", "slack"], "the scheme slack cannot sign with a whsk_ key"),
        (["--scheme", "none", "--secret-stdin"], "secret: there is none on stdin"),
        (["--scheme", "none", "--scheme", "github"], "scheme: none stands alone"),
        (["--scheme", "hmac:Host:hex"], "header: Host is set by the outbox itself"),
        (["--scheme", "rot13"], "scheme: must be one of standard, github"),
        (["--format", "xml"], "format: must be one of standard, cloudevents"),
        (["--method", "GET"], "method: must be one of POST, PUT, PATCH"),
        (["--user-agent", "é"], "user-agent: must be printable ASCII"),
    ],
)
def test_wrong_choices(cli: Cli, options: list[str], told: str) -> None:
    """What cannot be, or not together, is wrong use; nothing is added."""
    result = cli("subscriptions", "add", URL, "--types", "*", *options)

    assert (result.exit_code, cli.json("subscriptions", "list")) == (2, [])
    assert told in result.stderr


# Rotation.


def test_rotate(cli: Cli, committed_db: Database) -> None:
    """The new secret is shown once; the old one signs on for a day, or as long as is said."""
    id = str(add_subscription(committed_db, secret_text=SECRET))
    rotated = cli.json("subscriptions", "rotate-secret", id)
    result = cli("subscriptions", "rotate-secret", id, "--overlap", "90m")

    assert rotated["secret"] != SECRET
    assert rotated["revision"] == 2
    assert result.stderr.startswith("Keep the secret now: it is not shown again.\n")
    with committed_db.engine.connect() as connection:
        ends = rows(
            connection,
            "SELECT round(extract(epoch FROM expires_at - created_at) / 3600, 1)"
            " FROM outbox.secret ORDER BY id",
        )
    assert [None if end is None else float(end) for (end,) in ends] == [1.5, 1.5, None]


def test_rotate_to_a_secret_of_ones_own(cli: Cli, committed_db: Database) -> None:
    """A secret may be brought along; without an overlap it is the only one."""
    id = str(add_subscription(committed_db))
    rotated = cli.json(
        "subscriptions", "rotate-secret", id, "--secret-file", "-", "--overlap", "0", stdin=SECRET
    )

    assert rotated["secret"] == SECRET
    assert sealed(committed_db) == [(None, SECRET)]


@pytest.mark.parametrize("overlap", ["soon", "-1", "", "1w", "31d", "nan"])
def test_wrong_overlap(cli: Cli, committed_db: Database, overlap: str) -> None:
    """An overlap is a time up to 30 days."""
    id = str(add_subscription(committed_db))
    result = cli("subscriptions", "rotate-secret", id, f"--overlap={overlap}")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: overlap: must be ")


# Preview.


def test_preview(cli: Cli, committed_db: Database) -> None:
    """A person sees the request line, the headers and the body, and that they are real."""
    subscription = add_subscription(committed_db, secret_text=SECRET, method="PUT")
    event = add_event(committed_db, data={"id": 1, "name": "é"})
    result = cli("subscriptions", "preview", str(subscription), "--event", str(event))
    head, _, body = result.stdout.partition("\n\n")
    first, *lines = head.splitlines()
    headers = dict(line.split(": ", 1) for line in lines)

    assert first == f"PUT {URL}"
    assert headers["webhook-id"] == str(event)
    assert headers["webhook-attempt"] == "1"
    verify(body[:-1].encode(), headers, SECRET, now=float(headers["webhook-timestamp"]))
    assert result.stderr.startswith("The signatures are real")


def test_preview_for_programs(cli: Cli, committed_db: Database) -> None:
    """--json has the same in one object; credentials of the subscription are hidden."""
    subscription = str(
        add_subscription(
            committed_db, secret_text=SECRET, format="cloudevents",
            headers={"Authorization": "Bearer hunter2", "X-Team": "billing"},
        )
    )  # fmt: skip
    event = str(add_event(committed_db))
    shown = cli.json("subscriptions", "preview", subscription, "--event", event)
    sent, body = shown["headers"], shown["body"]

    assert (shown["method"], shown["url"]) == ("POST", URL)
    assert (sent["authorization"], sent["x-team"]) == ("[secure]", "billing")
    assert sent["content-type"] == "application/cloudevents+json; charset=UTF-8"
    assert sent["webhook-signature"] == sign(
        SECRET, event, int(sent["webhook-timestamp"]), body.encode()
    )
    assert SECRET not in str(shown)


def test_preview_of_the_body(cli: Cli, committed_db: Database) -> None:
    """--body gives the exact bytes, for a file or a pipe."""
    subscription = add_subscription(committed_db, format="raw")
    event = add_event(committed_db, data=["\u202e", 1.5])
    result = cli("subscriptions", "preview", str(subscription), "--event", str(event), "--body")

    assert result.stdout_bytes == '["\u202e",1.5]'.encode()
    assert result.stderr == ""


def test_preview_of_nothing(cli: Cli, committed_db: Database) -> None:
    """What is not there, or removed, is told as by every command."""
    subscription = str(add_subscription(committed_db))
    event = str(add_event(committed_db))
    unknown = "0190163d-8694-739b-aea5-966c26f8ad91"

    for id, of, told in (
        (unknown, event, "subscription: there is none"),
        (subscription, unknown, "event: there is none"),
    ):
        result = cli("subscriptions", "preview", id, "--event", of)
        assert (result.exit_code, told in result.stderr) == (1, True)
    cli.json("subscriptions", "remove", subscription, "--yes")
    result = cli("subscriptions", "preview", subscription, "--event", event)
    assert (result.exit_code, "it cannot be previewed" in result.stderr) == (1, True)


def test_preview_with_a_lost_key(cli: Cli, committed_db: Database) -> None:
    """A secret that does not open is told as a worker would tell it."""
    assert cli("subscriptions", "add", URL, "--types", "*", **{VARIABLE: ONE}).exit_code == 0
    (added,) = cli.json("subscriptions", "list")
    result = cli("subscriptions", "preview", added["id"], "--event", str(add_event(committed_db)))

    assert result.exit_code == 2
    assert "OUTBOX_SECRET_KEY lacks the key" in result.stderr


def test_a_private_key_of_ones_own(cli: Cli, committed_db: Database) -> None:
    """A whsk_ key from a file is taken, and shown as its public half."""
    private = new_private_key(bytes(32))
    added = cli.json("subscriptions", "add", URL, "--types", "*", "--secret-stdin", stdin=private)

    assert added["public_key"] == public_key(private)
    assert private not in str(added)
