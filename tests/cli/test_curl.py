"""The command that sends a request again, as a real shell reads it."""

from __future__ import annotations

import doctest
import subprocess

import pytest

from outbox.cli import curl as module
from outbox.cli.curl import curl

URL = "http://127.0.0.1:8000/hooks"
SHELL = """curl() { printf '%s\\0' "$@"; case "$*" in *@-*) printf '<'; cat;; esac; }\n"""


def arguments(command: str) -> list[bytes]:
    """What curl would be called with, and after `<` its stdin."""
    script = (SHELL + command).encode()
    done = subprocess.run(["/bin/bash", "-s"], input=script, capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.removesuffix(b"\0").split(b"\0")


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(module).failed == 0


def test_a_request() -> None:
    """Headers keep their case and order; those of the connection are curl's own."""
    headers = (("Webhook-Id", "it's"), ("Host", "x"), ("content-length", "9"), ("X-Empty", ""))

    assert arguments(curl("PUT", URL, headers, b"$(id) `id` !x")) == [
        b"-X", b"PUT", URL.encode(), b"-H", b"Webhook-Id: it's", b"-H", b"X-Empty;",
        b"-H", b"Accept:", b"-H", b"Content-Type:", b"-H", b"User-Agent:",
        b"--data-raw", b"$(id) `id` !x",
    ]  # fmt: skip


def test_odd_requests() -> None:
    """No method, path or byte is changed on the way through the shell and curl."""
    assert arguments(curl("HEAD", URL, (), b""))[0] == b"--head"
    odd = arguments(curl("GET", f"{URL}/../[1]", (), b""))
    assert odd[2:5] == [b"--path-as-is", b"--globoff", f"{URL}/../[1]".encode()]
    assert arguments(curl("GET", f"{URL}/\xe9", (), b""))[2] == f"{URL}/".encode() + b"\xe9"
    assert arguments(curl("GET", URL, (("X-A", "\xe9\x1b"),), b""))[4] == b"X-A: \xe9\x1b"


@pytest.mark.parametrize(
    "body",
    [
        bytes(range(1, 256)),
        "é\n'\\ \u202e".encode(),
        b"@file",
        b"-x",
        b"\n",
        b"\xe9'\\x41",
        b"\r\n",
    ],
)
def test_any_body(body: bytes) -> None:
    """A body arrives byte for byte, and the command cannot steer a terminal."""
    command = curl("POST", URL, (), body)

    assert arguments(command)[-1] == body
    assert command.replace("\n", "").isprintable()


@pytest.mark.parametrize("body", [b"\0", b"a\0\xff\n"])
def test_a_body_with_nul(body: bytes) -> None:
    """What no argument can hold goes through a pipe."""
    done = subprocess.run(  # noqa: S603 - our own command
        ["/bin/bash", "-c", SHELL + curl("POST", URL, (), body)], capture_output=True, check=True
    )

    assert done.stdout.endswith(b"--data-binary\0@-\0<" + body)
