"""`outbox secrets`: the keys that seal the secrets of subscriptions."""

from __future__ import annotations

import click

from outbox import secrets
from outbox.keyring import Keyring, new_key

from . import output
from .options import database_option, json_option
from .program import Failure
from .session import transaction


@click.group("secrets")
@database_option()
def commands() -> None:
    """Seal the secrets of subscriptions at rest.

    \b
    Example:
      export OUTBOX_SECRET_KEY=$(outbox secrets new-key)
      outbox secrets reseal
    """


@commands.command("new-key")
@json_option
def new_key_(as_json: bool) -> None:
    """Print a new key for OUTBOX_SECRET_KEY.

    Workers and command lines need the same keys. Without them the secrets are lost.

    \b
    Example:
      outbox secrets new-key
    """
    key = new_key()
    if as_json:
        output.document({"key": key})
    else:
        output.line(key)


@commands.command()
@json_option
@database_option()
def reseal(as_json: bool) -> None:
    """Seal all secrets with the first key.

    Those in clear and those of the other keys of OUTBOX_SECRET_KEY. To change the key, put
    a new one in front for all programs, reseal, then take the old one away.

    \b
    Example:
      export OUTBOX_SECRET_KEY=$NEW,$OLD
      outbox secrets reseal
    """
    keyring = Keyring.read()
    resealed = unopened = 0
    batch = secrets.Resealed(0, 0, None)
    while True:
        with transaction() as connection:
            batch = secrets.reseal(connection, keyring, after=batch.after)
        if batch.after is None:
            break
        resealed, unopened = resealed + batch.resealed, unopened + batch.unopened
    output.one(
        {"resealed": resealed, "unopened": unopened, "key": keyring.sealing_key}, as_json=as_json
    )
    if unopened:
        raise Failure(f"{unopened:,} secrets do not open with the keys of OUTBOX_SECRET_KEY")
