"""Everything that is known to hurt, looked at one after the other, each with its remedy.

    with engine.begin() as connection:
        for finding in doctor.examine(connection):
            print(finding.name, finding.verdict, finding.found)

A check reads with `look` and has its opinion with `judge`, which is pure. What a role may
not see, what takes too long, and what another version of the schema does not have, is
unknown; the other checks go on. Nothing is changed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from . import doctor_fleet as work
from . import doctor_server as server
from . import doctor_subscriptions as whose
from . import doctor_vacuum as vacuum
from .addresses import PUBLIC
from .database import reason
from .findings import ERROR, OK, UNKNOWN, Check, Finding, Opinion, Patient
from .keyring import Keyring
from .schema import VERSION, found_version

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .addresses import Allowed

PATIENCE = "10s"  # for each look
_SETTINGS = {
    "transaction_read_only": "on",
    "statement_timeout": PATIENCE,
    "lock_timeout": "2s",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


def schema_version(patient: Patient) -> int | None:
    """Look at the version of the schema; None: it is not installed."""
    return found_version(patient.connection)


def judge_schema_version(seen: int | None) -> Opinion:
    """The schema has the version that this program needs."""
    if seen == VERSION:
        return Opinion(OK, f"version {seen}")
    if seen is None:
        return Opinion(ERROR, "not installed in this database", "outbox schema apply")
    found = f"version {seen}, this program needs {VERSION}"
    if seen < VERSION:
        return Opinion(ERROR, found, "outbox schema apply")
    return Opinion(ERROR, found, "install a newer outbox-webhooks")


SCHEMA = Check("schema", schema_version, judge_schema_version, any_schema=True)

CHECKS: tuple[Check, ...] = (
    Check("server", server.server, server.judge_server, any_schema=True),
    SCHEMA,
    *(
        Check(
            rule.name,
            partial(server.setting, name=rule.name),
            partial(server.judge_setting, rule=rule),
            any_schema=True,
        )
        for rule in server.SETTINGS
    ),
    Check("connections", server.connections, server.judge_connections, any_schema=True),
    Check("triggers", server.triggers, server.judge_triggers),
    Check("clock", work.clock, work.judge_clock, any_schema=True),
    Check("workers", work.workers, work.judge_workers),
    Check("versions of workers", work.workers, work.judge_versions),
    Check("clocks of workers", work.worker_clocks, work.judge_worker_clocks),
    Check("oldest event", work.oldest_event, work.judge_oldest_event),
    Check("events set aside", work.set_aside, work.judge_set_aside),
    Check("oldest delivery due", work.oldest_due, work.judge_oldest_due),
    Check("abandoned claims", work.abandoned, work.judge_abandoned),
    Check("replays", work.replays, work.judge_replays),
    Check("partitions ahead", work.partitions, work.judge_partitions),
    Check("rows in DEFAULT", work.default_rows, work.judge_default_rows),
    Check("disabled", whose.disabled, whose.judge_disabled),
    Check("failing", whose.failing, whose.judge_failing),
    Check("held deliveries", whose.held, whose.judge_held),
    Check("blocked subjects", whose.blocked, whose.judge_blocked),
    Check("refused URLs", whose.refused, whose.judge_refused),
    Check("secrets in clear", whose.secrets, whose.judge_in_clear),
    Check("keys of secrets", whose.secrets, whose.judge_keys),
    Check(
        "long transactions", vacuum.long_transactions, vacuum.judge_long_transactions,
        any_schema=True,
    ),
    Check(
        "prepared transactions", vacuum.prepared_transactions, vacuum.judge_prepared_transactions,
        any_schema=True,
    ),
    Check("replication slots", vacuum.slots, vacuum.judge_slots, any_schema=True),
    Check("standbys", vacuum.standbys, vacuum.judge_standbys, any_schema=True),
    Check("autovacuum of tables", vacuum.vacuum_off, vacuum.judge_vacuum_off),
    Check("dead rows", vacuum.queues, vacuum.judge_dead_rows),
    Check("size of queues", vacuum.queues, vacuum.judge_bloat),
)  # fmt: skip


def examine(
    connection: Connection, *, allow: Allowed = PUBLIC, keyring: Keyring | None = None
) -> list[Finding]:
    """Return what each check finds, in the order of `CHECKS`.

    `allow` and `keyring` are what this machine is set to, as a worker on it would be. The
    caller's transaction can only read from then on. Raises what SQLAlchemy raises when the
    connection is lost.
    """
    settings = [func.set_config(name, value, True) for name, value in _SETTINGS.items()]
    connection.execute(select(*settings))
    patient = Patient(connection, allow, Keyring.read() if keyring is None else keyring)
    fits = _opinion(patient, SCHEMA).verdict != ERROR
    return [Finding(check.name, *_opinion(patient, check, fits=fits)) for check in CHECKS]


def _opinion(patient: Patient, check: Check, *, fits: bool = True) -> Opinion:
    if not (fits or check.any_schema):
        return Opinion(UNKNOWN, f"needs version {VERSION} of the schema")
    try:
        with patient.connection.begin_nested():
            seen = check.look(patient)
    except DBAPIError as error:
        if error.connection_invalidated or not isinstance(error.orig, psycopg.Error):
            raise
        return _unseen(error.orig)
    return check.judge(seen)


def _unseen(error: psycopg.Error) -> Opinion:
    match error:
        case psycopg.errors.InsufficientPrivilege():
            return Opinion(UNKNOWN, f"not visible: {reason(error)}", "run it as the owner")
        case psycopg.errors.QueryCanceled():
            return Opinion(UNKNOWN, f"not seen within {PATIENCE}")
        case _:
            return Opinion(UNKNOWN, f"not seen: {reason(error)}")
