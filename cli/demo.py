"""`outbox demo`: the whole thing at work, and whether it adds up."""

from __future__ import annotations

import time
from dataclasses import dataclass
from secrets import token_bytes
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from outbox import database, subscriptions
from outbox.addresses import parse_allow
from outbox.deliveries import list_attempts, list_deliveries
from outbox.events import count_waiting, list_events
from outbox.signing import new_secret

from . import output
from .demo_account import Line, Stored, settle
from .demo_host import Host
from .demo_receiver import Receiver
from .demo_stage import LOOPBACK, Stage, Worker, postgresql
from .listing import TABLE
from .options import json_option
from .program import Failure
from .rows import row
from .session import author

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Engine

OUTAGE = 2.5  # seconds for which one receiver refuses
SCHEDULE = (0.0, 0.5, *[1.0] * 8, *[4.0] * 8)  # seconds before each attempt
TIME_LIMIT = 40.0  # seconds for everything to be delivered
STEP = 0.25  # seconds between two looks
ALL = 1_000_000
COLUMNS = ("what", "host", "database", "receivers", "fits")


@click.command()
@json_option
def demo(as_json: bool) -> None:
    """Watch it all work, and add up.

    On a PostgreSQL of its own, a small shop writes invoices and emits events in the same
    transactions, of which some roll back. The real worker brings the events to two
    receivers; one of them is down at first. Then the logs of the shop, of the database and
    of the receivers are compared. Exits with 0 only if they fit. Takes about 15 seconds
    and leaves nothing behind.

    \b
    Example:
      outbox demo
    """
    with output.Progress(to_stderr=as_json) as progress, database.translated():
        account = _play(progress)
    wrong = [line.what.strip() for line in account if not line.fits]
    if as_json:
        output.document({"adds_up": not wrong, "account": [row(line) for line in account]})
    else:
        output.section("the account")
        output.many([row(line) for line in account], COLUMNS, TABLE)
    if wrong:
        raise Failure(f"it does not add up: {'; '.join(wrong)}")
    if not as_json:
        output.line("\nIt all adds up.")


def _play(progress: output.Progress) -> list[Line]:
    with Stage() as stage:
        progress.show({"PostgreSQL": "is being started in a temporary folder"})
        folder = stage.start(TemporaryDirectory(prefix="outbox-demo-"))
        url, engine = stage.start(postgresql(folder))
        receivers = [
            stage.start(Receiver("invoice.*", _new_secret())),
            stage.start(Receiver("invoice.paid", _new_secret(), outage=OUTAGE)),
        ]
        _subscribe(engine, receivers)
        worker = stage.start(Worker(url, folder))
        host = stage.start(Host(engine))
        _watch(stage, engine, host, receivers, worker, progress)
        worker.finish()
        return settle(host.log, _stored(engine, host), [receiver.log for receiver in receivers])


def _new_secret() -> str:
    return new_secret(token_bytes(32))


def _subscribe(engine: Engine, receivers: Sequence[Receiver]) -> None:
    with engine.begin() as connection:
        for receiver in receivers:
            subscriptions.add(
                connection, receiver.log.url, [receiver.log.types], by=author(),
                schedule=SCHEDULE, secret_text=receiver.secret, allow=parse_allow(LOOPBACK),
            )  # fmt: skip


def _watch(
    stage: Stage,
    engine: Engine,
    host: Host,
    receivers: Sequence[Receiver],
    worker: Worker,
    progress: output.Progress,
) -> None:
    """Show what happens until all is delivered, or the time is up: the account will tell."""
    deadline = time.monotonic() + TIME_LIMIT
    while time.monotonic() < deadline:
        busy = host.busy()
        open_ = _look(engine)
        progress.show(_view(host, open_, receivers))
        if not (busy or open_.waiting or open_.pending):
            return
        worker.check()
        stage.pause(STEP)


@dataclass(frozen=True, slots=True)
class Look:
    """The database at one moment."""

    waiting: int
    deliveries: int
    pending: int


def _look(engine: Engine) -> Look:
    """Waiting events are counted first: what has left them by then is among the deliveries."""
    with engine.connect() as connection:
        waiting = count_waiting(connection)
        states = [each.state for each in list_deliveries(connection, limit=ALL)]
    return Look(waiting, len(states), states.count("pending"))


def _view(host: Host, look: Look, receivers: Sequence[Receiver]) -> dict[str, str]:
    kept = sum(1 for sale in host.log if sale.kept)
    view = {
        "invoices": f"{kept} committed, {len(host.log) - kept} rolled back",
        "events": f"{look.waiting} waiting",
        "deliveries": f"{look.pending} of {look.deliveries} pending",
    }
    for log in (receiver.log for receiver in receivers):
        accepted = len(log.accepted())
        refused = len(log.requests) - accepted
        view[f"receiver of {log.types}"] = f"{accepted} accepted, {refused} refused"
    return view


def _stored(engine: Engine, host: Host) -> Stored:
    with engine.connect() as connection:
        deliveries = list_deliveries(connection, limit=ALL)
        return Stored(
            invoices=host.count_invoices(),
            events=[event.id for event in list_events(connection, limit=ALL)],
            deliveries=deliveries,
            attempts=[a for each in deliveries for a in list_attempts(connection, each.id)],
        )
