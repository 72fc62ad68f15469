"""`outbox listen`: as a session in this process, and as the real command on a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from outbox.cli.answers import Answers
from outbox.cli.arrivals import not_http
from outbox.cli.forward import Forward
from outbox.cli.har import read_har
from outbox.cli.inbox import Inbox
from outbox.cli.keyboard import Key
from outbox.cli.listen_session import HELP, Options, Session
from outbox.schemes import signature
from outbox.signing import new_private_key, new_secret
from tests.helpers import environment

from .arrivals import request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from outbox.cli.arrivals import Arrival, Reply, Request

    from .conftest import Cli

SECRET = new_secret(b"s" * 32)
NOTHING = Answers()


@dataclass
class Shown:
    """A view that keeps what it is given."""

    said: list[str] = field(default_factory=list)

    def arrival(self, found: Arrival) -> None:
        self.said.append(f"{found.number} {found.verdict.state} {found.reply.status}")

    def whole(self, found: Arrival) -> None:
        self.said.append(f"whole {found.number}")

    def say(self, text: str) -> None:
        self.said.append(text)


def session(
    found: list[Request], *keys: str,
    handler: Callable[[httpx.Request], httpx.Response] | None = None,
    before: list[tuple[Request, int]] | None = None, **options: Any,
) -> tuple[list[Reply], list[str], Inbox]:  # fmt: skip
    """What a session answers to requests, and what it shows of them and of keys."""
    shown, inbox = Shown(), Inbox()
    forward = None if handler is None else Forward("http://a", httpx.MockTransport(handler))

    async def run() -> list[Reply]:
        rng = Random(1)  # noqa: S311 - of a test
        made = Session(Options(**{"answers": NOTHING, **options}), inbox, forward, shown, rng)
        made.origin = "http://127.0.0.1:8000"
        made.load(before or [])
        running = asyncio.create_task(made.run())
        replies = [await made.receive(each) for each in found]
        for key in keys:
            made.press(Key(key[-1], int(key[:-1]) if key[:-1] else None))
            await asyncio.sleep(0)
        if "limit" not in options and "q" not in keys:
            await asyncio.sleep(0.01)  # what a key began is done within this turn of the loop
            made.stop()
        await asyncio.wait_for(running, 10)
        return replies

    return asyncio.run(run()), shown.said, inbox


def signed(body: bytes = b"{}", **values: Any) -> Request:
    """A request of now that verifies."""
    made = request(body=body, **values)
    stamp = str(int(made.at.timestamp()))
    headers = signature(["standard"], [SECRET])(b"evt_1", stamp.encode(), body)
    named = [(name.decode(), value.decode()) for name, value in headers]
    return request(body=body, webhook_timestamp=stamp, **dict(named), **values)


def test_a_walk_of_retries() -> None:
    """Each webhook goes through the statuses, and its duplicates are known."""
    replies, said, inbox = session(
        [signed(), signed(), request(webhook_id="evt_2"), signed(), signed()],
        answers=Answers((503, 503, 200)), secrets=[SECRET],
    )  # fmt: skip

    assert [reply.status for reply in replies] == [503, 503, 503, 200, 200]
    assert said == [
        "1 verified 503", "2 verified 503", "3 unsigned 503", "4 verified 200", "5 verified 200",
    ]  # fmt: skip
    assert inbox.duplicates == 1


def test_the_answer() -> None:
    """A body is given if asked, as JSON if it looks like it."""
    plain = session([request()], body="é")[0][0]
    document = session([request()], body='{"ok": true}')[0][0]

    assert (plain.headers[0][1], plain.body) == ("text/plain; charset=utf-8", "é".encode())
    assert document.headers == (("Content-Type", "application/json"),)


def test_the_last_request() -> None:
    """After the last one that was asked for it ends, and takes no more."""
    replies, said, inbox = session([request(), request(), request()], limit=2)

    assert [reply.status for reply in replies] == [200, 200, 503]
    assert (said, inbox.count) == (["1 unsigned 200", "2 unsigned 200"], 2)


def test_what_is_no_http_counts() -> None:
    """It is in the list like the others, and may be the last one; a mistake of ours ends all."""
    shown = Shown()

    async def run(what: Request | Exception) -> None:
        rng = Random(1)  # noqa: S311 - of a test
        made = Session(Options(NOTHING, limit=1), Inbox(), None, shown, rng)
        made.broken(what)
        await asyncio.wait_for(made.run(), 10)

    asyncio.run(run(request(flaw=not_http("nonsense"))))
    assert shown.said == ["1 unchecked 400"]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(ZeroDivisionError()))


def test_forwarded() -> None:
    """Requests go on unless chance or the path refuses them; what is answered there is ours."""
    told = Answers(path="/hooks")
    replies, _, inbox = session(
        [request(), request("/elsewhere")], answers=told, handler=lambda _: httpx.Response(418)
    )

    assert [reply.status for reply in replies] == [418, 404]
    kept = inbox.get(1)
    assert kept
    assert kept.reply.note == "http://a answered 418"


def test_keys() -> None:
    """A key shows, saves or sends a request again; one that means nothing shows the keys."""
    _, said, _ = session([request(), request()], "b", "1b", "9b", "r", "x", "1c")

    assert said[2:7] == [
        "whole 2", "whole 1", "No request 9 is kept.",
        "There is nowhere to send it: give --forward.", HELP,
    ]  # fmt: skip
    assert said[7].startswith(
        "curl --include --globoff --path-as-is --request POST http://127.0.0.1:8000/hooks"
    )
    assert session([], "b")[1] == [HELP]
    assert session([], "q")[1] == []


def test_a_key_that_sends_again() -> None:
    """The same bytes go to the forward target once more, and its answer is shown."""
    seen = []

    def handler(found: httpx.Request) -> httpx.Response:
        seen.append(found.content)
        return httpx.Response(204)

    _, said, _ = session([request()], "1r", handler=handler)

    assert said[1:] == ["Sent 1 again: http://a answered 204."]
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_a_key_that_saves(tmp_path: Path) -> None:
    """All that is kept goes into the file; one that cannot be written ends nothing."""
    path = tmp_path / "a.har"

    assert session([request()], "h", har=path)[1][1:] == [f"Saved as {path}."]
    assert len(read_har(path.read_bytes())) == 1
    assert "cannot be written" in session([request()], "h", har=tmp_path / "no" / "a")[1][1]


def test_what_was_saved_before() -> None:
    """Requests of a file are in the list, judged as of their time."""
    _, said, inbox = session([signed()], before=[(signed(), 503)], secrets=[SECRET])

    assert said == ["1 verified 503", "2 verified 200"]
    assert inbox.duplicates == 0


def test_control_is_not_listed() -> None:
    """A question of a program on this machine is answered, and is no webhook."""
    replies, said, _ = session(
        [request(), request("/-/requests", method="GET", Host="localhost", peer="127.0.0.1")]
    )

    assert [row["number"] for row in json.loads(replies[1].body)] == [1]
    assert said == ["1 unsigned 200"]


WRONG = {
    ("--status", "99"): "status: must be 1 to 100 of 200 to 599, by commas: 503,503,200",
    ("--fail", "30"): "fail: must be a percentage such as 30%",
    ("--delay", "soon"): "delay: must be a number of seconds, or a number and s, m, h or d",
    ("--delay", "2h"): "delay: must be at most 1h",
    ("--forward", "ftp://a"): "forward: must begin with https:// or http://",
    ("--forward", "http://a", "--body", "x"):
        "--forward answers what is answered there; it goes without --status and --body",
    ("--secret", new_private_key(bytes(32))):
        "secret: is the sender's own; verify with its whpk_ key",
    ("--secret", "\x1b"): "secret: contains a control character",
    ("--secret-file", "/no/such"):
        "Invalid value for '--secret-file': File '/no/such' does not exist.",
    ("--scheme", "none"): "scheme: none signs nothing; leave it out",
    ("--scheme", "nope"):
        "scheme: must be one of standard, github, stripe, slack, shopify, logto, none, "
        "or hmac:HEADER:hex|base64[:PREFIX]",
    ("--strict",): "--strict needs a secret to verify with",
    ("--path", "hooks"): "path: must begin with /",
    ("--body", os.fsdecode(b"\xff")): "body: must be text in UTF-8",
    ("--port", "65536"): "Invalid value for '--port': 65536 is not in the range 0<=x<=65535.",
    ("--limit", "0"): "Invalid value for '--limit': 0 is not in the range x>=1.",
    ("--load", __file__):
        "load: is no HAR document: JSONDecodeError: Extra data: line 1 column 3 (char 2)",
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG.items(), ids=[option[0] for option in WRONG])
def test_wrong_use(bare_cli: Cli, options: tuple[str, ...], message: str) -> None:
    """Wrong use is exit code 2 before anything listens, and no secret is repeated."""
    result = bare_cli("listen", *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: {message}"


def test_a_file_that_cannot_be_written(bare_cli: Cli) -> None:
    """It is told at once, not when the requests are there to be saved."""
    result = bare_cli("listen", "--port", "0", "--har", "/no/such/a.har")

    assert result.exit_code == 1
    assert result.stderr == (
        "Error: har: /no/such/a.har cannot be written: No such file or directory\n"
    )


def test_a_port_in_use(bare_cli: Cli) -> None:
    """A port that another program has is one line and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = bare_cli("listen", "--port", str(port))

    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: port: {port} of 127.0.0.1 is in use; "
        "give another with --port, or 0 for a free one\n"
    )


