"""Lists as tables, JSON, JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from outbox.cli import listing
from outbox.cli.listing import paged

from .rows import add_event

if TYPE_CHECKING:
    from tests.databases import Database

    from .conftest import Cli


@dataclass
class Item:
    id: UUID


ITEMS = [Item(UUID(int=n)) for n in range(25, 0, -1)]


def fetch(before: UUID | None, limit: int) -> list[Item]:
    """A store of 25 items, newest first."""
    found = [item for item in ITEMS if before is None or item.id < before]
    return found[:limit]


@pytest.mark.parametrize(
    ("shape", "limit", "count"),
    [("table", None, 7), ("json", None, 7), ("table", 12, 12), ("jsonl", None, 25), ("csv", 3, 3)],
)
def test_how_many(
    monkeypatch: pytest.MonkeyPatch, shape: str, limit: int | None, count: int
) -> None:
    """A page for who reads it; all of it, chunk after chunk, for JSON lines and CSV."""
    monkeypatch.setattr(listing, "PAGE", 7)
    monkeypatch.setattr(listing, "CHUNK", 10)

    assert list(paged(fetch, shape, limit=limit, before=None)) == ITEMS[:count]


def test_from_where() -> None:
    """`before` is the last id of the page before."""
    assert next(paged(fetch, "table", limit=1, before=UUID(int=5))).id == UUID(int=4)


def test_json_lines_and_csv(cli: Cli, committed_db: Database) -> None:
    """Both have every column, and data keeps its exact text."""
    ids = [str(add_event(committed_db, data={"n": n, "text": 'a, "b"'})) for n in range(3)]

    lines = [json.loads(line) for line in cli.out("events", "list", "--jsonl").splitlines()]
    table = list(csv.DictReader(io.StringIO(cli.out("events", "list", "--csv"), newline="")))

    assert [line["id"] for line in lines] == [row["id"] for row in table] == ids[::-1]
    assert [json.loads(row["data"]) for row in table] == [line["data"] for line in lines]
    assert (lines[0]["tenant"], table[0]["tenant"]) == (None, "")


def test_nothing(cli: Cli) -> None:
    """An empty list is no line of JSON, and a CSV of names alone."""
    assert cli.out("events", "list", "--jsonl") == ""
    assert cli.out("events", "list", "--csv").startswith("id,occurred_at,type,")


def test_one_shape(cli: Cli) -> None:
    """Two shapes at once are wrong use."""
    result = cli("events", "list", "--csv", "--json")

    assert (result.exit_code, result.stderr) == (
        2, "Error: --json and --csv are two shapes; give one\n",
    )  # fmt: skip
