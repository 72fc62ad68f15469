"""A secret on its way in and out: read from a file, made, shown once."""

from __future__ import annotations

from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING

import click

from outbox import InvalidInput
from outbox.keyring import IN_CLEAR, Keyring
from outbox.signing import PRIVATE_PREFIX, new_private_key, public_key

from . import output
from .options import has_terminal, read_stdin
from .program import WrongUse

if TYPE_CHECKING:
    from collections.abc import Callable

    from .rows import Row

STDIN = "-"

_OPTIONS = (
    click.option(
        "--secret-file", type=click.Path(exists=True, dir_okay=False, allow_dash=True),
        metavar="FILE", help="Take the secret from it; - is stdin.",
    ),
    click.option(
        "--secret-stdin", "secret_file", flag_value=STDIN, help="The same as --secret-file -"
    ),
    click.option(
        "--ed25519", is_flag=True,
        help="Make a key pair, whose public half is shown; for the scheme standard.",
    ),
)  # fmt: skip


def secret_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--secret-file`, `--secret-stdin` and `--ed25519`, for `given_secret`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_secret(secret_file: str | None, ed25519: bool) -> str | None:
    """Return the secret that the options name, None for a new one of the usual kind."""
    if secret_file is not None and ed25519:
        raise WrongUse("--ed25519 makes a key; it takes none from a file")
    if secret_file is None:
        return new_private_key(token_bytes(32)) if ed25519 else None
    return read_secret(secret_file)


def read_secret(file: str) -> str:
    """Return the secret that stands in a file; `-` is stdin, or is asked for on a terminal."""
    text = (_asked() if file == STDIN else _read(file)).strip()
    if not text:  # to the library it would be a secret of no characters
        raise InvalidInput("secret", f"there is none {_place(file)}")
    return text


def secret_row(secret: str | None) -> Row:
    """What is shown of a secret: what a receiver needs of it."""
    if secret is None:
        return {}
    if secret.startswith(PRIVATE_PREFIX):
        return {"public_key": public_key(secret)}
    return {"secret": secret}


def print_secret(secret: str | None) -> None:
    """Print a new secret, if there is one, for a person."""
    if secret is not None:
        output.one(secret_row(secret), as_json=False)
        note(secret)


def note(secret: str | None) -> None:
    """Tell a person what to do with what was shown, and how it is stored."""
    if secret is None:
        return
    if not secret.startswith(PRIVATE_PREFIX):
        output.note("Keep the secret now: it is not shown again.")
    else:
        output.note("Give the receiver the public key; it verifies v1a signatures.")
    if Keyring.read().sealing_key is None:
        output.note(IN_CLEAR)


def _asked() -> str:
    return output.asked_secret("Secret") if has_terminal() else _decoded(read_stdin())


def _read(file: str) -> str:
    return _decoded(Path(file).read_bytes())


def _place(file: str) -> str:
    return "on stdin" if file == STDIN else f"in {file}"


def _decoded(raw: bytes) -> str:
    return raw.decode(errors="replace")
