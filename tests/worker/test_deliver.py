"""Delivery from the event to its end, in one process: only the network is played."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from standardwebhooks import Webhook

import outbox
from outbox import deliveries, subscriptions
from outbox.worker.breaker import FIRST_WINDOW
from outbox.worker.slots import Slots
from outbox.worker.transport import HttpTransport
from tests.factories import BY, LOOPBACK, emit_many, event, rows, subscribe, value

from .conftest import until, working

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from outbox.deliveries import Attempt, Delivery
    from outbox.worker.claim import Claim
    from tests.databases import Database
    from tests.receiver import Receiver

QUICK = (0.0, 0.01, 0.01)


class Host:
    """The host and the administrator, on the database that the worker works on."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def subscribe(self, **options: Any) -> UUID:
        with self.database.engine.begin() as connection:
            return subscribe(connection, **{"schedule": QUICK, **options}).id

    def emit(self, count: int = 1, **fields: Any) -> list[UUID]:
        with self.database.engine.begin() as connection:
            return emit_many(connection, [event(**fields) for _ in range(count)])

    def execute(self, statement: str) -> None:
        with self.database.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def deliveries(self, **options: Any) -> list[Delivery]:
        with self.database.engine.connect() as connection:
            return deliveries.list_deliveries(connection, limit=1000, **options)

    def states(self) -> Counter[str]:
        return Counter(delivery.state for delivery in self.deliveries())

    def attempts(self) -> list[Attempt]:
        """All attempts of the only delivery."""
        with self.database.engine.connect() as connection:
            (delivery,) = deliveries.list_deliveries(connection)
            return deliveries.list_attempts(connection, delivery.id)

    def value(self, query: str) -> Any:
        with self.database.engine.connect() as connection:
            return value(connection, query)

    def subscription(self) -> subscriptions.Subscription:
        with self.database.engine.connect() as connection:
            return subscriptions.list_subscriptions(connection)[0]


@pytest.fixture
def host(committed_db: Database) -> Host:
    return Host(committed_db)


class Played:
    """A receiver that answers as `script` says, then 200; it keeps the requests."""

    def __init__(self, *script: int | httpx.Response | Exception) -> None:
        self._script = list(script)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._script.pop(0) if self._script else 200
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer) if isinstance(answer, int) else answer


def work_until(
    host: Host,
    handler: Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]],
    check: Callable[[], Any],
    **settings: Any,
) -> None:
    """Let a worker work until something is so."""

    async def run() -> None:
        transport = httpx.MockTransport(handler)  # type: ignore[arg-type]
        async with working(host.database, transport, **settings):
            await until(check)

    asyncio.run(run())


def ended(host: Host, count: int = 1) -> Callable[[], bool]:
    """Whether so many deliveries have come to their end, and no other is open."""
    return lambda: (
        host.value("SELECT count(*) FROM outbox.delivery") == count
        and host.value("SELECT count(*) FROM outbox.delivery_queue") == 0
    )


def outcomes(host: Host) -> list[tuple[int, str, int | None]]:
    return [(a.attempt, a.outcome, a.status) for a in host.attempts()]


# What comes of an answer.


def test_delivered(host: Host) -> None:
    """A 2xx ends it: one signed request, one attempt with everything about it."""
    receiver = Played(httpx.Response(202, content=b"thanks"))
    id = host.subscribe(url="http://r/hook?x=1", headers={"X-Team": "billing"})
    (event_id,) = host.emit(type="invoice.paid", data={"id": 1})
    work_until(host, receiver, ended(host))
    (request,) = receiver.requests
    (attempt,) = host.attempts()

    assert (str(request.url), request.headers["x-team"]) == ("http://r/hook?x=1", "billing")
    assert request.headers["webhook-id"] == str(event_id)
    assert (attempt.attempt, attempt.outcome, attempt.status) == (1, "delivered", 202)
    assert (attempt.response_body, attempt.revision, attempt.error) == (b"thanks", 1, None)
    assert attempt.started_at
    assert attempt.started_at <= attempt.recorded_at
    assert attempt.duration_ms is not None
    secret = host.value(f"SELECT sealed FROM outbox.secret WHERE subscription_id = '{id}'")  # noqa: S608
    assert Webhook(secret).verify(request.content.decode(), dict(request.headers))


