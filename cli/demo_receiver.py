"""A receiver as its developers would write one: verify, answer, and act on each event once.

It keeps a log of every request, which is one of the three sources of the account.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from outbox import SignatureInvalid
from outbox.signing import verify

if TYPE_CHECKING:
    from typing import Self

ACCEPTED, FORGED, UNAVAILABLE = 204, 400, 503


@dataclass(frozen=True, slots=True)
class Received:
    """A request and its answer. `again` says that its event had been accepted before."""

    webhook_id: str
    verified: bool
    status: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Log:
    """What a receiver knows: where it is, what it subscribed to, and each request."""

    url: str
    types: str
    requests: list[Received] = field(default_factory=list)

    def wants(self, type: str) -> bool:
        """Return whether the pattern it subscribed to fits this event type."""
        prefix, star, _ = self.types.partition("*")
        return type.startswith(prefix) if star else type == self.types

    def accepted(self) -> list[str]:
        """Return the webhook-ids it acted on, each once."""
        return [r.webhook_id for r in self.requests if r.status == ACCEPTED and not r.again]


class Receiver:
    """Listens on 127.0.0.1, and refuses with 503 for `outage` seconds from its first request."""

    def __init__(self, types: str, secret: str, *, outage: float = 0.0) -> None:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.log = Log(f"http://127.0.0.1:{self._server.server_port}/webhooks", types)
        self.secret = secret
        self._accepted: set[str] = set()
        self._outage = outage
        self._recovers_at: float | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        """Take a request into the log and return the status that answers it."""
        id, verified = headers.get("webhook-id", ""), self._verifies(headers, body)
        with self._lock:
            status = self._status(verified)
            self.log.requests.append(Received(id, verified, status, id in self._accepted))
            if status == ACCEPTED:
                self._accepted.add(id)  # a real one would act on the event now, unless `again`
        return status

    def _verifies(self, headers: dict[str, str], body: bytes) -> bool:
        try:
            verify(body, headers, self.secret, now=time.time())
        except SignatureInvalid:
            return False
        return True

    def _status(self, verified: bool) -> int:
        if not verified:
            return FORGED
        now = time.monotonic()
        self._recovers_at = self._recovers_at or now + self._outage
        return UNAVAILABLE if now < self._recovers_at else ACCEPTED


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a worker connects many times at once


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.receive(headers, body)
            self.send_response(status)
            if status != ACCEPTED:  # a 204 has no body and may not tell its length
                self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """The receiver keeps its own log."""

    return Handler
