"""Each check of the doctor, with what is well and with what is bad."""

from __future__ import annotations

import doctest
from datetime import date
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import text

from outbox import (
    __version__,
    doctor,
    doctor_fleet,
    doctor_server,
    doctor_vacuum,
    findings,
    subscriptions,
)  # fmt: skip
from outbox.addresses import PUBLIC
from outbox.doctor_fleet import Clock, WorkerClock
from outbox.doctor_server import SETTINGS, Server
from outbox.doctor_vacuum import Queue, Session, Slot
from outbox.findings import ERROR, OK, UNKNOWN, WARNING, Patient
from outbox.keyring import Keyring, new_key
from tests.factories import BY, LOOPBACK, subscribe, value

from .live import attempt, block, disable, event, queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from outbox.findings import Opinion
    from tests.databases import Database

KEYRING = Keyring.read(new_key())
WORKER = "INSERT INTO outbox.worker (host, pid, version) VALUES ('a', 1, :version)"
QUEUED = "INSERT INTO outbox.event_queue (due_at, event_id, error) VALUES "
HEALTH = "INSERT INTO outbox.subscription_health (subscription_id, failing_since, failures) VALUES "
REPLAY = """
INSERT INTO outbox.replay (mode, counted, last_event, actor, command, moved_at)
VALUES ('all', 100, outbox.uuid7(), 'ada', 'a test', now() - interval
"""


def look(db: Connection, name: str, **options: Any) -> Opinion:
    """What one check finds on a database where loopback is allowed."""
    patient = Patient(db, **{"allow": LOOPBACK, "keyring": KEYRING, **options})
    check = next(check for check in doctor.CHECKS if check.name == name)
    return check.judge(check.look(patient))


def run(*statements: str) -> Callable[[Connection], None]:
    """Makes something so by SQL."""

    def make(db: Connection) -> None:
        for statement in statements:
            db.execute(text(statement))

    return make


def version(number: int) -> Callable[[Connection], None]:
    """Another version of the schema."""
    return run(f"UPDATE outbox.schema_version SET version = {number}")  # noqa: S608 - a number


def with_worker(version: str) -> Callable[[Connection], None]:
    """A worker that is alive."""
    return lambda db: void(db.execute(text(WORKER), {"version": version}))


def void(_: object) -> None:
    """Forgets a result."""


def clocks(started: str) -> Callable[[Connection], None]:
    """Ten attempts of a worker, each begun so long before its record, by its own clock."""

    def make(db: Connection) -> None:
        id = value(db, f"{WORKER} RETURNING id", version="1")
        subscription = subscribe(db).id
        for n in range(10):
            attempt(db, subscription, n)
        query = f"""
            INSERT INTO outbox.attempt (
                delivery_id, attempt, outcome, worker_id, started_at, duration_ms)
            SELECT id, 2, 'lost', :worker, now() - interval '{started}', 40 FROM outbox.delivery
        """  # noqa: S608 - our own
        db.execute(text(query), {"worker": id})

    return make


def paused(db: Connection) -> None:
    """A delivery that a person holds."""
    id = subscribe(db).id
    queue(db, id)
    subscriptions.pause(db, id, by=BY)


def sealed(db: Connection) -> None:
    """A secret that the key of this machine has sealed."""
    subscribe(db, keyring=KEYRING)


def failing(since: str, failures: int) -> Callable[[Connection], None]:
    """A subscription to which nothing was delivered."""

    def make(db: Connection) -> None:
        id = subscribe(db).id
        db.execute(text(f"{HEALTH} (:id, now() - interval '{since}', {failures})"), {"id": id})

    return make


def leased(until: str) -> Callable[[Connection], None]:
    """A claim with a lease."""
    return lambda db: queue(db, subscribe(db).id, lease=until)


