"""The dashboard and the alerts of examples/ ask for what a worker serves, and for all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from outbox.worker.series import CATALOGUE
from tests.cli.reference import commands

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[1] / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana/outbox.json").read_text())
ALERTS = yaml.safe_load((EXAMPLES / "prometheus/alerts.yml").read_text())
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERVED = {series.name + suffix: series for series in CATALOGUE for suffix in SUFFIXES[series.kind]}
NAME = re.compile(r"\boutbox_\w+")
SELECTOR = re.compile(r"\b(outbox_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def queries() -> Iterator[str]:
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    yield from (rule["expr"] for rule in rules())


@pytest.mark.parametrize("query", list(queries()))
def test_a_query(query: str) -> None:
    """It asks for metrics that exist, by labels and values that they have."""
    names = NAME.findall(query)

    assert names
    assert set(names) <= set(SERVED)
    assert query.count("(") == query.count(")")
    for name, selector in SELECTOR.findall(query):
        series = SERVED[name]
        known = {label: {v[i] for v in series.values} for i, label in enumerate(series.labels)}
        for label, _, wanted in MATCHER.findall(selector):
            assert label == "job" or wanted in known[label] | {""}


def test_the_dashboard_shows_all() -> None:
    """Each series that a worker serves is on it."""
    shown = {SERVED[name].name for panel in panels() for target in panel["targets"]
             for name in NAME.findall(target["expr"])}  # fmt: skip

    assert shown == {series.name for series in CATALOGUE}


def test_panels_have_their_places() -> None:
    """No two of them overlap, and ids are unique."""
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]

    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_alerts_speak() -> None:
    """Each alert has a name of its own, says how bad it is, and what to look at."""
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["alert"].startswith("Outbox")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith(".")


def test_what_alerts_advise_exists() -> None:
    """Each command that an alert names is one of ours, with the options it is given."""
    advised = re.findall(r"`outbox ([^`]*)`", json.dumps(ALERTS))
    known = {context.command_path: context.command for context in commands()}

    assert advised
    for words in map(str.split, advised):
        path = [word for word in words if word.islower() and not word.startswith("-")][:2]
        options = {word for word in words if word.startswith("-")}
        command = known[" ".join(["outbox", *path])]
        assert options <= {name for param in command.params for name in param.opts}
