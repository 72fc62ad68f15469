"""What the doctor asks of PostgreSQL: its version, its settings, its room, our triggers.

Only settings that really hurt a queue are looked at, as this role has them in this database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Integer, cast, column, func, select, table

from .findings import ERROR, OK, WARNING, Opinion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .findings import Patient

OLDEST = 150_000  # as server_version_num
OUR_TRIGGERS = "in psql: ALTER TABLE outbox.{0} ENABLE TRIGGER {1}"


class Setting(NamedTuple):
    """A setting, when it hurts, how much, and why."""

    name: str
    hurts: Callable[[str], bool]
    verdict: str
    why: str
    good: str


def _is(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


SETTINGS = (
    Setting("fsync", _is("off"), ERROR, "a crash of the machine can lose everything", "on"),
    Setting("full_page_writes", _is("off"), ERROR, "a crash can tear pages apart", "on"),
    Setting(
        "synchronous_commit", _is("off"), WARNING,
        "a crash loses the last commits: events, and the records of requests, sent again then",
        "on",
    ),
    Setting("autovacuum", _is("off"), ERROR, "the queues bloat and claims become slow", "on"),
    Setting("track_counts", _is("off"), ERROR, "autovacuum does not see what to do", "on"),
    Setting(
        "autovacuum_naptime", lambda value: int(value) > 300, WARNING,
        "the queues are vacuumed too seldom", "'1min'",
    ),
    Setting("default_transaction_read_only", _is("on"), ERROR, "workers cannot write", "off"),
    Setting(
        "default_transaction_isolation", lambda value: value != "read committed", ERROR,
        "claims of workers fail when they meet", "'read committed'",
    ),
)  # fmt: skip


class Server(NamedTuple):
    """The version as a number and as text, and whether it is a standby."""

    number: int
    version: str
    standby: bool


def server(patient: Patient) -> Server:
    """Look at the server's version and role."""
    number = cast(func.current_setting("server_version_num"), Integer)
    query = select(number, func.current_setting("server_version"), func.pg_is_in_recovery())
    return Server(*patient.connection.execute(query).one())


def judge_server(seen: Server) -> Opinion:
    """PostgreSQL 15 or newer, and one that can be written to."""
    if seen.standby:
        return Opinion(ERROR, "a standby, which cannot be written to", "connect to the primary")
    if seen.number < OLDEST:
        return Opinion(ERROR, f"PostgreSQL {seen.version}", "upgrade to PostgreSQL 15 or newer")
    return Opinion(OK, f"PostgreSQL {seen.version}")


def setting(patient: Patient, name: str) -> str:
    """Look at a setting, in its own unit."""
    settings = table("pg_settings", column("name"), column("setting"))
    query = select(settings.c.setting).where(settings.c.name == name)
    return str(patient.connection.execute(query).scalar_one())


def judge_setting(value: str, rule: Setting) -> Opinion:
    """A setting that does not hurt."""
    if not rule.hurts(value):
        return Opinion(OK, value)
    remedy = f"in psql: ALTER SYSTEM SET {rule.name} = {rule.good}; SELECT pg_reload_conf()"
    return Opinion(rule.verdict, f"{value}: {rule.why}", remedy)


def connections(patient: Patient) -> tuple[int, int]:
    """Look at the connections that are open, and those that there may be."""
    databases = table("pg_stat_database", column("numbackends", Integer))
    most, reserved = (
        cast(func.current_setting(name), Integer)
        for name in ("max_connections", "superuser_reserved_connections")
    )
    query = select(func.sum(databases.c.numbackends), most - reserved)
    used, room = patient.connection.execute(query).one()
    return int(used), int(room)


def judge_connections(seen: tuple[int, int]) -> Opinion:
    """Room for a worker more: each process holds five."""
    used, room = seen
    found = f"{used} of {room} in use"
    if used < 0.8 * room:
        return Opinion(OK, found)
    verdict = ERROR if used >= 0.95 * room else WARNING
    return Opinion(verdict, found, "raise max_connections, or put PgBouncer in between")


def triggers(patient: Patient) -> Sequence[Any]:
    """Look for triggers of ours that somebody has disabled."""
    trigger = table(
        "pg_trigger", column("tgname"), column("tgrelid"), column("tgenabled"),
        column("tgisinternal"), column("tgparentid"),
    )  # fmt: skip
    owner = table("pg_class", column("oid"), column("relname"), column("relnamespace"))
    query = (
        select(owner.c.relname, trigger.c.tgname)
        .join(owner, owner.c.oid == trigger.c.tgrelid)
        .where(owner.c.relnamespace == func.to_regnamespace("outbox"))
        .where(~trigger.c.tgisinternal, trigger.c.tgenabled.not_in(("O", "A")))
        .order_by(owner.c.relname, trigger.c.tgname)
    )
    return patient.connection.execute(query).all()


def judge_triggers(seen: Sequence[tuple[str, str]]) -> Opinion:
    """All of ours fire: the one that queues events, and those that protect the facts."""
    if not seen:
        return Opinion(OK, "all fire")
    names = ", ".join(f"{trigger} on {owner}" for owner, trigger in seen[:3])
    what = "new events are not queued" if ("event", "queue_events") in seen else "facts can change"
    return Opinion(ERROR, f"disabled: {names}: {what}", OUR_TRIGGERS.format(*seen[0]))
