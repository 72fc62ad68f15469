"""Tables of the host whose changes are events, without a line of code in the host.

A capture is a trigger on the host's table. It writes `user.created`, `user.updated` and
`user.deleted` in the transaction of the change, so P1 holds for them as for any event.

    with engine.begin() as connection:
        captures.add(connection, "public.users", "user", by=author, exclude=["password_hash"])

The data of such an event is

    {"new": {"id": 42, "email": "a@b.example"}, "old": {…}, "changed": ["email"]}

`old` is missing when the row was created, `new` when it was deleted, `changed` but for
updates. An update that changes none of the columns is no event. Who takes away `old` and
puts `new` in its place, event by event, has the table. `user.truncated` has `{}` as its
data: all rows are gone. With `type_from` each new row is an event, of the type that the
column tells: its data is the row, without `new` around it.

Values are what PostgreSQL's to_json makes of them, the same in every session: numbers with
all their digits, times in ISO 8601 and in UTC, bytea as hexadecimal text, JSON as it is.
The columns are those that were there when the capture was added: what comes later goes
nowhere before somebody says so.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Text,
    Uuid,
    cast,
    column,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, OID
from sqlalchemy.exc import DBAPIError

from .drivers import told
from .encoding import check_text
from .errors import InvalidInput, NotFound, WrongState
from .host_tables import HostTable, choose
from .tables import capture, capture_state

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Connection, RowMapping, Select

    from .subscriptions import Author

_LONGEST_NAME = 1_024  # characters: two names of 63 bytes, in quotes, may be written at length


@dataclass(frozen=True, slots=True)
class Capture:
    """A row of `outbox.capture`: the arguments of `add`, and what became of it.

    `state` is `active`, `disabled` (its triggers are, in PostgreSQL), `lost` (they or the
    table are gone) or `removed`. `moved_to` is the table's name now, if it is another.
    `missing` are columns that are gone, `unknown` those that came later, `unseen` tables
    that inherit from it, whose rows its triggers do not see.
    """

    id: UUID
    table_name: str
    type: str
    operations: tuple[str, ...]
    columns: tuple[str, ...]
    excluded: tuple[str, ...]
    tenant_from: str | None
    subject_from: tuple[str, ...]
    type_from: str | None
    state: str
    moved_to: str | None
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    unseen: tuple[str, ...]
    actor: str
    command: str
    created_at: datetime
    removed_at: datetime | None
    removed_by: str | None


def add(
    connection: Connection,
    table: str,
    type: str,
    *,
    by: Author,
    columns: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    operations: Sequence[str] | None = None,
    tenant_from: str | None = None,
    subject_from: Sequence[str] | None = None,
    type_from: str | None = None,
    replace: bool = False,
) -> Capture:
    """Turn the changes of `table` into events from now on; return the capture.

    `table` is written as in SQL. All columns are captured, or only `columns`, or all but
    `exclude`. `operations` are some of insert, update, delete and truncate, by default all.
    `tenant_from` is the column that makes the event's tenant; `subject_from` are those of
    its subject (`user/42`), by default the primary key. `type_from` is the column that makes
    the type, of a table that is only inserted into; where that is empty, `type` is taken.
    `replace` ends a capture of the same table and type in the same transaction.

    The table is locked against writers (SHARE ROW EXCLUSIVE) until the transaction ends.
    Raises InvalidInput, and WrongState if others hold the table for longer than a second.
    """
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(_ADDING, 0))))
    oid = _oid(connection, table)
    found = _describe(connection, oid)
    values = choose(
        found, type, columns=columns, exclude=exclude, operations=operations,
        tenant_from=tenant_from, subject_from=subject_from, type_from=type_from,
    )  # fmt: skip
    _make_way(connection, oid, found, type, by, replace=replace)
    values |= {"actor": by.actor, "command": by.command}
    id = connection.execute(insert(capture).returning(capture.c.id), values).scalar_one()
    start = select(func.outbox.start_capture(literal(id, Uuid), literal(oid, OID)))
    _change_triggers(connection, start, found.table_name, "captured")
    return show(connection, id)


def list_captures(connection: Connection, *, removed: bool = False) -> list[Capture]:
    """Return all captures, oldest first."""
    query = _QUERY.order_by(capture.c.id)
    if not removed:
        query = query.where(capture.c.removed_at.is_(None))
    return [_from_row(row) for row in connection.execute(query).mappings()]


def show(connection: Connection, id: UUID) -> Capture:
    """Return the capture `id`. Raises NotFound."""
    row = connection.execute(_QUERY.where(capture.c.id == id)).mappings().first()
    if row is None:
        raise NotFound("capture", str(id))
    return _from_row(row)


def remove(connection: Connection, id: UUID, *, by: Author) -> Capture:
    """End it: its triggers are dropped, if they are still there. Events stay.

    Raises NotFound, and WrongState if it is removed already, or if others hold the table
    for longer than a second.
    """
    query = select(capture.c.table_name, capture.c.removed_at).where(capture.c.id == id)
    row = connection.execute(query.with_for_update()).first()
    if row is None:
        raise NotFound("capture", str(id))
    if row.removed_at is not None:
        raise WrongState("capture", str(id), "removed", "removed")
    stop = select(func.outbox.stop_capture(literal(id, Uuid)))
    _change_triggers(connection, stop, row.table_name, "released")
    values = {"removed_at": func.now(), "removed_by": by.actor}
    connection.execute(update(capture).where(capture.c.id == id).values(values))
    return show(connection, id)


def _oid(connection: Connection, table: str) -> int:
    """Return the oid of what `table` names, as PostgreSQL reads names."""
    check_text("table", table, _LONGEST_NAME)
    query = select(cast(func.to_regclass(cast(literal(table), Text)), OID))
    try:
        with connection.begin_nested():
            oid: int | None = connection.execute(query).scalar_one()
    except DBAPIError as error:
        code, message = told(error)
        if code in _NO_NAME:
            raise InvalidInput("table", f"is no name: {message}") from error
        raise
    if oid is None:
        rule = "; capitals and odd characters want quotes, as in SQL"
        raise InvalidInput("table", f"there is none of the name {table}{rule}")
    return oid


def _describe(connection: Connection, oid: int) -> HostTable:
    kinds: dict[str, Any] = {
        "temporary": Boolean, "owned": Boolean, "columns": ARRAY(Text), "computed": ARRAY(Text),
        "key": ARRAY(Text), "children": ARRAY(Text), "family": ARRAY(BigInteger),
    }  # fmt: skip
    parts = [column(each.name, kinds.get(each.name, Text)) for each in fields(HostTable)]
    found = func.outbox.describe_table(literal(oid, OID)).table_valued(*parts)
    return HostTable(**connection.execute(select(found)).mappings().one())


def _make_way(
    connection: Connection, oid: int, found: HostTable, type: str, by: Author, *, replace: bool
) -> None:
    """See to it that no change makes two events of a type: end what is to be replaced."""
    query = (
        select(capture.c.id, capture.c.table_name, capture_state.c.host_table)
        .join(capture_state, capture_state.c.id == capture.c.id)
        .where(capture.c.removed_at.is_(None), capture.c.type == type)
        .where(capture_state.c.host_table.in_(found.family))
    )
    for each in connection.execute(query).all():
        if not replace or each.host_table != oid:
            raise InvalidInput(
                "type", f"{each.table_name} is captured as {type} already: {each.id}"
            )
        remove(connection, each.id, by=by)


def _change_triggers(
    connection: Connection, change: Select[Any], table_name: str, verb: str
) -> None:
    try:
        with connection.begin_nested():
            connection.execute(change)
    except DBAPIError as error:
        code, message = told(error)
        if code == _LOCK_NOT_AVAILABLE:
            raise WrongState("table", table_name, "held by others", f"{verb} now") from error
        if code == _INSUFFICIENT_PRIVILEGE:
            raise InvalidInput("table", message) from error
        raise


_ADDING = "outbox.captures.add"  # one at a time: nobody captures the same beside us
_NO_NAME = {"42601", "42602", "0A000", "42501"}  # the last: its schema may not be looked into
_LOCK_NOT_AVAILABLE, _INSUFFICIENT_PRIVILEGE = "55P03", "42501"


def _from_row(row: RowMapping) -> Capture:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    name, now = values.pop("table_now"), values.pop("columns_now")
    values["moved_to"] = None if name == values["table_name"] else name
    told_of = (*values["columns"], *values["subject_from"])
    told_of += tuple(filter(None, (values["tenant_from"], values["type_from"])))
    there = {*values["columns"], *values["excluded"]}
    values["missing"] = () if now is None else tuple(sorted({*told_of} - {*now}))
    values["unknown"] = () if now is None else tuple(name for name in now if name not in there)
    values["unseen"] = values.pop("children_now") or ()
    return Capture(**values)


_QUERY = select(
    *capture.c,
    capture_state.c.state,
    capture_state.c.table_now,
    capture_state.c.columns_now,
    capture_state.c.children_now,
).join(capture_state, capture_state.c.id == capture.c.id)