@pytest.mark.parametrize(
    "answer",
    [
        301,
        302,
        304,
        400,
        401,
        404,
        409,
        422,
        408,
        425,
        429,
        500,
        502,
        503,
        504,
        599,
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("?"),
    ],
    ids=str,
)
def test_retry(host: Host, answer: int | Exception) -> None:
    """Whatever is neither 2xx nor 410 is tried again: same id, same bytes, next number."""
    receiver = Played(answer)
    host.subscribe()
    host.emit()
    work_until(host, receiver, ended(host))
    first, second = receiver.requests

    status = answer if isinstance(answer, int) else None
    assert outcomes(host) == [(1, "retry", status), (2, "delivered", 200)]
    assert first.content == second.content
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [r.headers["webhook-attempt"] for r in (first, second)] == ["1", "2"]


def test_gone(host: Host) -> None:
    """A 410 ends the delivery and disables the subscription: the next one is held."""
    receiver = Played(410)
    host.subscribe()
    host.emit()

    async def run() -> None:
        async with working(host.database, httpx.MockTransport(receiver)):
            await until(ended(host))
            host.emit()
            await until(lambda: len(host.deliveries()) == 2)

    asyncio.run(run())
    held, dead = host.deliveries()

    assert (dead.state, dead.status) == ("dead", 410)
    assert (held.state, held.held, held.attempts) == ("pending", "disabled: gone", 0)
    assert len(receiver.requests) == 1
    assert (host.subscription().state_reason, host.subscription().revision) == ("gone", 2)


@pytest.mark.parametrize("source", ["billing", "outbox"])
@pytest.mark.parametrize("damage", [None, "UPDATE outbox.subscription SET url = 'ftp://r/'"])
def test_who_is_told_of_a_disabled_one(host: Host, source: str, damage: str | None) -> None:
    """The operator is, of a 410 and of an unusable one, unless operational events led to it."""
    host.subscribe(types=["invoice.*"])
    if damage is not None:
        host.execute(damage)
    host.emit(source=source)
    work_until(host, Played(410), lambda: host.subscription().state == "disabled")
    told = [] if source == "outbox" else ["subscription.disabled"]

    assert host.subscription().revision == 2
    with host.database.engine.connect() as connection:
        found = rows(connection, "SELECT type FROM outbox.event WHERE type ~ '^subscription'")
    assert [type for (type,) in found] == told


def test_retry_after(host: Host) -> None:
    """A receiver that asks for time is given it."""
    receiver = Played(httpx.Response(503, headers={"retry-after": "90"}))
    host.subscribe()
    host.emit()
    work_until(host, receiver, lambda: len(host.attempts()) == 1 if host.deliveries() else False)
    (attempt,) = host.attempts()

    assert attempt.due_at
    assert 85 < (attempt.due_at - attempt.recorded_at).total_seconds() <= 91
    assert host.states() == {"pending": 1}


def test_schedule_used_up(host: Host) -> None:
    """When the schedule has no further delay, the delivery is dead; the subscription stays."""
    receiver = Played(500, 500, 500, 500)
    host.subscribe()
    host.emit()
    work_until(host, receiver, ended(host))

    assert outcomes(host) == [(1, "retry", 500), (2, "retry", 500), (3, "dead", 500)]
    assert host.attempts()[-1].error == "HTTP 500; the schedule is used up"
    assert host.subscription().state == "active"


