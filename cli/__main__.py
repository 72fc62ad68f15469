"""The command `outbox`, put together."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import click

from outbox import __version__

from . import deliveries, demo, events, replay, replays, schema, secrets, subscriptions
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


for noun in (subscriptions, events, deliveries, replays, secrets, schema):
    outbox.add_command(noun.commands)
outbox.add_command(replay.replay)
outbox.add_command(demo.demo)


def main() -> None:
    """Run the command that was typed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # never fail on what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    outbox(prog_name="outbox")


if __name__ == "__main__":
    main()
