"""What a capture costs the host.

The same statements on the same table: as it is (`plain`), with all columns captured
(`whole`), with one left out (`chosen`), and with events that the host emits by hand after
each statement (`emit`), in the same transaction and with the same content. Inserts, updates
and deletes, of one row in a transaction and of many rows in one statement.

    python -m benchmarks.capture --rows 1000 --rounds 5

Prints a line for each and, at the end, one line of JSON with everything: the time until
the commit begins, and the CPU time of the server's process, commit included, which depends
less on what else the machine does. Only the ratios to the table as it is mean something on
another machine. Exits 1 if there is not exactly one event for each change.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy import text

from outbox import Event, captures, database, emit_many, schema
from outbox.subscriptions import Author

from .database import Database, fresh
from .drain import server, surroundings
from .processes import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import LiteralString

    from sqlalchemy import Connection, Engine

    Run = dict[str, Any]

BY = Author("benchmark", "benchmarks.capture")
WAYS = ("plain", "whole", "chosen", "emit")

TABLE = """
CREATE TABLE users (
    id bigint PRIMARY KEY, email text NOT NULL, name text, age int, active boolean DEFAULT true,
    balance numeric(12, 2) DEFAULT 19.90, born date DEFAULT '2000-01-31',
    tags text[] DEFAULT '{a,b}', settings jsonb DEFAULT '{"theme": "dark"}', org_id int DEFAULT 7,
    password_hash text DEFAULT repeat('x', 60), created_at timestamptz DEFAULT now()
)
"""
STATEMENTS = {  # and the members of the event
    "created": (
        """
        INSERT INTO users (id, email, name, age)
        SELECT n, 'user' || n || '@example.com', 'User ' || n, n % 90
        FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) n
        """,
        ("new",),
    ),
    "updated": (
        "UPDATE users SET age = age + 1 WHERE id BETWEEN :first AND :last",
        ("new", "old", "changed"),
    ),
    "deleted": ("DELETE FROM users WHERE id BETWEEN :first AND :last", ("old",)),
}
EVENTS: LiteralString = "SELECT count(*) AS events FROM outbox.event"


@dataclass(frozen=True, slots=True)
class Size:
    """So many rows in a statement, and so many statements, each in its transaction."""

    rows: int
    statements: int


def prepare(base: Database, way: str) -> Engine:
    """Install the schema and the host's table; return the host's engine."""
    engine = database.engine(base.url)
    with engine.begin() as connection:
        schema.apply(connection)
        connection.execute(text(TABLE))
        if way in {"whole", "chosen"}:
            exclude = ["password_hash"] if way == "chosen" else []
            captures.add(connection, "users", "user", by=BY, exclude=exclude)
    base.run("CHECKPOINT")
    return engine


def measure(base: Database, way: str, size: Size) -> Iterator[Run]:
    """Run all statements on a database of its own; yield what each kind took."""
    with fresh(base) as one:
        engine = prepare(one, way)
        with engine.connect() as connection:
            backend = _backend(connection) if one.postmaster() else None
            for change in STATEMENTS:
                cpu = cpu_seconds(backend)
                firsts = range(0, size.rows * size.statements, size.rows)
                times = [_timed(connection, way, change, n, size.rows) for n in firsts]
                yield {
                    "change": change,
                    "way": way,
                    "rows": size.rows,
                    "wall_us": median(times) * 1e6,
                    "cpu_us": _each(cpu, cpu_seconds(backend), size.statements),
                }
        engine.dispose()
        expected = 0 if way == "plain" else len(STATEMENTS) * size.rows * size.statements
        if one.ask(EVENTS)["events"] != expected:
            sys.exit(f"Error: {one.ask(EVENTS)['events']} events, not {expected}")


def _backend(connection: Connection) -> int:
    driver: Any = connection.connection.driver_connection
    return int(driver.info.backend_pid)


def _each(before: float | None, after: float | None, count: int) -> float | None:
    return None if before is None or after is None else (after - before) / count * 1e6


def _timed(connection: Connection, way: str, change: str, first: int, rows: int) -> float:
    """Return the seconds of a statement and what is emitted beside it, without the commit."""
    statement, members = STATEMENTS[change]
    begin = time.perf_counter()
    connection.execute(text(statement), {"first": first, "last": first + rows - 1})
    if way == "emit":
        emit_many(connection, [_event(change, members, n) for n in range(first, first + rows)])
    seconds = time.perf_counter() - begin
    connection.commit()
    return seconds


def _event(change: str, members: tuple[str, ...], number: int) -> Event:
    row = {
        "id": number, "email": f"user{number}@example.com", "name": f"User {number}",
        "age": number % 90, "active": True, "balance": 19.9, "born": "2000-01-31",
        "tags": ["a", "b"], "settings": {"theme": "dark"}, "org_id": 7,
        "password_hash": "x" * 60, "created_at": "2026-01-31T09:30:00+00:00",
    }  # fmt: skip
    data = {name: ["age"] if name == "changed" else row for name in members}
    return Event(type=f"user.{change}", subject=f"user/{number}", source="public.users", data=data)


def medians(runs: list[Run]) -> list[Run]:
    """Return the median of each kind of run, and its ratios to the table as it is."""
    kinds: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        kinds.setdefault((run["rows"], run["change"], run["way"]), []).append(run)
    found = {kind: _middle(same) for kind, same in kinds.items()}
    return [
        {"rows": rows, "change": change, "way": way, **times, **_ratios(times, plain)}
        for (rows, change, way), times in sorted(found.items(), key=_place)
        for plain in [found[rows, change, "plain"]]
    ]


def _place(item: tuple[tuple[Any, ...], Run]) -> tuple[Any, ...]:
    rows, change, way = item[0]
    return rows, list(STATEMENTS).index(change), WAYS.index(way)


def _middle(same: list[Run]) -> Run:
    names = [name for name in ("wall_us", "cpu_us") if same[0][name] is not None]
    return {name: median(run[name] for run in same) for name in names}


def _ratios(times: Run, plain: Run) -> Run:
    return {f"{name[:-3]}_ratio": times[name] / plain[name] for name in times if plain[name]}


def show(run: Run) -> None:
    """Print one line."""
    numbers = (
        format(run[name] / per, form).rjust(width) if name in run else " " * width
        for name, per, form, width in (
            ("wall_us", 1, ",.0f", 10), ("wall_us", run["rows"], ",.1f", 10),
            ("wall_ratio", 1, ".1f", 8), ("cpu_us", 1, ",.0f", 10),
            ("cpu_us", run["rows"], ",.1f", 10), ("cpu_ratio", 1, ".1f", 8),
        )
    )  # fmt: skip
    click.echo("  ".join((f"{run['rows']:>6,}  {run['change']:<7}  {run['way']:<6}", *numbers)))


HEAD = "  rows  change   way        wall µs    a row µs  of plain      CPU µs    a row µs  of plain"


@click.command(context_settings={"show_default": True})
@click.option("--rows", default=1_000, help="Of one statement, beside those of one row.")
@click.option("--statements", default=1_000, help="Of one row; of many a fiftieth.")
@click.option("--rounds", default=3, help="The median of so many counts.")
@click.option("--database-url", help="Another server: its default settings, and CREATEDB.")
def main(rows: int, statements: int, rounds: int, database_url: str | None) -> None:
    """Measure statements of a host with and without a capture."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    sizes = (Size(1, statements), Size(rows, max(1, statements // 50)))
    click.echo(HEAD)
    with server(database_url) as base:
        around = surroundings(base)
        runs = []
        for number in range(1, rounds + 1):
            click.echo(f"round {number} of {rounds}", err=True)
            runs += [run for size in sizes for way in WAYS for run in measure(base, way, size)]
    middle = medians(runs)
    for run in middle:
        show(run)
    click.echo(json.dumps({"surroundings": around, "median": middle, "runs": runs}))


if __name__ == "__main__":
    main()