def test_a_fault_of_ours(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A bug while sending is tried again and not held against the receiver."""
    host.subscribe(schedule=[0])
    host.emit()
    receiver = Played(RuntimeError("a bug"))
    check = "SELECT count(*) = 1 FROM outbox.attempt"
    work_until(host, receiver, lambda: host.value(check))
    (attempt,) = host.attempts()

    assert (attempt.outcome, attempt.error_class) == ("retry", "internal")
    assert host.value("SELECT failures FROM outbox.delivery_queue") == 0
    assert "a fault of the worker itself" in caplog.text


def test_a_delivery_that_kills_its_workers(host: Host) -> None:
    """After ten attempts that were lost with their workers it is dead, without a request."""
    receiver = Played()
    host.subscribe()
    host.emit()
    host.execute("""
        CREATE FUNCTION outbox.old() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.attempt := 11; RETURN NEW; END $$;
        CREATE TRIGGER old BEFORE INSERT ON outbox.delivery_queue
            FOR EACH ROW EXECUTE FUNCTION outbox.old()
    """)
    work_until(host, receiver, ended(host))
    host.execute("DROP FUNCTION outbox.old() CASCADE")

    assert outcomes(host) == [(12, "dead", None)]
    assert receiver.requests == []


def test_maximal_age(host: Host) -> None:
    """What waited too long, or would, is dead: without a request, or without another."""
    receiver = Played(500)
    host.subscribe(schedule=[0, 3600], max_age=60)
    host.emit()
    work_until(host, receiver, ended(host))
    reason = "HTTP 500; the next attempt would be older than its maximal age of 1m"
    assert [(a.outcome, a.error) for a in host.attempts()] == [("dead", reason)]


def test_too_old_when_it_comes_up(host: Host) -> None:
    """A delivery that was held for longer than its maximal age is dead without a request."""
    receiver = Played()
    id = host.subscribe(max_age=60)
    host.execute(f"""
        WITH made AS (
            INSERT INTO outbox.event (id, type, data, due_at)
            VALUES (outbox.uuid7(), 'a.b', '1', '2020-01-01') RETURNING id
        ), old AS (
            INSERT INTO outbox.delivery (id, event_id, subscription_id)
            SELECT outbox.uuid7_floor(now() - interval '61 s'), id, '{id}' FROM made RETURNING *
        ), none AS (UPDATE outbox.subscription SET types = '{{none}}')
        INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at)
        SELECT id, subscription_id, event_id, now() FROM old
    """)  # noqa: S608 - an id
    host.execute("DELETE FROM outbox.event_queue")
    work_until(host, receiver, ended(host))

    assert [(a.outcome, a.error) for a in host.attempts()] == [
        ("dead", "older than its maximal age of 1m")
    ]
    assert receiver.requests == []


# What cannot be sent.


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE outbox.subscription SET url = 'ftp://r/'",
        """UPDATE outbox.subscription SET headers = '{"Host": "other"}'""",
        "UPDATE outbox.secret SET sealed = 'whsec_?'",
        "DELETE FROM outbox.secret",
        "UPDATE outbox.secret SET expires_at = now()",
    ],
)
def test_unusable_subscription(host: Host, damage: str) -> None:
    """What cannot be signed or sent disables the subscription; nothing goes out or is used up."""
    receiver = Played()
    host.subscribe()
    host.execute(damage)
    host.emit()
    work_until(host, receiver, lambda: host.subscription().state == "disabled")
    (delivery,) = host.deliveries()

    assert (delivery.state, delivery.attempts, delivery.in_flight) == ("pending", 0, False)
    assert str(delivery.held).startswith("disabled: ")
    assert receiver.requests == []


def test_nothing_goes_out_unsigned(host: Host) -> None:
    """A secret that expires under a running worker stops the sending, not the signing."""
    receiver = Played()
    host.subscribe()
    host.execute("UPDATE outbox.secret SET expires_at = now() + interval '1.5 s'")

    async def run() -> None:
        async with working(host.database, httpx.MockTransport(receiver)):
            host.emit()
            await until(lambda: host.states() == {"delivered": 1})
            await until(lambda: host.value("SELECT expires_at < now() FROM outbox.secret"))
            host.emit()
            await until(lambda: host.subscription().state == "disabled")

    asyncio.run(run())

    assert host.states() == {"pending": 1, "delivered": 1}
    assert all("webhook-signature" in request.headers for request in receiver.requests)


@pytest.mark.parametrize("traceparent", ["00-é", "a\r\nwebhook-id: other", "x" * 5000, ""])
def test_traceparent(host: Host, receiver: Receiver, traceparent: str) -> None:
    """A traceparent that is none is left out, and spoils no delivery."""
    host.subscribe(url=receiver.url)
    (id,) = host.emit(context={"traceparent": traceparent})

    async def run() -> None:
        async with working(host.database, HttpTransport(allow=LOOPBACK, connect_timeout=5)):
            await until(ended(host), timeout=5)

    asyncio.run(run())
    (request,) = receiver.requests

    assert outcomes(host) == [(1, "delivered", 200)]
    assert request.header("webhook-id") == str(id)
    assert "traceparent" not in {name.lower() for name, _ in request.headers}


def test_a_good_traceparent(host: Host) -> None:
    """The traceparent of the emitting request goes with each of its webhooks."""
    receiver = Played()
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    host.subscribe()
    host.emit(context={"traceparent": good})
    work_until(host, receiver, ended(host))

    assert receiver.requests[0].headers["traceparent"] == good


# What an administrator does meanwhile.


def test_edit(host: Host) -> None:
    """A change of a subscription counts from the next attempt on."""
    receiver = Played(500)
    host.subscribe(url="http://r/old", schedule=[0, 0.3])
    host.emit()

    async def run() -> None:
        async with working(host.database, httpx.MockTransport(receiver)):
            await until(lambda: receiver.requests)
            host.execute(
                "UPDATE outbox.subscription SET url = 'http://r/new', revision = revision + 1"
            )
            await until(ended(host))

    asyncio.run(run())

    assert [r.url.path for r in receiver.requests] == ["/old", "/new"]
    assert [a.revision for a in host.attempts()] == [1, 2]


def test_pause_and_resume(host: Host) -> None:
    """While it is paused nothing is sent to it, but to others; after the resume everything is."""
    receiver = Played()
    paused, other = (host.subscribe(url=f"http://r/{name}") for name in ("paused", "other"))

    def change(how: Callable[..., Any]) -> None:
        with host.database.engine.begin() as connection:
            how(connection, paused, by=BY)

    async def run() -> None:
        async with working(host.database, httpx.MockTransport(receiver)):
            change(subscriptions.pause)
            host.emit(5)
            await until(lambda: len(host.deliveries(subscription_id=other, state="delivered")) == 5)
            assert {request.url.path for request in receiver.requests} == {"/other"}
            change(subscriptions.resume)
            await until(ended(host, 10))

    asyncio.run(run())

    assert host.states() == {"delivered": 10}


def test_remove_while_in_flight(host: Host) -> None:
    """What is in flight when its subscription is removed is cancelled; its answer is late."""
    id = host.subscribe()
    host.emit()

    async def slow(request: httpx.Request) -> httpx.Response:
        with host.database.engine.begin() as connection:
            subscriptions.remove(connection, id, by=BY)
        return httpx.Response(200)

    work_until(host, slow, lambda: host.value("SELECT count(*) = 2 FROM outbox.attempt"))

    assert [outcome for _, outcome, _ in outcomes(host)] == ["cancelled", "late"]
    assert host.states() == {"cancelled": 1}


# How the slots are used.


def test_concurrency(host: Host) -> None:
    """Never more requests are in flight than was set, and no fewer if several have work."""
    running, most = 0, 0
    for _ in range(4):
        host.subscribe()
    host.emit(10)

    async def slow(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return httpx.Response(200)

    work_until(host, slow, ended(host, 40), concurrency=4)

    assert most == 4


def test_a_slow_receiver_keeps_its_share(host: Host) -> None:
    """While a receiver hangs, another one's deliveries go on."""
    slow, fast = (host.subscribe(url=f"http://r/{name}") for name in ("slow", "fast"))
    host.emit(30)
    go_on = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/slow":
            await go_on.wait()
        return httpx.Response(200)

    async def run() -> None:
        async with working(host.database, httpx.MockTransport(answer), concurrency=4):
            await until(lambda: len(host.deliveries(subscription_id=fast, state="delivered")) == 30)
            assert host.deliveries(subscription_id=slow, state="delivered") == []
            go_on.set()

    asyncio.run(run())


