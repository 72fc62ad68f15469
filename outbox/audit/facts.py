"""Whether facts could be changed, and whether they were.

The triggers that refuse it must be there and enabled, on each table and partition. And the
statistics of PostgreSQL count the rows of each table that were updated or deleted since they
were last reset, which a crash does as well: a count above zero proves something, zero nothing.
Some of it is upkeep: rows that were moved out of a DEFAULT partition, keys that are past their
retention, events of an erased subject and the answers to them. A key that two hosts take at the
same moment is counted as deleted as well, for the one that came second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Text,
    and_,
    cast,
    column,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    table,
    union_all,
    values,
)

from ..tables import erasure, schema_version
from .sheet import LOWEST, Check, Sheet, said

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

FACTS = ("event", "event_key", "delivery", "attempt", "subscription_change", "erasure")

_CATALOG = "pg_catalog"
_class = table(
    "pg_class", column("oid"), column("relname", Text), column("relnamespace"),
    column("relispartition"), schema=_CATALOG,
)  # fmt: skip
_inherits = table("pg_inherits", column("inhrelid"), column("inhparent"), schema=_CATALOG)
_trigger = table(
    "pg_trigger", column("tgrelid"), column("tgname", Text), column("tgenabled", Text),
    schema=_CATALOG,
)  # fmt: skip
_stat = table(
    "pg_stat_user_tables", column("relid"), column("schemaname", Text), column("relname", Text),
    column("n_tup_upd", BigInteger), column("n_tup_del", BigInteger), schema=_CATALOG,
)  # fmt: skip


def _oid(name: Any) -> Any:
    return func.to_regclass("outbox." + name)


_parent = values(column("name", Text), name="parent").data([(name,) for name in FACTS])
_fact = union_all(
    select(_parent.c.name, _oid(_parent.c.name).label("oid"), _parent.c.name.label("fact")),
    select(_class.c.relname, _class.c.oid, _parent.c.name.label("fact"))
    .join(_inherits, _inherits.c.inhrelid == _class.c.oid)
    .join(_parent, _oid(_parent.c.name) == _inherits.c.inhparent),
).subquery("fact")

_wanted = union_all(
    *(
        select(_fact.c.name, _fact.c.oid, literal(name, Text).label("trigger"))
        for name in ("refuse_change", "refuse_truncate")
    ),
    select(_fact.c.name, _fact.c.oid, literal("queue_events", Text)).where(_fact.c.name == "event"),
).subquery("wanted")
_enabled = exists().where(
    _trigger.c.tgrelid == _wanted.c.oid,
    cast(_trigger.c.tgname, Text) == _wanted.c.trigger,
    cast(_trigger.c.tgenabled, Text).in_(("O", "A")),
)

TRIGGERS = Sheet(
    _wanted,
    cast(_wanted.c.name, Text),
    (
        Check("trigger_missing", not_(_enabled), "append-only",
              said("its trigger %s is missing or disabled", _wanted.c.trigger)),
    ),
)  # fmt: skip

_moved = or_(cast(_stat.c.relname, Text).like("%\\_default"), _fact.c.name == "event_key")
_erased = and_(_fact.c.fact.in_(("event", "attempt")), exists().where(erasure.c.id.is_not(None)))
_upkeep = and_(or_(_stat.c.n_tup_upd == 0, _erased), or_(_stat.c.n_tup_del == 0, _moved))
COUNTERS = Sheet(
    _fact.join(_stat, _stat.c.relid == _fact.c.oid),
    cast(_fact.c.name, Text),
    (
        Check("facts_changed",
              not_(_upkeep),
              "append-only",
              said("%s rows updated, %s deleted", _stat.c.n_tup_upd, _stat.c.n_tup_del)),
    ),
)  # fmt: skip


def kept_since(connection: Connection) -> UUID:
    """Return the first id that is not pruned: what is older and absent is no damage.

    Pruning drops partitions, so it is the start of the oldest; or the lowest id while there
    is one of the day of the installation.
    """
    day = func.to_date(func.right(cast(_fact.c.name, Text), 8), "YYYYMMDD")
    oldest = (
        select(func.min(day).label("day"))
        .where(cast(_fact.c.name, Text).regexp_match("_[0-9]{8}$"))
        .group_by(_fact.c.fact)
        .subquery("oldest")
    )
    midnight = func.timezone("UTC", cast(func.max(oldest.c.day), DateTime))
    installed_at = select(func.min(schema_version.c.installed_at)).scalar_subquery()
    query = select(func.outbox.uuid7_floor(midnight)).having(midnight > installed_at)
    return connection.execute(query.select_from(oldest)).scalar() or LOWEST
