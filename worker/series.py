"""What is counted: each series with its name, its labels, and every value these may have.

All of it is known beforehand, so that a number has a fixed place in memory that the
processes of a worker share (`ledger`), and no receiver, tenant or URL can ever make a
series of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from outbox.backlog import HELD
from outbox.delivery_filter import ERROR_CLASSES

Kind = Literal["counter", "gauge", "histogram"]
Label = tuple[str, ...]

LATENCIES = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    1_800.0, 7_200.0, 86_400.0,
)  # fmt: skip
DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)

# Answers that are no 2xx have no class of their own in the log of attempts, but a status.
STATUSES = ("http_1xx", "http_3xx", "http_4xx", "http_5xx")
CLASSES = ("", *STATUSES, *ERROR_CLASSES)
OUTCOMES = ("delivered", "retry", "dead", "late", "lost")


@dataclass(frozen=True, slots=True)
class Series:
    """One metric; `values` are those of its `labels`. `bounds` are a histogram's, in its unit.

    A counter's name is without `_total`, as Prometheus's own libraries have it.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[Label, ...] = ((),)
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers it takes: a histogram one a bucket, one beyond, and its sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else len(self.values)


def label(word: str) -> str:
    """Return a word of ours as labels have it: `in order` is `in_order`."""
    return word.replace(" ", "_")


def _each(*values: str) -> tuple[Label, ...]:
    return tuple((value,) for value in values)


DELIVERIES = Series(
    "outbox_deliveries", "counter",
    "Attempts of deliveries, by the outcome that is on record and the class of the error",
    ("outcome", "error_class"),
    tuple((outcome, error) for outcome in OUTCOMES for error in CLASSES),
)  # fmt: skip
LATENCY = Series(
    "outbox_delivery_latency_seconds", "histogram",
    "From the event, when it was stored or due, to the 2xx of its receiver", bounds=LATENCIES,
)  # fmt: skip
REQUESTS = Series(
    "outbox_request_duration_seconds", "histogram",
    "Requests from their beginning to the end of their answer, or to their failure",
    bounds=DURATIONS,
)  # fmt: skip
CLAIMS = Series(
    "outbox_claim_duration_seconds", "histogram", "Claims of due deliveries", bounds=DURATIONS
)
CLAIMED = Series(
    "outbox_claim_size", "histogram", "Deliveries of a claim that found some", bounds=SIZES
)
RECORDS = Series(
    "outbox_record_duration_seconds", "histogram",
    "Recording a batch of results, with waits for a database that is away", bounds=DURATIONS,
)  # fmt: skip
RECORDED = Series("outbox_record_size", "histogram", "Results of a batch", bounds=SIZES)
FAN_OUTS = Series(
    "outbox_fan_out_duration_seconds", "histogram", "Fan-outs that found events", bounds=DURATIONS
)
EVENTS = Series("outbox_fanned_out_events", "counter", "Events that were fanned out")
MADE = Series(
    "outbox_made_deliveries", "counter", "Deliveries that were made, by what made them",
    ("by",), _each("fan_out", "replay"),
)  # fmt: skip
STARTS = Series("outbox_process_starts", "counter", "Processes of this worker that were started")

PROCESSES = Series("outbox_processes", "gauge", "Processes of this worker that live")
SLOTS = Series(
    "outbox_slots", "gauge", "Slots for requests: in use, or free", ("state",),
    _each("in_use", "free"),
)  # fmt: skip
WAITING = Series("outbox_claims_waiting", "gauge", "Claims that wait for a slot")
UNRECORDED = Series("outbox_results_unrecorded", "gauge", "Results that are not recorded yet")
OPEN = Series(
    "outbox_breakers_open", "gauge", "Subscriptions, a process, that get nothing but a probe"
)

DATABASE = Series("outbox_database_up", "gauge", "Whether PostgreSQL answered the last look")
DATABASES = Series(
    "outbox_databases", "gauge", "Databases of this worker, by whether they answered the last look",
    ("state",), _each("up", "down"),
)  # fmt: skip
BACKLOG = Series(
    "outbox_backlog", "gauge", "What waits in the database: about, if it is very much",
    ("queue", "state"),
    (
        *(("event", state) for state in ("due", "scheduled", "set_aside")),
        *(("delivery", state) for state in ("due", "in_flight", "waiting", "held")),
    ),
)  # fmt: skip
HOLDS = Series(
    "outbox_held", "gauge", "Deliveries that are held, by what holds them", ("reason",),
    _each(*map(label, HELD)),
)  # fmt: skip
OLDEST = Series(
    "outbox_oldest_waiting_seconds", "gauge",
    "Since when the oldest that is due waits: an event for its fan-out, a delivery for its claim",
    ("queue",), _each("event", "delivery"),
)  # fmt: skip
WORKERS = Series("outbox_workers", "gauge", "Processes of all workers that live, on all machines")

COUNTED = (
    DELIVERIES, LATENCY, REQUESTS, CLAIMS, CLAIMED, RECORDS, RECORDED, FAN_OUTS, EVENTS, MADE,
    STARTS,
)  # fmt: skip
HAD = (PROCESSES, SLOTS, WAITING, UNRECORDED, OPEN)  # by each process, while it lives
SEEN = (DATABASE, DATABASES, BACKLOG, HOLDS, OLDEST, WORKERS)  # in the database, by all
CATALOGUE = (*COUNTED, *HAD, *SEEN)

HEAD = 2  # numbers before those of the series, see `ledger`
START = dict(
    zip(
        (series.name for series in CATALOGUE),
        accumulate((series.width for series in CATALOGUE), initial=HEAD),
        strict=False,
    )
)
WIDTH = HEAD + sum(series.width for series in CATALOGUE)
PLACES = {
    series.name: {value: place for place, value in enumerate(series.values)} for series in CATALOGUE
}


def error_class(status: int | None, error: str | None) -> str:
    """Return the class of what an attempt came to; "" for a 2xx, or when nothing was sent.

    >>> error_class(503, None), error_class(None, "dns"), error_class(200, "truncated")
    ('http_5xx', 'dns', 'truncated')
    """
    if status is not None and not 200 <= status <= 299:
        return f"http_{status // 100}xx" if 100 <= status <= 599 else "http_5xx"
    if error is None:
        return ""
    return error if error in ERROR_CLASSES else "internal"
