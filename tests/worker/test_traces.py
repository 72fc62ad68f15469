"""Spans: each attempt continues the trace of its event, and what is sent continues the span."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from outbox.worker.traces import Traces, is_configured
from tests.factories import emit_many, event, rows, subscribe
from tests.helpers import environment

from .conftest import until, working

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from tests.databases import Database

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def delivered(
    database: Database, traces: Traces | None, status: int = 200, **fields: Any
) -> list[httpx.Request]:
    """Let a worker attempt one event and return the requests that came."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status)

    async def run() -> None:
        async with working(database, httpx.MockTransport(answer), traces=traces):
            await until(lambda: seen)

    with database.engine.begin() as connection:
        subscribe(connection, url="https://hooks.example/path/secret?token=secret")
        emit_many(connection, [event(**fields)])
    asyncio.run(run())
    return seen


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter: InMemorySpanExporter) -> Traces:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Traces(provider.get_tracer("test"))


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


def test_a_span_continues_the_trace(
    committed_db: Database, traces: Traces, exporter: InMemorySpanExporter
) -> None:
    """The span's parent is the host's; the receiver's parent is the span."""
    context = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    (request,) = delivered(committed_db, traces, context=context)
    span = only(exporter)

    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert request.headers["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert (span.name, span.kind) == ("POST", SpanKind.CLIENT)


def test_what_a_span_tells(
    committed_db: Database, traces: Traces, exporter: InMemorySpanExporter
) -> None:
    """It names the event, the delivery, the server and the answer; no path, query or body."""
    delivered(committed_db, traces)
    with committed_db.engine.connect() as connection:
        found = rows(connection, "SELECT id, event_id, subscription_id FROM outbox.delivery")[0]
    names = ("outbox.delivery_id", "outbox.event_id", "outbox.subscription_id")

    assert dict(only(exporter).attributes or {}) == {
        "http.request.method": "POST", "http.request.resend_count": 0,
        "http.response.status_code": 200, "server.address": "hooks.example", "server.port": 443,
        "outbox.attempt": 1, "outbox.event_type": "invoice.paid", "outbox.outcome": "delivered",
        **dict(zip(names, map(str, found), strict=True)),
    }  # fmt: skip


def test_a_failure(committed_db: Database, traces: Traces, exporter: InMemorySpanExporter) -> None:
    """An attempt that did not deliver is an error, by the status of its answer."""
    delivered(committed_db, traces, status=503)
    span = only(exporter)

    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "503"


def test_an_event_without_a_trace(
    committed_db: Database, traces: Traces, exporter: InMemorySpanExporter
) -> None:
    """It begins one of its own."""
    (request,) = delivered(committed_db, traces)

    assert only(exporter).parent is None
    assert f"{only(exporter).context.trace_id:032x}" in request.headers["traceparent"]


def test_without_traces(committed_db: Database) -> None:
    """What the event carries is sent on as it is."""
    traceparent = f"00-{TRACE}-{PARENT}-01"
    (request,) = delivered(committed_db, None, context={"traceparent": traceparent})

    assert request.headers["traceparent"] == traceparent


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_configured(variables: dict[str, str], wanted: bool) -> None:
    """The environment says whether there are spans, in OpenTelemetry's own words."""
    assert is_configured(variables) is wanted


CODE = """
import sys
from outbox.worker import __main__, traces
{}
loaded = sorted(name for name in sys.modules if name in ("opentelemetry", "prometheus_client"))
print(loaded, {})
"""


@pytest.mark.parametrize(
    ("exporter_", "prints"),
    [(None, "[] None"), ("none", "[] None"), ("console", "['opentelemetry'] TracerProvider")],
)
def test_only_when_it_is_asked_for(exporter_: str | None, prints: str) -> None:
    """A worker without metrics and traces imports neither library; with them the SDK is set up."""
    variables = {} if exporter_ is None else {"OTEL_TRACES_EXPORTER": exporter_}
    told = "made and type(sys.modules['opentelemetry.trace'].get_tracer_provider()).__name__"
    ended = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", CODE.format("made = traces.configured()", told)],
        env={**environment(), **variables}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert ended.stdout.strip() == prints


def test_an_sdk_that_is_not_set_up() -> None:
    """A program that has loaded the SDK and says nothing of exporters gets no spans."""
    made = "import opentelemetry.sdk.trace; made = traces.configured()"
    ended = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", CODE.format(made, "made")],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert ended.stdout.strip() == "['opentelemetry'] None"
