"""Spans: each attempt is one, in the trace of the request that its event came from.

Only with OpenTelemetry configured: run under `opentelemetry-instrument`, or with
`OTEL_TRACES_EXPORTER` set and the SDK installed. Else none of it is even imported, and
the `traceparent` of the event is sent on as it is.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from outbox.version import __version__

from .series import error_class
from .settings import READY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.trace import Span, Tracer

    from outbox.request import Target

    from .claim import Claim
    from .outcome import Judgement, Reply

logger = logging.getLogger("outbox.worker")

FLUSH_MS = 2_000


def is_configured(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether somebody wants spans."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    chosen = environment.get("OTEL_TRACES_EXPORTER", "none") != "none"
    return chosen or "opentelemetry.sdk.trace" in sys.modules


def configured() -> Traces | None:
    """Return what makes spans; None if nobody wants any, or OpenTelemetry is not installed."""
    if not is_configured():
        return None
    try:
        from opentelemetry import trace

        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            exporters = os.environ.get("OTEL_TRACES_EXPORTER")
            if exporters is None:  # the SDK is loaded, and nobody said where spans go
                return None
            _set_up(exporters.split(","))
    except ImportError as error:
        logger.warning("no traces: OpenTelemetry is not installed: %s", error)
        return None
    return Traces(trace.get_tracer("outbox-webhooks", __version__))


def _set_up(exporters: Iterable[str]) -> None:
    """Let spans go to `exporters`; all else the SDK reads from the environment itself."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    for name in map(str.strip, exporters):
        found = entry_points(group="opentelemetry_traces_exporter", name=name)
        if not found:
            logger.warning("no traces go to %s: no such exporter is installed", name)
        for entry in found:
            provider.add_span_processor(BatchSpanProcessor(entry.load()()))
    trace.set_tracer_provider(provider)


class Attempted:
    """The span of one attempt; `claim` is to be sent, with the span as its trace's parent."""

    def __init__(self, claim: Claim, span: Span) -> None:
        self.claim = claim
        self._span = span

    def ended(self, reply: Reply, judgement: Judgement) -> None:
        """Say what came of it."""
        from opentelemetry.trace import StatusCode

        if reply.status is not None:
            self._span.set_attribute("http.response.status_code", reply.status)
        self._span.set_attribute("outbox.outcome", judgement.outcome)
        if judgement.outcome != "delivered":
            what = error_class(reply.status, reply.error_class) or judgement.outcome
            self._span.set_attribute("error.type", str(reply.status or what))
            self._span.set_status(StatusCode.ERROR, what)


class Traces:
    """Makes spans with `tracer`."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._context = TraceContextTextMapPropagator()

    @contextmanager
    def attempt(self, claim: Claim, target: Target) -> Iterator[Attempted]:
        """Yield the span of an attempt, which ends with the context."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        carrier = {} if claim.traceparent is None else {"traceparent": claim.traceparent}
        span = self._tracer.start_span(
            target.method,
            context=self._context.extract(carrier),
            kind=SpanKind.CLIENT,
            attributes=_attributes(claim, target),
        )
        sent: dict[str, str] = {}
        self._context.inject(sent, set_span_in_context(span))
        try:
            traceparent = sent.get("traceparent", claim.traceparent)
            yield Attempted(claim._replace(traceparent=traceparent), span)
        finally:
            span.end()


def _attributes(claim: Claim, target: Target) -> dict[str, str | int]:
    host, port = _server(target.url)
    return {
        "http.request.method": target.method,
        "http.request.resend_count": claim.attempt - 1,
        "server.address": host,
        "server.port": port,
        "outbox.event_id": claim.event_id,
        "outbox.event_type": claim.type,
        "outbox.delivery_id": claim.delivery_id,
        "outbox.subscription_id": claim.subscription_id,
        "outbox.attempt": claim.attempt,
    }


@lru_cache(maxsize=READY)
def _server(url: str) -> tuple[str, int]:
    """Return host and port, and nothing else: paths and queries may hold secrets.

    >>> _server("https://hooks.example/T0/secret?key=1")
    ('hooks.example', 443)
    """
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def flush() -> None:
    """Send what was not sent yet: a process of several ends without its exit handlers."""
    from opentelemetry import trace

    send = getattr(trace.get_tracer_provider(), "force_flush", None)
    if send is not None:
        send(FLUSH_MS)
