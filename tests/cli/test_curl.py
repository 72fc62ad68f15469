"""A request as a command: what a shell makes of it, and what arrives."""

from __future__ import annotations

import doctest
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

import outbox
from outbox import Event, subscriptions
from outbox.cli import curl as module
from outbox.cli.curl import MAX_ARGUMENT, curl
from outbox.deliveries import show_delivery
from outbox.request import Outgoing
from outbox.sent import next_request
from tests.factories import BY, LOOPBACK

from .rows import add_attempt, add_delivery

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from tests.databases import Database
    from tests.receiver import Receiver

    from .conftest import Cli

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
BODIES = {
    "plain": b'{"a": 1}',
    "quotes": b"""{"a": "it's $HOME `id` \\"\\\\n"}""",
    "of two lines": '{\n  "é": "😀"}'.encode(),
    "that steers": '{"a": "\x9b2J \u202e \x7f"}'.encode(),
    "that is large": b'"' + b"x" * 2 * MAX_ARGUMENT + b'"',
}
HEADERS = (
    (b"content-type", b"application/json"),
    (b"user-agent", b"ours/1"),
    (b"x-team", b'it\'s "$HOME" `id`'),
    (b"x-api-key", b"hunter2"),
    (b"webhook-signature", b"v1,a+b/="),
)


def request(url: str, body: bytes = BODIES["plain"], method: str = "POST") -> Outgoing:
    return Outgoing(url, HEADERS, body, method)


def command_of(made: Outgoing, hidden: Collection[str] = ()) -> str:
    headers = [(name.decode(), value.decode()) for name, value in made.headers]
    return curl(made.method, made.url, headers, made.body, hidden=hidden)


def test_examples() -> None:
    """The examples of the module hold."""
    assert doctest.testmod(module).failed == 0


def test_words() -> None:
    """What a shell makes of it: one argument for each header, none of them expanded."""
    made = request("https://example.com/a b?x=[1]&y='2'")
    words = shlex.split(command_of(made).replace("\\\n", ""))

    assert words[:6] == ["curl", "--include", "--globoff", "--path-as-is", "--request", "POST"]
    assert words[6] == made.url
    sent = [words[n + 1] for n, word in enumerate(words) if word == "--header"]
    assert sent == ["accept:", "expect:", *(f"{k.decode()}: {v.decode()}" for k, v in HEADERS)]
    assert words[-2:] == ["--data-raw", made.body.decode()]


def test_no_secret_is_in_it() -> None:
    """What is hidden comes from a variable, and its value stands nowhere."""
    command = command_of(request("https://example.com/"), {"x-api-key"})

    assert "hunter2" not in command
    assert """--header 'x-api-key: '"${X_API_KEY}" """ in command


@pytest.mark.parametrize("body", BODIES)
def test_nothing_steers_the_terminal(body: str) -> None:
    """It has no character that a terminal would not show."""
    command = command_of(request("https://example.com/", BODIES[body]))

    assert all(c.isprintable() or c == "\n" for c in command)


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("body", BODIES)
def test_what_arrives(receiver: Receiver, body: str, method: str) -> None:
    """Pasted into a shell, it sends these bytes and headers, and none of curl's own."""
    made = request(f"{receiver.url}&x=[1-3]&y='2'&z={{a,b}}", BODIES[body], method)
    done = run(command_of(made, {"x-api-key"}), X_API_KEY="hunter2")
    (arrived,) = receiver.wait_for(1)

    assert done.stdout.startswith("HTTP/1.1 200 OK")
    assert (arrived.method, arrived.body) == (method, made.body)
    assert made.url.endswith(arrived.path)
    headers = [header for header in arrived.headers if header[0].lower() not in ADDED]
    assert headers == [(name.decode(), value.decode()) for name, value in HEADERS]


ADDED = {"host", "content-length"}


