"""The command `outbox`, put together."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import click

from outbox import __version__

from . import (
    audit,
    capture,
    deliveries,
    demo,
    doctor,
    events,
    grant,
    listen,
    replay,
    replays,
    retention,
    schema,
    secrets,
    status,
    subscriptions,
    types,
)
from .options import database_option
from .program import Program
from .session import VARIABLE


@click.group(cls=Program)
@click.version_option(__version__, message="outbox %(version)s")
@database_option(envvar=VARIABLE)
def outbox() -> None:
    """Webhooks from an application on PostgreSQL.

    \b
    Example:
      export OUTBOX_DATABASE_URL=postgresql://owner@localhost/shop
      outbox schema apply
      outbox subscriptions add https://example.com/hooks --types 'invoice.*'
      outbox events emit invoice.paid --data '{"id": 1}'
      outbox deliveries list
    """


for noun in (
    subscriptions,
    events,
    deliveries,
    replays,
    types,
    capture,
    secrets,
    retention,
    schema,
):
    outbox.add_command(noun.commands)
for verb in (
    status.command,
    doctor.command,
    replay.replay,
    audit.audit,
    retention.prune,
    grant.grant,
    grant.revoke,
    listen.listen,
    demo.demo,
):
    outbox.add_command(verb)


def main() -> None:
    """Run the command that was typed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # never fail on what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    outbox(prog_name="outbox")


if __name__ == "__main__":
    main()
