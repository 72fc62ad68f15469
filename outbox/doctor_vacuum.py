"""What keeps vacuum from doing its work: a queue whose dead rows stay becomes slow.

Nothing that was deleted after the oldest snapshot in use can be removed, whoever has it:
a transaction, a prepared one, a replication slot, a query on a standby.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Double,
    Numeric,
    Text,
    any_,
    case,
    cast,
    column,
    extract,
    func,
    literal,
    select,
    table,
)

from .findings import (
    ERROR,
    HOUR,
    MINUTE,
    OK,
    UNKNOWN,
    WARNING,
    Opinion,
    ago,
    by_age,
    several,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from sqlalchemy import ColumnElement

    from .findings import Patient

OLD_TRANSACTIONS = 500_000  # an xmin so far back holds back vacuum for minutes, on a busy server
DEAD, TOO_DEAD = 100_000, 1_000_000  # rows
HELD_WAL = 10 * 1024**3  # bytes
BLOATED, PER_ROW = 256 * 1024**2, 5_000  # bytes; a queue's row with its indexes takes some 400
HOT = ("delivery_queue", "event_queue", "limited_claim", "subscription_health", "throttle")
SEE_ALL = "in psql: GRANT pg_monitor TO the role that runs this"


class Session(NamedTuple):
    """A session in a transaction that began `age` seconds ago."""

    pid: int
    who: str
    state: str
    age: float


def long_transactions(patient: Patient) -> tuple[Session | None, int]:
    """Look for the oldest transaction that holds a snapshot, and for sessions not shown."""
    names = ("pid", "usename", "application_name", "state", "xact_start", "backend_xmin")
    others = ("backend_xid", "backend_type", "datname", "query")
    session = table("pg_stat_activity", *map(column, (*names, *others)))
    columns = session.c
    here = columns.datname == func.current_database()
    who = func.concat_ws(" ", columns.usename, func.nullif(columns.application_name, ""))
    oldest = (
        select(columns.pid, who, func.coalesce(columns.state, "active"), _age(columns.xact_start))
        .where(here, columns.pid != func.pg_backend_pid(), columns.xact_start.is_not(None))
        .where(columns.backend_xmin.is_not(None) | columns.backend_xid.is_not(None))
        .where(columns.backend_type != "autovacuum worker")  # vacuums do not wait for each other
        .order_by(columns.xact_start)
        .limit(1)
    )
    hidden = select(func.count()).where(here, columns.query == "<insufficient privilege>")
    found = patient.connection.execute(oldest).first()
    return (Session(*found) if found else None), patient.connection.execute(hidden).scalar_one()


def judge_long_transactions(seen: tuple[Session | None, int]) -> Opinion:
    """No transaction goes on for minutes."""
    oldest, hidden = seen
    verdict = OK if oldest is None else by_age(oldest.age, warning=5 * MINUTE, error=HOUR)
    if oldest is not None and verdict != OK:
        found = f"{oldest.who} (pid {oldest.pid}) is {oldest.state} since {ago(oldest.age)}"
        end = f"in psql: SELECT pg_terminate_backend({oldest.pid})"
        future = "for the future idle_in_transaction_session_timeout = '1min'"
        return Opinion(verdict, found, f"{end}; {future}")
    if hidden:
        return Opinion(UNKNOWN, f"{several(hidden, 'session')} of others not visible", SEE_ALL)
    return Opinion(OK, "none" if oldest is None else f"the oldest since {ago(oldest.age)}")


def prepared_transactions(patient: Patient) -> tuple[str, float] | None:
    """Look for the oldest transaction that is prepared and neither committed nor rolled back."""
    prepared = table("pg_prepared_xacts", column("gid"), column("prepared"), column("database"))
    query = (
        select(prepared.c.gid, _age(prepared.c.prepared))
        .where(prepared.c.database == func.current_database())
        .order_by(prepared.c.prepared)
        .limit(1)
    )
    found = patient.connection.execute(query).first()
    return None if found is None else (found[0], found[1])


def judge_prepared_transactions(seen: tuple[str, float] | None) -> Opinion:
    """None was forgotten: they outlive every restart."""
    if seen is None:
        return Opinion(OK, "none")
    gid, age = seen
    verdict = by_age(age, warning=5 * MINUTE, error=HOUR)
    if verdict == OK:
        return Opinion(OK, f"{gid} since {ago(age)}")
    quoted = gid.replace("'", "''")
    remedy = f"in psql: ROLLBACK PREPARED '{quoted}', or COMMIT PREPARED"
    return Opinion(verdict, f"{gid} since {ago(age)}", remedy)


class Slot(NamedTuple):
    """A replication slot: how many transactions ago its snapshot is, and the WAL that it keeps."""

    name: str
    active: bool
    transactions: int
    wal: int


def slots(patient: Patient) -> list[Slot]:
    """Look at the replication slots."""
    slot = table("pg_replication_slots", *map(column, ("slot_name", "active", "xmin")),
                 column("restart_lsn"))  # fmt: skip
    kept = func.pg_wal_lsn_diff(func.pg_current_wal_lsn(), slot.c.restart_lsn, type_=Numeric)
    query = select(
        slot.c.slot_name,
        slot.c.active,
        func.coalesce(func.age(slot.c.xmin), 0),
        cast(func.coalesce(kept, 0), BigInteger),
    )
    return [Slot(*row) for row in patient.connection.execute(query)]


def judge_slots(seen: Sequence[Slot]) -> Opinion:
    """Each is in use and keeps up: else it holds back vacuum, and fills the disk with WAL."""
    behind = [slot for slot in seen if not slot.active or slot.transactions > OLD_TRANSACTIONS]
    if not behind:
        return Opinion(OK, several(len(seen), "slot") if seen else "none")
    worst = max(behind, key=lambda slot: (slot.wal, slot.transactions))
    verdict = ERROR if worst.wal > HELD_WAL else WARNING
    state = "behind" if worst.active else "not in use"
    found = f"{worst.name} is {state}, keeps {size(worst.wal)} of WAL"
    drop = f"in psql: SELECT pg_drop_replication_slot('{worst.name}')"
    return Opinion(verdict, found, f"let its standby catch up; or {drop}")


def standbys(patient: Patient) -> list[tuple[str, int]]:
    """Look at what standbys that send feedback hold back, in transactions."""
    standby = table("pg_stat_replication", column("application_name"), column("backend_xmin"))
    query = select(standby.c.application_name, func.age(standby.c.backend_xmin)).where(
        standby.c.backend_xmin.is_not(None)
    )
    return [(name, age) for name, age in patient.connection.execute(query)]


def judge_standbys(seen: Sequence[tuple[str, int]]) -> Opinion:
    """No query on a standby holds back vacuum here."""
    name, age = max(seen, key=lambda each: each[1], default=("", 0))
    if age <= OLD_TRANSACTIONS:
        return Opinion(OK, "none holds back vacuum")
    found = f"{name} needs rows of {age:,} transactions ago"
    return Opinion(WARNING, found, "end its long queries, or hot_standby_feedback = off there")


class Queue(NamedTuple):
    """A small table of many changes; `vacuumed` is seconds ago, None for never."""

    name: str
    live: int
    dead: int
    vacuumed: float | None
    size: int


def queues(patient: Patient) -> list[Queue]:
    """Look at the statistics of the tables that change most."""
    names = ("relname", "relid", "n_live_tup", "n_dead_tup", "last_vacuum", "last_autovacuum")
    stats = table("pg_stat_user_tables", *map(column, (*names, "schemaname")))
    last = func.greatest(stats.c.last_vacuum, stats.c.last_autovacuum)
    query = (
        select(
            stats.c.relname,
            stats.c.n_live_tup,
            stats.c.n_dead_tup,
            _age(last),
            func.pg_total_relation_size(stats.c.relid),
        )
        .where(stats.c.schemaname == "outbox", stats.c.relname.in_(HOT))
        .order_by(stats.c.relname)
    )
    return [Queue(*row) for row in patient.connection.execute(query)]


def judge_dead_rows(seen: Sequence[Queue]) -> Opinion:
    """Dead rows are removed soon."""
    worst = max(seen, key=lambda queue: queue.dead)
    found = f"{worst.name}: {worst.dead:,} beside {worst.live:,} live"
    late = worst.vacuumed is None or worst.vacuumed > 10 * MINUTE
    if worst.dead <= DEAD or not late:
        return Opinion(OK, found)
    last = "never vacuumed" if worst.vacuumed is None else f"vacuumed {ago(worst.vacuumed)} ago"
    verdict = ERROR if worst.dead > TOO_DEAD else WARNING
    return Opinion(verdict, f"{found}, {last}", f"in psql: VACUUM (VERBOSE) outbox.{worst.name}")


def judge_bloat(seen: Sequence[Queue]) -> Opinion:
    """The queues are as large as what is in them."""
    worst = max(seen, key=lambda queue: queue.size)
    found = f"{worst.name}: {size(worst.size)} for {several(worst.live, 'row')}"
    if worst.size <= BLOATED or worst.size <= PER_ROW * worst.live:
        return Opinion(OK, found)
    remedy = f"in psql: VACUUM (FULL, ANALYZE) outbox.{worst.name}"
    return Opinion(WARNING, found, f"{remedy}, at a quiet moment: it locks the queue")


def vacuum_off(patient: Patient) -> list[str]:
    """Look for tables of ours for which autovacuum was switched off."""
    relation = table(
        "pg_class", column("relname"), column("relnamespace"), column("reloptions", ARRAY(Text))
    )
    off = [literal(f"autovacuum_enabled={word}") == any_(relation.c.reloptions)
           for word in ("false", "off", "no", "0")]  # fmt: skip
    query = (
        select(relation.c.relname)
        .where(relation.c.relnamespace == func.to_regnamespace("outbox"))
        .where(case((off[0] | off[1] | off[2] | off[3], True), else_=False))
        .order_by(relation.c.relname)
    )
    return list(patient.connection.execute(query).scalars())


def judge_vacuum_off(seen: Sequence[str]) -> Opinion:
    """Autovacuum comes to each table."""
    if not seen:
        return Opinion(OK, "comes to every table")
    remedy = f"in psql: ALTER TABLE outbox.{seen[0]} RESET (autovacuum_enabled)"
    return Opinion(ERROR, f"switched off for {', '.join(seen[:3])}", remedy)


def size(number: float) -> str:
    """Return so many bytes as a person says it.

    >>> size(217_000_000)
    '207 MB'
    """
    for unit in ("B", "kB", "MB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GB"


def _age(moment: ColumnElement[Any]) -> ColumnElement[float]:
    return cast(extract("epoch", func.clock_timestamp() - moment), Double)
