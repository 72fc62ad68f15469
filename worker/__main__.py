"""`outbox-worker`: the command."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from outbox.addresses import parse_allow
from outbox.database import split
from outbox.errors import InvalidInput, OutboxError, SchemaMismatch
from outbox.keyring import IN_CLEAR, Keyring
from outbox.version import __version__

from .endpoint import listen
from .ledger import Ledger
from .monitor import Post
from .process import Process, run_process
from .proxy import parse_proxy
from .settings import Settings
from .supervisor import FUTILE, Supervisor
from .telemetry import configure

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Sequence

logger = logging.getLogger("outbox.worker")

# New objects until a collection looks for cycles among them. A delivery leaves none behind,
# and with Python's 700 that search was an eighth of the worker's time.
YOUNG = 20_000

EPILOG = """
Example:

  OUTBOX_DATABASE_URL=postgresql://worker@db/app outbox-worker --processes 2
"""


class Url(click.ParamType):  # type: ignore[type-arg] # generic from 8.5 on
    """The URL of a database; a variable may have several."""

    name = "url"

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return split(rv)


@click.command(epilog=EPILOG, context_settings={"show_default": True})
@click.option(
    "--database-url", envvar="OUTBOX_DATABASE_URL", required=True, metavar="URL", type=Url(),
    multiple=True,
    help="postgresql://user@host/database or embedded:PATH, once for each database; the "
    "variable may have several, with blanks between.",
)  # fmt: skip
@click.option(
    "--concurrency", envvar="OUTBOX_CONCURRENCY", default=100,
    help="Requests at once, a process, to all databases together.",
)  # fmt: skip
@click.option("--processes", envvar="OUTBOX_PROCESSES", default=1, help="Equal processes.")
@click.option(
    "--timeout", envvar="OUTBOX_TIMEOUT", default=20.0, help="Seconds for a request in all."
)
@click.option(
    "--connect-timeout", envvar="OUTBOX_CONNECT_TIMEOUT", default=5.0,
    help="Seconds of them to connect.",
)  # fmt: skip
@click.option(
    "--grace", envvar="OUTBOX_GRACE", default=25.0,
    help="Seconds that requests in flight have after SIGTERM.",
)  # fmt: skip
@click.option(
    "--lease", envvar="OUTBOX_LEASE", default=0.0, show_default="timeout + 15",
    help="Seconds after which another worker takes over a claim.",
)  # fmt: skip
@click.option(
    "--allow", envvar="OUTBOX_ALLOW", default="", type=parse_allow, metavar="LIST",
    show_default="public addresses",
    help="Networks, addresses and names that may be called as well, by commas: "
    "10.0.0.0/8,*.internal.example",
)  # fmt: skip
@click.option(
    "--proxy", envvar="OUTBOX_PROXY", default="", type=parse_proxy, metavar="URL",
    show_default="none", help="http://host:port of an egress proxy.",
)  # fmt: skip
@click.option(
    "--ca-file", envvar="OUTBOX_CA_FILE", metavar="PATH",
    help="Certificates (PEM) trusted besides the system's.",
)  # fmt: skip
@click.option(
    "--metrics-port", envvar="OUTBOX_METRICS_PORT", default=0, show_default="none",
    help="Serve /metrics, /healthz and /readyz there, for all processes.",
)  # fmt: skip
@click.option(
    "--metrics-host", envvar="OUTBOX_METRICS_HOST", default="127.0.0.1", metavar="ADDRESS",
    help="The address to serve them at.",
)  # fmt: skip
@click.option("--log-format", envvar="OUTBOX_LOG_FORMAT", type=click.Choice(["text", "json"]),
              default="text", help="To stderr.")  # fmt: skip
@click.option("--log-level", envvar="OUTBOX_LOG_LEVEL", default="info",
              type=click.Choice(["debug", "info", "warning", "error"]))  # fmt: skip
@click.option("--check", is_flag=True, help="Check settings, connection and schema; then exit.")
@click.version_option(__version__, prog_name="outbox-worker")
def command(log_format: str, log_level: str, check: bool, **values: object) -> None:
    """Deliver events: fan out, claim, send, record. Stops with SIGTERM."""
    configure(log_format, log_level)
    settings = Settings(**values, keyring=Keyring.read())  # type: ignore[arg-type]
    sys.exit(_check(settings) if check else _work(settings))


def _check(settings: Settings) -> int:
    """Tell of each database whether it can be used; return the exit code."""
    codes = [0]
    for name, fault in asyncio.run(Process(settings).faults()).items():
        if fault is None:
            click.echo(": ".join(filter(None, ("ok", name, "settings, connection and schema"))))
        else:
            codes.append(_told(fault))
    return max(codes)


def _work(settings: Settings) -> int:
    asyncio.run(Process(settings).check())
    if settings.keyring.sealing_key is None:
        logger.warning(IN_CLEAR)
    ledger, listener = Ledger(settings.processes), _listener(settings)
    if settings.processes == 1:
        return min(_loop(settings, Post(ledger, 0, listener)), 1)
    return Supervisor(
        settings.processes,
        lambda pipe, place: _child(settings, Post(ledger, place, listener), pipe),
    ).run()


def _listener(settings: Settings) -> socket.socket | None:
    """Listen before there are processes: what is wrong with the port is told once."""
    if not settings.metrics_port:
        return None
    return listen(settings.metrics_host, settings.metrics_port)


def _loop(settings: Settings, post: Post, pipe: int | None = None) -> int:
    gc.freeze()  # what is loaded by now stays: no collection need walk over it again
    gc.set_threshold(YOUNG)
    return _runner()(run_process(settings, post, pipe))


def _child(settings: Settings, post: Post, pipe: int) -> int:
    def work() -> int:
        try:
            return _loop(replace(settings, processes=1), post, pipe)
        except SchemaMismatch as error:
            _told(error)
            return FUTILE

    return _failing_in_a_line(work)


def _runner() -> Callable[[Coroutine[Any, Any, int]], int]:
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return asyncio.run
    return uvloop.run


def _failing_in_a_line(work: Callable[[], int]) -> int:
    try:
        return work()
    except OutboxError as error:
        return _told(error)


def _told(error: OutboxError) -> int:
    """Say what is wrong, and with what if it is noted; return the exit code."""
    click.echo(": ".join(["Error", *getattr(error, "__notes__", []), str(error)]), err=True)
    return 2 if isinstance(error, InvalidInput) else 1


def main() -> None:
    """Run the command and exit: 0 after a signal, 1 when it failed, 2 for wrong use."""
    sys.exit(_failing_in_a_line(lambda: command.main(standalone_mode=True) or 0))


if __name__ == "__main__":
    main()