# The check, what is so, the verdict, and what the finding says.
CASES: dict[str, tuple[str, Callable[[Connection], None], str, str]] = {
    "PostgreSQL": ("server", run(), OK, "PostgreSQL 1"),
    "right schema": ("schema", run(), OK, "version 3"),
    "old schema": ("schema", version(1), ERROR, "version 1"),
    "new schema": ("schema", version(9), ERROR, "version 9"),
    "no schema": ("schema", run("DROP SCHEMA outbox CASCADE"), ERROR, "not installed"),
    "commits that wait": ("synchronous_commit", run("SET LOCAL synchronous_commit = on"), OK, "on"),
    "commits that do not": (
        "synchronous_commit", run("SET LOCAL synchronous_commit = off"), WARNING, "a crash loses",
    ),
    "counts": ("track_counts", run("SET LOCAL track_counts = on"), OK, "on"),
    "no counts": ("track_counts", run("SET LOCAL track_counts = off"), ERROR, "autovacuum"),
    "writes": ("default_transaction_read_only", run(), OK, "off"),
    "reads only": (
        "default_transaction_read_only", run("SET LOCAL default_transaction_read_only = on"),
        ERROR, "workers cannot write",
    ),
    "read committed": ("default_transaction_isolation", run(), OK, "read committed"),
    "serializable": (
        "default_transaction_isolation",
        run("SET LOCAL default_transaction_isolation = serializable"), ERROR, "claims of workers",
    ),
    "room": ("connections", run(), OK, "in use"),
    "triggers fire": ("triggers", run(), OK, "all fire"),
    "events not queued": (
        "triggers", run("ALTER TABLE outbox.event DISABLE TRIGGER queue_events"),
        ERROR, "new events are not queued",
    ),
    "facts not protected": (
        "triggers", run("ALTER TABLE outbox.attempt DISABLE TRIGGER refuse_change"),
        ERROR, "refuse_change on attempt",
    ),
    "same time": ("clock", run(), OK, "agree within"),
    "a worker": ("workers", with_worker(__version__), OK, "1 alive on 1 host"),
    "no worker": ("workers", run(), ERROR, "nothing is delivered"),
    "same version": ("versions of workers", with_worker(__version__), OK, __version__),
    "other version": ("versions of workers", with_worker("0.0.1"), WARNING, "workers have 0.0.1"),
    "a worker's clock": ("clocks of workers", clocks("100 ms"), OK, "on 1 host"),
    "a worker ahead": ("clocks of workers", clocks("-7 s"), WARNING, "a is about 7 s ahead of"),
    "a worker behind": ("clocks of workers", clocks("1 h"), ERROR, "a is about 3600 s behind"),
    "no attempts": ("clocks of workers", run(), OK, "no attempts"),
    "a fresh event": ("oldest event", run(f"{QUEUED} (now(), outbox.uuid7(), NULL)"), OK, "0 s"),
    "an old event": (
        "oldest event", run(f"{QUEUED} (now() - interval '2 min', outbox.uuid7(), NULL)"),
        WARNING, "waits for 2 min",
    ),
    "a very old event": (
        "oldest event", run(f"{QUEUED} (now() - interval '3 h', outbox.uuid7(), NULL)"),
        ERROR, "waits for 3 h",
    ),
    "none set aside": ("events set aside", run(), OK, "none"),
    "set aside": (
        "events set aside", run(f"{QUEUED} ('infinity', outbox.uuid7(), 'it broke')"),
        ERROR, "it broke",
    ),
    "due just now": ("oldest delivery due", lambda db: queue(db, subscribe(db).id), OK, "1 s"),
    "due long ago": (
        "oldest delivery due", lambda db: queue(db, subscribe(db).id, "-1 h"), WARNING, "60 min",
    ),
    "a live lease": ("abandoned claims", leased("30 s"), OK, "none"),
    "a lease just over": ("abandoned claims", leased("-1 min"), OK, "none"),
    "an old lease": ("abandoned claims", leased("-1 h"), ERROR, "1 row claimed"),
    "no replay": ("replays", run(), OK, "none runs"),
    "a replay": ("replays", run(f"{REPLAY} '1 s')"), OK, "1 running"),
    "a replay that waits": ("replays", run(f"{REPLAY} '20 min')"), WARNING, "for 20 min"),
    "a replay that stands": ("replays", run(f"{REPLAY} '5 h')"), ERROR, "for 5 h"),
    "a week ahead": ("partitions ahead", run(), OK, "days ahead"),
    "default empty": ("rows in DEFAULT", run(), OK, "none"),
    "default filled": (
        "rows in DEFAULT", lambda db: void(event(db, -90 * 86_400)),
        WARNING, "event_default: 1 row",
    ),
    "none disabled": ("disabled", lambda db: void(subscribe(db)), OK, "none"),
    "one disabled": ("disabled", lambda db: disable(db, subscribe(db).id), WARNING, "gone"),
    "a few failures": ("failing", failing("2 h", 4), OK, "none"),
    "failing": ("failing", failing("2 h", 5), WARNING, "1 for an hour"),
    "nothing held": ("held deliveries", lambda db: queue(db, subscribe(db).id), OK, "none"),
    "held": ("held deliveries", paused, WARNING, "1 paused"),
    "nothing blocked": ("blocked subjects", run(), OK, "none"),
    "blocked": (
        "blocked subjects", lambda db: block(db, subscribe(db, ordered="stop").id, "user/1"),
        WARNING, "1 subject, such as user/1",
    ),
    "URLs allowed": ("refused URLs", lambda db: void(subscribe(db)), OK, "none"),
    "sealed": ("secrets in clear", sealed, OK, "none"),
    "in clear": (
        "secrets in clear", lambda db: void(subscribe(db, keyring=Keyring())), WARNING, "1 secret",
    ),
    "keys here": ("keys of secrets", sealed, OK, "none is missing"),
    "key missing": (
        "keys of secrets", lambda db: void(subscribe(db, keyring=Keyring.read(new_key()))),
        ERROR, "which is not here",
    ),
    "nothing prepared": ("prepared transactions", run(), OK, "none"),
    "no slots": ("replication slots", run(), OK, "none"),
    "no standbys": ("standbys", run(), OK, "none"),
    "autovacuum comes": ("autovacuum of tables", run(), OK, "every table"),
    "autovacuum does not come": (
        "autovacuum of tables",
        run("ALTER TABLE outbox.event_queue SET (autovacuum_enabled = off)"),
        ERROR, "event_queue",
    ),
    "few dead rows": ("dead rows", run(), OK, "live"),
    "small queues": ("size of queues", run(), OK, "for"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_checks(db: Connection, case: str) -> None:
    """A check sees what is so, and has a remedy for what is bad."""
    name, make, verdict, said = CASES[case]
    make(db)

    found = look(db, name)

    assert (found.verdict, said in found.found) == (verdict, True), found
    assert bool(found.remedy) == (verdict != OK)


def test_doctests() -> None:
    """The examples are right."""
    modules = (findings, doctor_fleet, doctor_vacuum)

    assert [doctest.testmod(module).failed for module in modules] == [0] * len(modules)


def test_every_check_is_tested() -> None:
    """Each is seen to be well; those that nothing here can make bad are judged below."""
    seen = {
        verdict: {c[0] for c in CASES.values() if (c[2] == OK) == verdict}
        for verdict in (True, False)
    }
    settings = {rule.name for rule in SETTINGS}
    below = {
        "server", "connections", "clock", "partitions ahead", "refused URLs", "long transactions",
        "prepared transactions", "replication slots", "standbys", "dead rows", "size of queues",
    }  # fmt: skip

    names = {check.name for check in doctor.CHECKS}
    assert names - seen[True] <= settings | {"long transactions"}
    assert names - seen[False] <= settings | below


@pytest.mark.parametrize(
    ("name", "good", "bad", "verdict"),
    [
        ("fsync", "on", "off", ERROR),
        ("full_page_writes", "on", "off", ERROR),
        ("autovacuum", "on", "off", ERROR),
        ("autovacuum_naptime", "60", "3600", WARNING),
    ],
)
def test_settings_of_the_server(name: str, good: str, bad: str, verdict: str) -> None:
    """What only a restart or the administrator can set is judged all the same."""
    rule = next(rule for rule in SETTINGS if rule.name == name)

    assert doctor_server.judge_setting(good, rule).verdict == OK
    found = doctor_server.judge_setting(bad, rule)
    assert (found.verdict, f"ALTER SYSTEM SET {name} = " in str(found.remedy)) == (verdict, True)


def test_server() -> None:
    """A standby and an old version are of no use."""
    judge = doctor_server.judge_server

    assert judge(Server(150_000, "15.0", standby=False)).verdict == OK
    assert judge(Server(140_009, "14.9", standby=False)).verdict == ERROR
    assert judge(Server(180_000, "18.0", standby=True)).verdict == ERROR


@pytest.mark.parametrize(("used", "verdict"), [(79, OK), (80, WARNING), (95, ERROR)])
def test_connections(used: int, verdict: str) -> None:
    """There is room for more workers, or there soon is not."""
    assert doctor_server.judge_connections((used, 100)).verdict == verdict


@pytest.mark.parametrize(("off", "verdict"), [(0, OK), (-10, WARNING), (200, ERROR)])
def test_clock(db: Connection, off: float, verdict: str) -> None:
    """A clock that is off is seen; how long the way to the database takes does not matter."""
    theirs = float(value(db, "SELECT extract(epoch FROM clock_timestamp())"))
    ticks = iter(theirs + off + n / 1_000 for n in range(100))

    found = doctor_fleet.clock(Patient(db), now=lambda: next(ticks))

    assert found.ahead == pytest.approx(off, abs=0.5)
    assert doctor_fleet.judge_clock(found).verdict == verdict


def test_the_quickest_answer_counts(db: Connection) -> None:
    """An answer that took long says little."""
    theirs = float(value(db, "SELECT extract(epoch FROM clock_timestamp())"))
    ticks = iter([0, 60, 60, 120, 120, 120.01, 121, 181, 181, 241])

    found = doctor_fleet.clock(Patient(db), now=lambda: theirs + next(ticks))

    assert found.doubt == pytest.approx(0.005, abs=0.001)


def test_a_clock_within_its_doubt() -> None:
    """What a slow way may explain is no difference."""
    assert doctor_fleet.judge_clock(Clock(ahead=20.0, doubt=19.0)).verdict == OK


def test_few_late_records() -> None:
    """A record that came late, as after an outage, says nothing of a clock; an early one does."""
    judge = doctor_fleet.judge_worker_clocks

    assert judge([WorkerClock("a", 60.0, 9)]).verdict == OK
    assert judge([WorkerClock("a", 60.0, 10)]).verdict == WARNING
    assert judge([WorkerClock("a", -60.0, 1)]).verdict == WARNING


@pytest.mark.parametrize(("days", "verdict"), [(6, OK), (3, WARNING), (1, WARNING), (0, ERROR)])
def test_partitions_that_are_missing(db: Connection, days: int, verdict: str) -> None:
    """The fact whose partitions end first is the one that counts."""
    for n in range(days + 1, 8):
        day = value(
            db, "SELECT to_char(now() AT TIME ZONE 'UTC' + :n * interval '1 d', 'YYYYMMDD')", n=n
        )
        db.execute(text(f"DROP TABLE outbox.delivery_{day}"))

    found = look(db, "partitions ahead")

    assert (found.verdict, f"{days} day" in found.found) == (verdict, True)
    assert doctor_fleet.days_ahead("event", [], date(2026, 1, 31)) == -1


def test_urls_that_are_refused(db: Connection) -> None:
    """What was allowed when it was stored may not be any more."""
    subscribe(db)

    found = look(db, "refused URLs", allow=PUBLIC)

    assert (found.verdict, "127.0.0.1 is not a public address" in found.found) == (WARNING, True)


def test_without_keys_sealed_secrets_are_unknown(db: Connection) -> None:
    """A machine without keys cannot tell whether the workers have them."""
    sealed(db)

    assert look(db, "keys of secrets", keyring=Keyring()).verdict == UNKNOWN


def test_long_transactions(committed_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest snapshot of somebody else is found, with the session that has it."""
    name = "long transactions"
    with psycopg.connect(committed_db.url, application_name="a long report") as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        pid = other.info.backend_pid
        with committed_db.engine.connect() as connection:
            well = look(connection, name)
            monkeypatch.setattr(doctor_vacuum, "MINUTE", 0.0)
            bad = look(connection, name)

    assert well.verdict == OK
    assert (bad.verdict, "a long report" in bad.found) == (WARNING, True)
    assert f"pg_terminate_backend({pid})" in str(bad.remedy)


def test_sessions_that_are_not_visible() -> None:
    """What others do is unknown without the right to see it; a long one that is seen counts."""
    judge = doctor_vacuum.judge_long_transactions

    assert judge((None, 3)).verdict == UNKNOWN
    assert judge((Session(1, "ada psql", "active", 4_000.0), 3)).verdict == ERROR


def test_prepared_transactions(committed_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was forgotten is found."""
    with psycopg.connect(committed_db.url, autocommit=True) as other:
        if other.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
            pytest.skip("the server of OUTBOX_TEST_DATABASE_URL allows none")
        other.execute("BEGIN")
        other.execute("CREATE TABLE forgotten ()")
        other.execute("PREPARE TRANSACTION 'forgotten'")
        try:
            with committed_db.engine.connect() as connection:
                monkeypatch.setattr(doctor_vacuum, "MINUTE", 0.0)
                found = look(connection, "prepared transactions")
        finally:
            other.execute("ROLLBACK PREPARED 'forgotten'")

    assert found.verdict == WARNING
    assert str(found.remedy).startswith("in psql: ROLLBACK PREPARED 'forgotten'")


def test_replication_slots(committed_db: Database) -> None:
    """One that nobody uses is found."""
    with psycopg.connect(committed_db.url, autocommit=True) as other:
        other.execute("SELECT pg_create_physical_replication_slot('left_behind', true)")
        try:
            with committed_db.engine.connect() as connection:
                found = look(connection, "replication slots")
        finally:
            other.execute("SELECT pg_drop_replication_slot('left_behind')")

    assert (found.verdict, "left_behind is not in use" in found.found) == (WARNING, True)


def test_slots_and_standbys() -> None:
    """Those that keep up are well; those that hold back vacuum or fill the disk are not."""
    good = Slot("a", active=True, transactions=10, wal=1024)
    slots, standbys = doctor_vacuum.judge_slots, doctor_vacuum.judge_standbys

    assert slots([good]).verdict == OK
    assert slots([good, replace_slot(good, transactions=10**6)]).verdict == WARNING
    assert slots([good, replace_slot(good, active=False, wal=10**11)]).verdict == ERROR
    assert standbys([("b", 10)]).verdict == OK
    assert standbys([("a", 10), ("b", 10**6)]).verdict == WARNING


def replace_slot(slot: Slot, **values: Any) -> Slot:
    return slot._replace(**values)


def test_dead_rows() -> None:
    """Dead rows that vacuum has just looked at are its business; those it never saw are not."""
    queue = Queue("delivery_queue", live=10, dead=200_000, vacuumed=60.0, size=10**6)
    judge = doctor_vacuum.judge_dead_rows

    assert judge([queue]).verdict == OK
    assert judge([queue._replace(vacuumed=None)]).verdict == WARNING
    assert judge([queue._replace(vacuumed=3_600.0, dead=2 * 10**6)]).verdict == ERROR


def test_bloat() -> None:
    """A large queue with much in it is well; one that is large and nearly empty is not."""
    queue = Queue("delivery_queue", live=10**6, dead=0, vacuumed=60.0, size=400 * 10**6)

    assert doctor_vacuum.judge_bloat([queue]).verdict == OK
    assert doctor_vacuum.judge_bloat([queue._replace(live=100)]).verdict == WARNING