def run(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh"], input=command, env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **env},
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip


# As a receiver saw it: any method, header and byte.

URL = "http://127.0.0.1:8000/hooks"
SHELL = """curl() { printf '%s\\0' "$@"; case "$*" in *@-*) printf '<'; cat;; esac; }\n"""


def arguments(command: str) -> list[bytes]:
    """What curl would be called with, and after `<` its stdin."""
    script = (SHELL + command).encode()
    done = subprocess.run(["/bin/sh", "-s"], input=script, capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.removesuffix(b"\0").split(b"\0")[3:]


def test_a_request() -> None:
    """Headers keep their case and order; those of the connection are curl's own."""
    headers = (("Webhook-Id", "it's"), ("Host", "x"), ("content-length", "9"), ("X-Empty", ""))

    assert arguments(curl("PUT", URL, headers, b"$(id) `id` !x")) == [
        b"--request", b"PUT", URL.encode(), b"--header", b"accept:", b"--header", b"expect:",
        b"--header", b"user-agent:", b"--header", b"content-type:",
        b"--header", b"Webhook-Id: it's", b"--header", b"X-Empty;",
        b"--data-raw", b"$(id) `id` !x",
    ]  # fmt: skip


def test_odd_requests() -> None:
    """No method, path or header is changed on the way through the shell and curl."""
    assert arguments(curl("HEAD", URL, (), b""))[0] == b"--head"
    assert arguments(curl("GET", f"{URL}/../[1]", (), b""))[2] == f"{URL}/../[1]".encode()
    assert arguments(curl("GET", f"{URL}/\xe9", (), b""))[2] == f"{URL}/".encode() + b"\xe9"
    assert arguments(curl("GET", URL, (("X-A", "\xe9\x1b"),), b""))[-1] == b"X-A: \xe9\x1b"


@pytest.mark.parametrize(
    "body", [bytes(range(256)), "é\n'\\ \u202e".encode(), b"@file", b"-x", b"\n", b"\r\n", b"a\0"]
)
def test_any_body(body: bytes) -> None:
    """A body arrives byte for byte, and the command cannot steer a terminal."""
    command = curl("POST", URL, (), body)
    script = ["/bin/sh", "-c", SHELL + command]
    done = subprocess.run(script, capture_output=True, check=True)  # noqa: S603 - our own command

    assert done.stdout.endswith((b"--data-raw\0" + body + b"\0", b"--data-binary\0@-\0<" + body))
    assert command.replace("\n", "").isprintable()


# Through the command line.


@pytest.fixture
def delivery(committed_db: Database, receiver: Receiver) -> UUID:
    """A delivery that was refused once, to a subscription with a credential."""
    with committed_db.engine.begin() as connection:
        to = subscriptions.add(
            connection, receiver.url, ["*"], by=BY, allow=LOOPBACK, headers={"X-Api-Key": "hunter2"}
        )[0].id
        event = outbox.emit(connection, Event(type="a.b", data={"text": "it's"}))
    id = add_delivery(committed_db, event, to, due_at=NOW, attempt=1, failures=1)
    add_attempt(committed_db, id, 1, "retry", status=503, revision=1, started_at=NOW)
    return id


def test_curl(cli: Cli, committed_db: Database, delivery: UUID) -> None:
    """It is the next attempt, signed now; what is to be known of it stands on stderr."""
    result = cli("deliveries", "show", str(delivery), "--curl")

    assert "webhook-attempt: 2" in result.stdout
    assert "hunter2" not in result.output
    assert result.stderr.splitlines() == [
        "The signature is real: whoever sees it can send this request.",
        "Set X_API_KEY first: it is not shown here.",
    ]
    with committed_db.engine.connect() as connection:
        made = next_request(connection, show_delivery(connection, delivery), now=1e9)
    assert made.outgoing.body.decode().replace("'", """'"'"'""") in result.stdout


def test_curl_of_an_attempt(cli: Cli, delivery: UUID) -> None:
    """It is that attempt, with its number and its time."""
    out = cli.out("deliveries", "show", str(delivery), "--curl", "--attempt", "1")

    assert "webhook-attempt: 1" in out
    assert f"webhook-timestamp: {NOW.timestamp():.0f}" in out
