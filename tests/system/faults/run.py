"""One run: hosts, workers, receivers and a nemesis on a PostgreSQL of their own.

run = Run(cluster, seed=7)
evidence = run.play([faults.kill_a_worker, faults.crash("claimed")], seconds=5)
assert check(evidence) == []
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack, suppress
from itertools import product
from typing import TYPE_CHECKING
from uuid import UUID

import outbox
from outbox import audit, subscriptions
from outbox import events as outbox_events
from tests.databases import engine_at
from tests.factories import BY, LOOPBACK, rows
from tests.helpers import eventually, happens
from tests.receiver import Answer, Receiver, Request

from .checker import Evidence, Seen, Wish
from .hosts import Host, Log
from .proxy import Proxy
from .receivers import HALF
from .workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from tests.system.pg import Cluster

    Fault = Callable[["Run"], bool]

HOSTS = 3
PAUSE = 0.06  # seconds between two transactions of a host, on average
DRAIN = 90.0  # seconds for all to end after the last fault; upkeep comes once a minute

# What is subscribed to, and how each receiver behaves.
WISHES = {
    "all": Wish("", None, ordered=False, constant=True),
    "flaky": Wish("invoice.", None, ordered=False, constant=True),
    "acme": Wish("", "acme", ordered=False, constant=True),
    "ordered": Wish("user.", None, ordered=True, constant=True),
    "edited": Wish("invoice.paid", None, ordered=False, constant=True),
    "leaving": Wish("user.", None, ordered=False, constant=True, leaves=True),
}
PATTERNS = {"": "*", "invoice.": "invoice.*", "user.": "user.*", "invoice.paid": "invoice.paid"}
SCHEDULE = [0.0, *[0.2] * 60]


class Run:
    """What takes part; faults reach it through its attributes."""

    def __init__(
        self,
        cluster: Cluster,
        seed: int,
        *,
        mutation: str = "",
        patience: float = DRAIN,
        flakiness: float = 0.3,
        refusals: float = 0.0,
    ) -> None:
        self.cluster = cluster
        self._flakiness = flakiness  # of the receiver that is
        self._refusals = refusals  # of the others
        self._patience = patience
        self.rng = random.Random(seed)  # noqa: S311 - a seeded run
        self.engine: Engine = engine_at(cluster.url)
        self.log = Log()
        self.fired: dict[str, int] = {}
        self.secrets: dict[UUID, list[str]] = {}
        self.ids: dict[str, UUID] = {}
        self.wishes: dict[str, Wish] = {}
        self.clocks = [0.0]  # seconds by which clocks of workers are off
        self.mood: Answer | None = None  # what all receivers answer instead
        self.moody = 0  # how often they did
        self._receiver = Receiver()
        self._lock = threading.Lock()
        self._seen: list[tuple[Request, int | None]] = []
        self.proxy = Proxy(cluster.folder / ".s.PGSQL.5432")
        self.fleet = Fleet(self, mutation)

    def play(self, faults: Sequence[Fault], *, seconds: float) -> Evidence:
        """Let hosts emit for so long, with the faults spread over it; wait until all has ended."""
        with ExitStack() as stack:
            stack.enter_context(self.proxy)
            self._receiver.script = self._answer
            self._receiver.__enter__()
            stack.callback(lambda: self._receiver.__exit__())
            self._prepare()
            stack.callback(self.fleet.end)
            self.fleet.start(2)
            hosts = [
                Host(self.engine, self.log, self.rng.randrange(2**32), PAUSE) for _ in range(HOSTS)
            ]
            self._spread(faults, seconds)
            for host in hosts:
                host.stop()
            self._heal()
            self._wait_until_done()
            self.fleet.end()
            return self._evidence()

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """What a query finds, on a connection of its own."""
        with self.engine.connect() as connection:
            return rows(connection, query)

    def execute(self, statement: str) -> None:
        """Run a statement outside of a transaction."""
        with self.engine.connect() as connection:
            autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
            autocommit.exec_driver_sql(statement)

    def subscribe(self, name: str, wish: Wish) -> None:
        """Add a subscription of this name, with a receiver of its own."""
        with self.engine.begin() as connection:
            added, secret = subscriptions.add(
                connection, f"http://127.0.0.1:{self._receiver.port}/{name}",
                [PATTERNS[wish.prefix]], tenant=wish.tenant, by=BY, allow=LOOPBACK,
                schedule=SCHEDULE, ordered="skip" if wish.ordered else None,
            )  # fmt: skip
            self.ids[name] = added.id
            self.wishes[name] = wish
            self.secrets[added.id] = [str(secret)]

    def _prepare(self) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS account (id int, visits int)")
            connection.exec_driver_sql("INSERT INTO account VALUES (1, 0)")
        for name, wish in WISHES.items():
            self.subscribe(name, wish)

    def _spread(self, faults: Sequence[Fault], seconds: float) -> None:
        began = time.monotonic()
        for number, fault in enumerate(faults, 1):
            at = began + seconds * number / (len(faults) + 1)
            time.sleep(max(0.0, at - time.monotonic()))
            name = getattr(fault, "name", fault.__name__)
            self.fired[name] = self.fired.get(name, 0) + self._fires(fault)
        time.sleep(max(0.0, began + seconds - time.monotonic()))

    def _fires(self, fault: Fault) -> bool:
        """Let a fault happen; one that waited in vain for its moment did not."""
        try:
            return bool(fault(self))
        except AssertionError:
            self.proxy.disarm()
            return False

    def _heal(self) -> None:
        """Whatever a fault left behind is undone, and workers are there."""
        self.cluster.start()
        for name in ("edited",):
            with self.engine.begin() as connection:
                found = subscriptions.show(connection, self.ids[name])
                if found.state != "active":
                    subscriptions.resume(connection, found.id, by=BY)
        while self._let_go():
            pass
        self.fleet.start(2)

    def _let_go(self) -> list[UUID]:
        """As an operator does with events that were set aside for no fault of theirs."""
        with self.engine.begin() as connection:
            return outbox_events.fan_out_again(connection)

    def _wait_until_done(self) -> None:
        """Wait until nothing is open; what never ends is for the checker to name."""
        with suppress(AssertionError):
            eventually(lambda: not self.ask(OPEN), self._patience)

    # The receivers.

    def _answer(self, request: Request) -> Answer:
        """Answer as the receiver of this path does, and remember it before the answer leaves."""
        with self._lock:
            if self.mood is not None:
                self.moody += 1
                self._seen.append((request, 200 if self.mood is HALF else None))
                return self.mood
            chance = self._flakiness if request.path.startswith("/flaky") else self._refusals
            flaky = self.rng.random() < chance
            status = self.rng.choice([500, 500, 500, 503, 429]) if flaky else 200
            delay = self.rng.uniform(0, 0.1)
            self._seen.append((request, status))
        return Answer(status, delay=delay)

    def paths(self) -> list[str]:
        """Where requests came to."""
        with self._lock:
            return [request.path for request, _ in self._seen]

    def dates(self) -> list[float]:
        """When requests were signed, by the clocks of their workers."""
        with self._lock:
            return [float(request.header("webhook-timestamp")) for request, _ in self._seen]

    def restart_receiver(self, missed: Callable[[], bool]) -> bool:
        """Close the receivers' port until that was noticed, and listen there again."""
        self._receiver.__exit__()
        noticed = happens(missed)
        self._receiver = Receiver(self._receiver.port)
        self._receiver.script = self._answer
        self._receiver.__enter__()
        return noticed

    # The evidence.

    def _evidence(self) -> Evidence:
        with self.engine.connect() as connection:
            events = {
                id: (type, tenant, subject)
                for id, type, tenant, subject in rows(
                    connection,
                    "SELECT id, type, tenant, subject FROM outbox.event"
                    " WHERE coalesce(source, '') <> 'outbox'",
                )
            }
            attempts: dict[UUID, list[tuple[int, str, int | None]]] = {}
            for id, *attempt in rows(connection, ATTEMPTS):
                attempts.setdefault(id, []).append((attempt[0], attempt[1], attempt[2]))
            return Evidence(
                certain=self.log.certain, aborted=self.log.aborted, unknown=self.log.unknown,
                events=events,
                wishes={self.ids[name]: wish for name, wish in self.wishes.items()},
                deliveries={id: (e, s, r) for id, e, s, r in rows(connection, DELIVERIES)},
                queued={id for (id,) in rows(connection, QUEUED)},
                not_fanned_out={id for (id,) in rows(connection, NOT_FANNED_OUT)},
                attempts=attempts,
                seen=[self._judged(request, status) for request, status in self._seen],
                faults=self.fired,
                most_in_flight=self.fleet.cut_off,
                logs=self.fleet.lines,
                audited=self._audited(),
            )  # fmt: skip

    def _audited(self) -> list[str]:
        report = audit.run(self.engine, audit.plan(self.engine), limit=3)
        return [f"{f.name} {f.id}: {f.facts}; {f.projection}" for f in report.findings]

    def _judged(self, request: Request, status: int | None) -> Seen:
        to = self.ids[request.path.strip("/").partition("?")[0]]
        return Seen(
            event=UUID(request.header("webhook-id")), subscription=to,
            attempt=int(request.header("webhook-attempt")), body=request.body,
            at=request.arrived, status=status, verified=self._verifies(request, to),
        )  # fmt: skip

    def _verifies(self, request: Request, to: UUID) -> bool:
        headers = {name.lower(): value for name, value in request.headers}
        for secret, off in product(self.secrets[to], self.clocks):
            try:
                outbox.verify(request.body, headers, secret, now=time.time() + off)
            except outbox.SignatureInvalid:
                continue
            return True
        return False


OPEN = """
SELECT 1 FROM outbox.event_queue UNION ALL SELECT 1 FROM outbox.delivery_queue
UNION ALL SELECT 1 FROM outbox.replay WHERE state = 'running' LIMIT 1
"""
ATTEMPTS = "SELECT delivery_id, attempt, outcome, status FROM outbox.attempt"
DELIVERIES = "SELECT id, event_id, subscription_id, replay_id FROM outbox.delivery"
QUEUED = "SELECT delivery_id FROM outbox.delivery_queue"
NOT_FANNED_OUT = "SELECT event_id FROM outbox.event_queue"
