"""What `outbox listen` does with a request, and with what a person types meanwhile.

Requests are taken, judged and answered as they come. What there is to show goes through
one queue to one loop, `Session.run`, which alone prints; it ends with Ctrl-C, `q`, or the
last request that was asked for.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outbox.verdicts import UNCHECKED, Verdict, verdict

from .answers import choose
from .arrivals import Arrival, Reply
from .har_file import save
from .keyboard import Key
from .listen_control import answer, as_curl, is_asked
from .program import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random
    from typing import Any, Protocol

    from .answers import Answers
    from .arrivals import Request
    from .forward import Forward
    from .inbox import Inbox, Place

    class View(Protocol):
        """Where a session shows what happens."""

        def arrival(self, found: Arrival) -> None: ...
        def whole(self, found: Arrival) -> None: ...
        def say(self, text: str) -> None: ...


HELP = "Keys: b body, c curl, r send on again, h HAR, q end; 12b is that of number 12."
SAVED_AS = Path("outbox-listen.har")


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for; `secrets` may have signed, `delay` is in seconds."""

    answers: Answers
    secrets: Sequence[str] = ()
    schemes: Sequence[str] = ()
    delay: float = 0.0
    body: str = ""
    limit: int | None = None
    har: Path | None = None


class _Stop:
    """The end was asked for."""


class Session:
    """Takes requests until it is told to stop."""

    def __init__(
        self, options: Options, inbox: Inbox, forward: Forward | None, view: View, rng: Random
    ) -> None:
        self._options = options
        self._inbox = inbox
        self._forward = forward
        self._target = None if forward is None else forward.url
        self._view = view
        self._rng = rng
        self._news: asyncio.Queue[Arrival | Key | Exception | str | _Stop] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._taken = self._answered = 0
        self.origin = ""

    async def receive(self, request: Request) -> Reply:
        """Take a request, and return the answer to it."""
        if is_asked(request):
            return await answer(request, self._inbox, self.origin, self._target, self.resend)
        if self._taken == self._options.limit:
            return Reply(503)
        self._taken += 1
        try:
            return await self._answer(request)
        finally:
            self._end_of_one()

    def broken(self, what: Request | Exception) -> None:
        """Take what is no HTTP into the list; a mistake of our own ends the session."""
        if isinstance(what, Exception):
            self.fail(what)
        elif self._taken != self._options.limit:
            self._taken += 1
            self._list(self._arrival(what, self._inbox.arrive(what), Reply(400)))
            self._end_of_one()

    async def resend(self, found: Arrival) -> Reply:
        """Send a request to the forward target again, if there is one."""
        if self._forward is None:
            return Reply(409, note="there is nowhere to send it; give --forward")
        reply = await self._forward.send(found.request)
        self._news.put_nowait(f"Sent {found.number} again: {reply.note}.")
        return reply

    def load(self, found: Sequence[tuple[Request, int]]) -> None:
        """Take requests of before into the list."""
        for request, status in found:
            place = self._inbox.arrive(request)
            self._list(self._arrival(request, place, Reply(status)))

    def press(self, key: Key) -> None:
        """Take a key."""
        self._news.put_nowait(key)

    def fail(self, error: Exception) -> None:
        """End the session with an error."""
        self._news.put_nowait(error)

    def stop(self) -> None:
        """End the session after what has come so far."""
        self._news.put_nowait(_Stop())

    async def run(self) -> None:
        """Show what happens until the end."""
        while not isinstance(news := await self._news.get(), _Stop):
            if isinstance(news, Exception):
                raise news
            if isinstance(news, Arrival):
                self._view.arrival(news)
            elif isinstance(news, Key):
                self._obey(news)
            else:
                self._view.say(news)

    async def _answer(self, request: Request) -> Reply:
        place = self._inbox.arrive(request)
        found = self._arrival(request, place, Reply(0))
        status = choose(
            self._options.answers, request, found.verdict.state, place.before, self._rng
        )
        reply = self._reply(status)
        if self._forward is not None and status < 300:
            reply = await self._forward.send(request)
        self._list(Arrival(place.number, request, place.repeats, found.verdict, reply))
        if self._options.delay:
            await asyncio.sleep(self._options.delay)
        return reply

    def _end_of_one(self) -> None:
        self._answered += 1
        if self._answered == self._options.limit:
            self.stop()

    def _arrival(self, request: Request, place: Place, reply: Reply) -> Arrival:
        if request.flaw is not None:
            judged = Verdict(UNCHECKED)
        else:
            judged = verdict(
                request.body, request.named(), self._options.secrets,
                now=request.at.timestamp(), schemes=self._options.schemes,
            )  # fmt: skip
        return Arrival(place.number, request, place.repeats, judged, reply)

    def _reply(self, status: int) -> Reply:
        body = self._options.body.encode()
        if not body:
            return Reply(status)
        kind = "application/json" if body[:1] in b"{[" else "text/plain; charset=utf-8"
        return Reply(status, (("Content-Type", kind),), body)

    def _list(self, arrival: Arrival) -> None:
        self._inbox.keep(arrival)
        self._news.put_nowait(arrival)

    def _obey(self, key: Key) -> None:
        found = self._inbox.get(key.number)
        if key.letter == "q":
            self.stop()
        elif key.letter == "h":
            self._view.say(self._saved())
        elif key.letter not in "bcr":
            self._view.say(HELP)
        elif found is None:
            self._view.say(f"No request {key.number} is kept." if key.number else HELP)
        elif key.letter == "b":
            self._view.whole(found)
        elif key.letter == "c":
            self._view.say(as_curl(found, self.origin, self._target))
        else:
            self._begin_resend(found)

    def _saved(self) -> str:
        try:
            return save(self._options.har or SAVED_AS, self._inbox, self.origin)
        except Failure as error:
            return error.message

    def _begin_resend(self, found: Arrival) -> None:
        if self._forward is None:
            self._view.say("There is nowhere to send it: give --forward.")
            return
        task = asyncio.get_running_loop().create_task(self.resend(found))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextmanager
def stopped_by_signals(session: Session) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a terminal that goes away end the session."""
    loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, session.stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