@pytest.mark.parametrize("hanging", [1, 3])
def test_receivers_that_hang_leave_room(host: Host, hanging: int) -> None:
    """However many receivers hang, another one that comes later is served at once."""
    for n in range(hanging):
        host.subscribe(url=f"http://r/slow/{n}", types=["a.*"])
    fast = host.subscribe(url="http://r/fast", types=["b.*"])
    host.emit(30, type="a.b")
    begun: list[str] = []
    go_on = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/fast":
            begun.append(request.url.path)
            await go_on.wait()
        return httpx.Response(200)

    async def run() -> None:
        async with working(host.database, httpx.MockTransport(answer), concurrency=20):
            await until(lambda: len(begun) >= min(12, FIRST_WINDOW * hanging))
            await asyncio.sleep(0.2)  # they take what they can get
            host.emit(30, type="b.c")
            await until(lambda: len(host.deliveries(subscription_id=fast, state="delivered")) == 30)
            go_on.set()

    asyncio.run(run())

    assert len(set(begun)) == hanging


def test_a_receiver_that_is_down_is_probed(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """It gets a few requests, then a probe; what waits uses up no attempts and comes when it is
    back. Others are served meanwhile."""
    caplog.set_level(logging.INFO, "outbox.worker")
    down, other = (host.subscribe(url=f"http://r/{name}") for name in ("down", "other"))
    host.emit(40)
    requests: Counter[str] = Counter()
    is_back = False

    def answer(request: httpx.Request) -> httpx.Response:
        requests[request.url.path] += 1
        if request.url.path == "/down" and not is_back:
            raise httpx.ConnectError("refused")
        return httpx.Response(200)

    def delivered(id: UUID) -> int:
        return len(host.deliveries(subscription_id=id, state="delivered"))

    async def run() -> None:
        nonlocal is_back
        async with working(host.database, httpx.MockTransport(answer)):
            await until(lambda: delivered(other) == 40)
            await until(lambda: "does not answer: a probe in 1 s" in caplog.text)
            assert requests["/down"] <= 2 * FIRST_WINDOW
            is_back = True
            await until(lambda: delivered(down) == 40)

    asyncio.run(run())

    assert host.states() == {"delivered": 80}
    assert requests["/other"] == 40


def test_a_claim_that_waits_too_long_is_given_back(host: Host) -> None:
    """A request starts only while its lease outlasts its answer; else its number is free again."""
    host.subscribe()
    host.emit(4)

    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.15)
        return httpx.Response(200)

    work_until(host, slow, ended(host, 4), concurrency=1, timeout=1, lease=6.05)

    assert {d.attempts for d in host.deliveries()} == {1}
    assert host.states() == {"delivered": 4}


