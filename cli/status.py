"""`outbox status`: how it goes, once or as a live screen."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from outbox import OutboxError, database, schema, status
from outbox.errors import InvalidInput
from outbox.schedule import parse_duration

from . import output, session
from .dashboard import log_line, page, stamp
from .layout import span
from .options import database_option, json_option

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from outbox.status import Status

SHORTEST, LONGEST = 0.2, 3_600.0  # seconds between two looks
TICK = 0.2  # seconds until a key or a new size of the terminal is seen


@click.command("status")
@click.option("--watch", is_flag=True, help="Go on until q or Ctrl-C, on the whole terminal.")
@click.option(
    "--every", metavar="TIME", default="2s", show_default=True,
    help="With --watch: the time between two looks.",
)  # fmt: skip
@json_option
@database_option()
def command(watch: bool, every: str, as_json: bool) -> None:
    """Show how it goes.

    Workers alive, events and deliveries a second, what waits and for how long, how long
    deliveries took, and what is failing, held or replayed. A ~ marks a number that is
    estimated, since too much is open to be counted.

    With --watch it goes on when the database is away for a while; in a pipe it writes a
    line for each look, with --json a document on each line. q and Ctrl-C end it with 0.

    \b
    Example:
      outbox status --watch
    """
    interval = _interval(every)
    with session.open_engine(any_schema=True) as engine:
        first = look(engine)
        if not watch:
            _print(first, as_json=as_json)
            return
        with Watcher(engine, interval, first) as watcher:
            try:
                if as_json or not output.Screen.is_possible():
                    _log(watcher, interval, as_json=as_json)
                else:
                    _draw(watcher, f"every {every}, q to quit")
            except KeyboardInterrupt:
                return


def _interval(text: str) -> float:
    interval = parse_duration("every", text)
    if not SHORTEST <= interval <= LONGEST:
        raise InvalidInput("every", "must be from 0.2s to 1h")
    return interval


def look(engine: Engine) -> Status:
    """Return how it goes. Raises what the database does as errors of our own."""
    with database.translated(), engine.connect() as connection, connection.begin():
        schema.check(connection)
        return status.look(connection)


@dataclass(frozen=True, slots=True)
class Seen:
    """The last `status`, the number of looks so far, and why the last one `failed`, if it did.

    `at` is when, by the monotonic clock of this machine, the status was seen.
    """

    status: Status
    at: float
    looks: int = 1
    failed: str | None = None


class Watcher:
    """Looks again and again, in a thread of its own, so that nothing keeps the screen waiting."""

    def __init__(self, engine: Engine, interval: float, first: Status) -> None:
        self._engine = engine
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._seen = Seen(first, time.monotonic())

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # a look that hangs is left behind: the thread ends with the process

    @property
    def seen(self) -> Seen:
        """What was seen last. Raises RuntimeError if a fault of ours has ended the thread."""
        if not (self._thread.is_alive() or self._ended.is_set()):
            raise RuntimeError("the thread that looks has ended")
        return self._seen

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            looks = self._seen.looks + 1
            try:
                self._seen = Seen(look(self._engine), time.monotonic(), looks)
            except OutboxError as error:
                self._engine.dispose()
                self._seen = replace(self._seen, looks=looks, failed=str(error))


def _print(found: Status, *, as_json: bool) -> None:
    if as_json:
        output.document(asdict(found))
    else:
        output.page(lambda width, ascii_only: page(found, width=width, ascii_only=ascii_only))


def _draw(watcher: Watcher, hint: str) -> None:
    drawn: object = None
    with output.Screen() as screen:
        while screen.key(timeout=TICK if drawn else 0) not in {"q", "Q"}:
            seen, (width, height) = watcher.seen, screen.size
            notice = _notice(seen, time.monotonic())
            if drawn != (seen.looks, width, height, notice):
                drawn = (seen.looks, width, height, notice)
                screen.show(
                    page(
                        seen.status, width=width, height=height, hint=hint, notice=notice,
                        ascii_only=screen.ascii_only,
                    )
                )  # fmt: skip


def _notice(seen: Seen, now: float) -> str:
    if seen.failed is None:
        return ""
    return f"Not seen for {span(now - seen.at)}: {seen.failed}"


def _log(watcher: Watcher, interval: float, *, as_json: bool) -> None:
    told = 0
    while True:
        seen = watcher.seen
        if seen.looks > told:
            told = seen.looks
            _tell(seen, as_json=as_json)
        time.sleep(min(TICK, interval / 2))


def _tell(seen: Seen, *, as_json: bool) -> None:
    now = datetime.now(UTC)  # noqa: TID251 - the edge
    if as_json:
        found = asdict(seen.status) if seen.failed is None else {"at": now, "error": seen.failed}
        output.document_line(found)
    else:
        output.line(
            log_line(seen.status) if seen.failed is None else f"{stamp(now)}  {seen.failed}"
        )
