"""`outbox listen`: a receiver to develop against."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import click
import httpx

from outbox import InvalidInput
from outbox.encoding import check_text
from outbox.schedule import parse_duration
from outbox.schemes import MAX_SECRET, SCHEMES, check_schemes
from outbox.signing import PRIVATE_PREFIX, PUBLIC_PREFIX

from . import output
from .answers import Answers, parse_chance, parse_statuses
from .arrival_lines import arrival_lines, headings, whole
from .arrivals import arrival_row
from .forward import Forward, check_forward
from .har import read_har
from .har_file import kept_up_to_date, save
from .http_server import serving
from .inbox import Inbox
from .keyboard import keyboard
from .listen_session import HELP, Options, Session, stopped_by_signals
from .program import WrongUse
from .secret_text import read_secret

if TYPE_CHECKING:
    from .arrivals import Arrival, Request
    from .listen_session import View

MAX_DELAY = 3_600.0  # seconds
MAX_BODY = 1_048_576  # characters


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, metavar="N",
    help="Where to listen; 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="NAME",
    help="The address to listen on; 0.0.0.0 is every one this machine has.",
)  # fmt: skip
@click.option(
    "--secret", "secrets", multiple=True, metavar="SECRET", help="Verify with it. Repeatable."
)
@click.option(
    "--secret-file", "secret_files", multiple=True, metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Take a secret from it; - is stdin. Repeatable.",
)  # fmt: skip
@click.option("--secret-stdin", is_flag=True, help="The same as --secret-file -")
@click.option(
    "--scheme", "schemes", multiple=True, metavar="NAME",
    help=f"Expect this signature: {', '.join(s for s in SCHEMES if s != 'none')}, or"
    " hmac:HEADER:hex|base64[:PREFIX]. Repeatable. By default what the headers say.",
)  # fmt: skip
@click.option(
    "--status", metavar="LIST", default="200", show_default=True,
    help="Answer with it, or each webhook in turn, as in 503,503,200; the last one stays.",
)  # fmt: skip
@click.option("--fail", metavar="N%", help="Answer so many with 503 instead, by chance.")
@click.option("--seed", type=int, metavar="N", help="Makes --fail choose the same again.")
@click.option("--delay", metavar="TIME", default="0s", help="Answer after so long: 2s, 0.5s.")
@click.option("--body", metavar="TEXT", default="", help="Answer with this body.")
@click.option("--strict", is_flag=True, help="Answer 401 unless the signature is verified.")
@click.option("--path", metavar="PATH", help="Answer 404 to any other path.")
@click.option(
    "--forward", metavar="URL",
    help="Pass requests on byte for byte, and answer what is answered there; with its own path, "
    "if URL has none.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after so many requests.")
@click.option("--bodies", is_flag=True, help="Show the body of each.")
@click.option(
    "--har", type=click.Path(dir_okay=False), metavar="FILE",
    help="Keep what is there in it, as HAR, while it runs and in the end.",
)  # fmt: skip
@click.option(
    "--load", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="Begin with the requests of such a file.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True, help="Print a line of JSON for each, for programs."
)
def listen(
    port: int, host: str, schemes: tuple[str, ...], seed: int | None, forward: str | None,
    bodies: bool, load: str | None, as_json: bool, **wanted: Any,
) -> None:  # fmt: skip
    """Receive webhooks and show them, to develop against.

    Needs no database. Signatures are verified, and explained when they are wrong. The
    newest 1,000 requests are kept: type b, c or r to see the last one whole, as curl, or
    to send it to --forward again; other programs on this machine ask GET /-/requests,
    /-/requests/3.curl, /-/har, or POST /-/requests/3/resend. Ctrl-C ends it.

    \b
    Example:
      outbox listen --secret-file signing-secret --status 503,503,200
      outbox listen --forward http://localhost:3000/hooks --fail 30%
    """
    options = _options(schemes=schemes, forward=forward, **wanted)
    target = None if forward is None else check_forward(forward)
    before = [] if load is None else read_har(Path(load).read_bytes())
    view = JsonLines() if as_json else Lines(bodies=bodies)
    inbox = Inbox()
    asyncio.run(_listen(options, inbox, target, view, Random(seed), (host, port), before))  # noqa: S311
    output.note(inbox.summary())


async def _listen(
    options: Options, inbox: Inbox, target: str | None, view: View, rng: Random,
    where: tuple[str, int], before: list[tuple[Request, int]],
) -> None:  # fmt: skip
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(httpx.AsyncHTTPTransport(trust_env=False))
        forward = None if target is None else Forward(target, transport)
        session = Session(options, inbox, forward, view, rng)
        port = await stack.enter_async_context(serving(session.receive, session.broken, *where))
        session.origin = _origin(where[0], port)
        session.load(before)
        if options.har is not None:
            save(options.har, inbox, session.origin)  # a wrong path is told at once
            saved = kept_up_to_date(options.har, inbox, session.origin, session.fail)
            await stack.enter_async_context(saved)
        stack.enter_context(stopped_by_signals(session))
        output.note(f"Listening on {session.origin}; Ctrl-C ends it.")
        if stack.enter_context(keyboard(session.press)):
            output.note(HELP)
        await session.run()


class Lines:
    """For a person."""

    def __init__(self, *, bodies: bool) -> None:
        self._bodies = bodies
        self._feed = output.Feed()
        self._began = False

    def arrival(self, found: Arrival) -> None:
        """Show a line, and what there is to say."""
        room = self._feed.room
        if not self._began:
            self._began = True
            self._feed.show([headings(room)])
        self._feed.show(arrival_lines(found, room, bodies=self._bodies))

    def whole(self, found: Arrival) -> None:
        """Show a request as it came."""
        self._feed.show(whole(found, self._feed.room))

    def say(self, text: str) -> None:
        """Show what else there is."""
        output.line(text)


class JsonLines:
    """For a program: a line of JSON for each request, and nothing else."""

    def arrival(self, found: Arrival) -> None:
        """Print it."""
        output.document(arrival_row(found))

    def whole(self, found: Arrival) -> None:
        """Print it once more."""
        self.arrival(found)

    def say(self, text: str) -> None:
        """Tell it beside the documents."""
        output.note(text)


def _options(
    *, secrets: tuple[str, ...], secret_files: tuple[str, ...], secret_stdin: bool,
    schemes: tuple[str, ...], status: str, fail: str | None, delay: str, body: str,
    strict: bool, path: str | None, forward: str | None, limit: int | None, har: str | None,
) -> Options:  # fmt: skip
    if forward is not None and (status != "200" or body):
        raise WrongUse(
            "--forward answers what is answered there; it goes without --status and --body"
        )
    files = (*secret_files, "-") if secret_stdin else secret_files
    given = [*secrets, *map(read_secret, files)]
    if strict and not given:
        raise WrongUse("--strict needs a secret to verify with")
    if schemes:
        check_schemes(schemes)
    if "none" in schemes:
        raise InvalidInput("scheme", "none signs nothing; leave it out")
    if path is not None and not path.startswith("/"):
        raise InvalidInput("path", "must begin with /")
    answers = Answers(parse_statuses(status), parse_chance(fail) if fail else 0.0, strict, path)
    return Options(
        answers, [_check_secret(each) for each in given], schemes, _delay(delay),
        _check_body(body), limit, None if har is None else Path(har),
    )  # fmt: skip


def _check_secret(secret: str) -> str:
    if secret.startswith(PRIVATE_PREFIX):
        raise InvalidInput("secret", f"is the sender's own; verify with its {PUBLIC_PREFIX} key")
    return check_text("secret", secret, MAX_SECRET)


def _check_body(body: str) -> str:
    try:
        body.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("body", "must be text in UTF-8") from error
    if len(body) > MAX_BODY:
        raise InvalidInput("body", f"must have at most {MAX_BODY:,} characters")
    return body


def _delay(text: str) -> float:
    seconds = parse_duration("delay", text)
    if seconds > MAX_DELAY:
        raise InvalidInput("delay", "must be at most 1h")
    return seconds


def _origin(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
