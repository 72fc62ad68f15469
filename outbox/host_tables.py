"""A table of the host, and what of it may be captured. Decisions only: no SQL here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import InvalidInput
from .event_types import MAX_TYPE, check_type

if TYPE_CHECKING:
    from collections.abc import Sequence

OPERATIONS = ("insert", "update", "delete", "truncate")

_LONGEST_ENDING = ".truncated"
_OTHERS = {
    "v": "is a view", "m": "is a materialized view", "f": "is a foreign table",
    "S": "is a sequence", "i": "is an index", "I": "is an index", "c": "is a type",
}  # fmt: skip
_NOT_THE_HOSTS = ("outbox", "pg_catalog", "information_schema", "pg_toast")


@dataclass(frozen=True, slots=True)
class HostTable:
    """A table as `outbox.describe_table` finds it.

    `computed` are the columns that are made at every reading, `key` those of the primary
    key, `children` the tables that inherit from it, `family` the oids of its partitions, of
    the tables that it is a partition of, and its own.
    """

    table_name: str
    schema_name: str
    kind: str
    temporary: bool
    owner: str
    owned: bool
    columns: Sequence[str]
    computed: Sequence[str]
    key: Sequence[str]
    children: Sequence[str]
    family: Sequence[int]


def choose(
    table: HostTable,
    type: str,
    *,
    columns: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    operations: Sequence[str] | None = None,
    tenant_from: str | None = None,
    subject_from: Sequence[str] | None = None,
    type_from: str | None = None,
) -> dict[str, Any]:
    """Return the row of `outbox.capture` that these wishes make. Raises InvalidInput."""
    _check_table(table)
    _check_type(type, has_endings=type_from is None)
    chosen = _chosen(table, columns, exclude)
    return {
        "table_name": table.table_name,
        "type": type,
        "operations": _check_operations(operations, type_from),
        "columns": chosen,
        "excluded": [name for name in table.columns if name not in chosen],
        "tenant_from": _known_or_none(table, "tenant-from", tenant_from),
        "subject_from": _known(
            table, "subject-from", table.key if subject_from is None else subject_from
        ),
        "type_from": _known_or_none(table, "type-from", type_from),
    }


def _check_table(table: HostTable) -> None:
    name = table.table_name
    if table.kind not in {"r", "p"}:
        what = _OTHERS.get(table.kind, "is no table")
        raise InvalidInput("table", f"{name} {what}; only a table can be captured")
    if table.schema_name in _NOT_THE_HOSTS:
        raise InvalidInput("table", f"{name} is no table of the host")
    if table.temporary:
        raise InvalidInput("table", f"{name} is temporary")
    if not table.owned:
        who = f"{table.owner}; connect as {table.owner} or as a superuser"
        raise InvalidInput("table", f"{name} belongs to {who}")


def _check_type(type: str, *, has_endings: bool) -> None:
    check_type(type)
    longest = MAX_TYPE - len(_LONGEST_ENDING) if has_endings else MAX_TYPE
    if len(type) > longest:
        raise InvalidInput("type", f"must have at most {longest} characters: more are added to it")


def _check_operations(wanted: Sequence[str] | None, type_from: str | None) -> list[str]:
    if wanted is None:
        return ["insert"] if type_from else list(OPERATIONS)
    if not wanted or not set(wanted) <= set(OPERATIONS):
        raise InvalidInput("on", f"must be some of {', '.join(OPERATIONS)}")
    if type_from and set(wanted) != {"insert"}:
        raise InvalidInput(
            "on", "must be insert where a column makes the type: each row is an event"
        )
    return [name for name in OPERATIONS if name in wanted]


def _chosen(table: HostTable, columns: Sequence[str] | None, exclude: Sequence[str]) -> list[str]:
    if columns is not None and exclude:
        raise InvalidInput("columns", "and exclude are two ways to say it; give one")
    if columns is not None:
        return _known(table, "columns", columns) or _none_left("columns")
    left_out = {*_known(table, "exclude", exclude), *table.computed}
    return [name for name in table.columns if name not in left_out] or _none_left("exclude")


def _none_left(field: str) -> list[str]:
    raise InvalidInput(field, "leaves no column to tell of")


def _known_or_none(table: HostTable, field: str, name: str | None) -> str | None:
    return None if name is None else _known(table, field, [name])[0]


def _known(table: HostTable, field: str, names: Sequence[str]) -> list[str]:
    """Return `names`, each once, if the table has them and a trigger sees them."""
    for name in names:
        if name not in table.columns:
            there = ", ".join(table.columns)
            raise InvalidInput(field, f"{table.table_name} has no column {name}; it has {there}")
        if name in table.computed and field != "exclude":
            raise InvalidInput(field, f"{name} is generated when it is read: no trigger sees it")
    return list(dict.fromkeys(names))