# The real command.


def command(*arguments: str) -> list[str]:
    return ["-m", "outbox.cli", "listen", "--port", "0", *arguments]


@contextmanager
def started(
    arguments: list[str], stdin: int = subprocess.DEVNULL, stdout: int = subprocess.PIPE
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, and its URL."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, *arguments], env=environment() | {"TERM": "xterm"}, text=True,
        stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stderr
            line = process.stderr.readline()
            found = re.match(r"Listening on (http://127\.0\.0\.1:\d+); Ctrl-C ends it\.$", line)
            assert found, line + process.stderr.read()
            yield process, found[1]
        finally:
            process.kill()  # one that hangs fails its test instead of stopping all


@pytest.mark.system
def test_ctrl_c(tmp_path: Path) -> None:
    """In a pipe each line comes at once; Ctrl-C ends it with a summary, the file and 0."""
    path = tmp_path / "a.har"
    with started(command("--har", str(path), "--delay", "1h")) as (process, url):
        assert process.stdout
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/hooks", content=b"x", timeout=0.2)
        lines = [process.stdout.readline().split() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)

    assert lines[1][2:] == ["POST", "/hooks", "-", "1", "B", "unsigned", "1", "200"]
    assert (process.returncode, err) == (0, "1 request, 1 unsigned, 1 answered 200.\n")
    assert len(read_har(path.read_bytes())) == 1


@pytest.mark.system
def test_forwarding_to_another() -> None:
    """Two of them in a row: what goes on is the same there, and its answer comes back.

    For a program there is a line of JSON for each; after the last one they end.
    """
    limit = ("--limit", "2", "--json")
    with (
        started(command(*limit, "--body", "there", "--status", "503,200")) as (behind, target),
        started(command(*limit, "--forward", target)) as (front, url),
    ):
        path, headers = "/a%2Fb/../c?d=%1b", {b"X-Odd": b"\xe9", b"webhook-id": b"evt_1"}
        answers = [httpx.post(url + path, content=b"\xff", headers=headers) for _ in range(2)]
        rows = [json.loads(line) for line in behind.communicate(timeout=20)[0].splitlines()]
        front.communicate(timeout=20)

    assert (behind.returncode, front.returncode) == (0, 0)
    assert [(each.status_code, each.text) for each in answers] == [(503, "there"), (200, "there")]
    assert [(row["answer"], row["repeats"]) for row in rows] == [(503, None), (200, 1)]
    assert (rows[0]["body_base64"], rows[0]["headers"]["x-odd"]) == ("/w==", "\xe9")
    assert rows[0]["headers"]["host"] == target.removeprefix("http://")


@pytest.mark.slow
@pytest.mark.system
def test_a_reader_that_went_away() -> None:
    """A pipe that nobody reads ends it quietly."""
    with started(command()) as (process, url):
        assert process.stdout
        process.stdout.close()
        httpx.post(url)
        assert process.stderr
        assert process.stderr.read() == ""
        assert process.wait(20) == 1


CONTROLLING = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.mark.system
def test_a_terminal() -> None:
    """Keys work without Enter and are not shown; the terminal is left as it was."""
    ours, theirs = pty.openpty()
    before, seen = termios.tcgetattr(theirs), bytearray()

    def wait_for(text: bytes) -> None:
        while text not in seen:
            seen.extend(os.read(ours, 65_536))

    with started(["-c", CONTROLLING, *command()], theirs, theirs) as (process, url):
        assert process.stderr
        assert process.stderr.readline() == f"{HELP}\n"
        httpx.post(f"{url}/hooks", content=b'{"type":"a.b"}')
        wait_for(b"/hooks")
        os.write(ours, b"1c")
        wait_for(b"--data-raw")
        os.write(ours, b"q")
        assert process.wait(20) == 0
        assert termios.tcgetattr(theirs) == before

    assert b"1c" not in seen
    os.close(ours)
    os.close(theirs)