def test_take_over(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """What a dead worker had claimed is sent after its lease, and its attempt is lost."""
    receiver = Played()
    host.subscribe()
    host.emit()
    host.execute("""
        CREATE FUNCTION outbox.claimed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.attempt := 1; NEW.lease_owner := 7; NEW.lease_until := now(); RETURN NEW;
        END $$;
        CREATE TRIGGER claimed BEFORE INSERT ON outbox.delivery_queue
            FOR EACH ROW EXECUTE FUNCTION outbox.claimed()
    """)
    work_until(host, receiver, ended(host))
    host.execute("DROP FUNCTION outbox.claimed() CASCADE")

    assert [(a.attempt, a.outcome, a.worker_id == 7) for a in host.attempts()] == [
        (1, "lost", True),
        (2, "delivered", False),
    ]
    assert "took over a delivery" in caplog.text


def test_a_delayed_event(host: Host) -> None:
    """An event that is due later is delivered then, and not before."""
    receiver = Played()
    host.subscribe()
    moment = host.value("SELECT clock_timestamp() + interval '0.5 s'")
    host.emit(due_at=moment)
    work_until(host, receiver, ended(host))
    (attempt,) = host.attempts()

    assert attempt.started_at
    assert attempt.started_at >= moment


def test_wakes_at_once(host: Host) -> None:
    """From the commit to the request it takes moments, also after an idle time."""
    receiver = Played()
    host.subscribe()

    async def run() -> float:
        async with working(host.database, httpx.MockTransport(receiver)):
            await asyncio.sleep(1.2)  # long enough that it polls as slowly as it ever does
            host.emit()
            await until(lambda: receiver.requests)
            now = datetime.now(UTC)  # noqa: TID251 - the clock is what is tested
            return (now - committed(host)).total_seconds()

    assert asyncio.run(run()) < 2


def committed(host: Host) -> datetime:
    moment = host.value("SELECT occurred_at FROM outbox.event")
    assert isinstance(moment, datetime)
    return moment


# The end.


def test_stop_finishes(host: Host) -> None:
    """Stopped, it finishes what is in flight and begins nothing more."""
    host.subscribe()
    host.emit(9)
    answered = asyncio.Event()
    begun: list[httpx.Request] = []

    async def slow(request: httpx.Request) -> httpx.Response:
        begun.append(request)
        await answered.wait()
        return httpx.Response(200)

    async def run() -> None:
        async with working(host.database, httpx.MockTransport(slow), concurrency=3) as process:
            await until(lambda: len(begun) == 2)  # the third is for another subscription
            process.stop()
            answered.set()

    asyncio.run(run())

    assert host.states() == {"delivered": 2, "pending": 7}
    assert {d.attempts for d in host.deliveries(state="pending")} == {0}
    assert {d.attempts for d in host.deliveries(state="delivered")} == {1}


def test_a_host_rings(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event whose host rings after the commit does not wait for the next look."""
    for poll in ("SHORTEST_POLL", "LONGEST_POLL"):
        monkeypatch.setattr(f"outbox.worker.fanout.{poll}", 3600.0)
    host.subscribe()
    host.emit()
    listening = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query = 'LISTEN outbox_bell'"

    async def run() -> None:
        async with working(host.database, httpx.MockTransport(lambda _: httpx.Response(200))):
            await until(lambda: ended(host, 1)() and host.value(listening))
            host.emit()
            outbox.ring(host.database.engine)
            await until(ended(host, 2))

    asyncio.run(run())

    assert host.states() == {"delivered": 2}


def test_grace_is_over(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """What is not answered within the grace is cut: lost, and free for others at once."""
    host.subscribe()
    host.emit()
    caplog.set_level(logging.INFO, "outbox.worker")
    begun: list[httpx.Request] = []

    async def slow(request: httpx.Request) -> httpx.Response:
        begun.append(request)
        await asyncio.Event().wait()
        raise AssertionError

    work_until(host, slow, lambda: len(begun) == 1, grace=0.1)
    (delivery,) = host.deliveries()

    assert (delivery.state, delivery.attempts, delivery.in_flight) == ("pending", 1, False)
    assert [(a.attempt, a.outcome) for a in host.attempts()] == [(1, "lost")]
    assert "1 requests are cut off: the grace is over" in caplog.text


def test_every_delivery_is_accounted_for(host: Host) -> None:
    """Deliveries are those in the queue and those that ended, and every end is one attempt."""
    for path in ("good", "bad"):
        host.subscribe(url=f"http://r/{path}", types=["a.*"])
    host.emit(25, type="a.b")
    host.emit(5, type="b.c")

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.path == "/good" else 500)

    def fanned_out() -> bool:
        return bool(host.value("SELECT count(*) = 0 FROM outbox.event_queue"))

    work_until(host, answer, lambda: ended(host, 50)() and fanned_out())
    with host.database.engine.connect() as connection:
        found = rows(connection, "SELECT outcome, count(*) FROM outbox.attempt GROUP BY 1")

    assert host.states() == {"delivered": 25, "dead": 25}
    assert dict(found) == {"delivered": 25, "dead": 25, "retry": 50}
    assert host.value("SELECT count(*) FROM outbox.event WHERE type = 'delivery.dead'") == 25


def test_slots_are_filled_together(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots that fall free within a moment are filled at once, not one by one."""
    started: list[int] = []
    start = Slots.start

    def counted(slots: Slots, now: float) -> list[Claim]:
        claims = start(slots, now)
        started.append(len(claims))
        return claims

    async def answer(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.005)
        return httpx.Response(200)

    monkeypatch.setattr(Slots, "start", counted)
    host.subscribe()
    host.emit(300)
    work_until(host, answer, ended(host, 300), concurrency=20)

    assert sum(started) == 300
    assert sum(count > 0 for count in started) <= 150
