"""Receivers in the wild, written for Node: what our worker sends is what they accept."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import outbox
from outbox import Event, deliveries
from outbox.signing import new_private_key, new_secret, public_key
from tests.factories import subscribe
from tests.helpers import eventually, start_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.databases import Database

NODE = shutil.which("node")
SCRIPT = Path(__file__).parents[1] / "receivers/receivers.js"
SECRET = new_secret(b"s" * 32)
OTHER = new_secret(b"o" * 32)
PRIVATE = new_private_key(b"p" * 32)

CHOICES: dict[str, dict[str, Any]] = {
    "standard": {},
    "ed25519": {"secret_text": PRIVATE},
    "github": {"schemes": ["github"]},
    "stripe": {"schemes": ["stripe"]},
    "slack": {"schemes": ["slack", "standard"]},
    "shopify": {"schemes": ["shopify"]},
    "own": {"schemes": ["hmac:X-Signature:hex:v2="]},
    "logto": {"format": "logto"},
    "casdoor": {"format": "casdoor", "schemes": ["none"], "secret_text": None},
}

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
]


@contextmanager
def receivers() -> Iterator[str]:
    """The receivers, running; yields their URL."""
    known = json.dumps({"secret": SECRET, "publicKey": public_key(PRIVATE)})
    command = [str(NODE), str(SCRIPT), known]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.terminate()


def states(database: Database) -> dict[str, tuple[str, int | None]]:
    """State and last status of each delivery, by the path it went to."""
    with database.engine.connect() as connection:
        found = deliveries.list_deliveries(connection)
    return {each.url.rsplit("/", 1)[1]: (each.state, each.status) for each in found}


def deliver(database: Database, secret: str) -> dict[str, tuple[str, int | None]]:
    """Subscribe every receiver, emit one event, and let a worker deliver it."""
    with receivers() as url:
        with database.engine.begin() as connection:
            for path, choice in CHOICES.items():
                subscribe(connection, url + path, **{"secret_text": secret, **choice})
            outbox.emit(connection, Event(type="User.Created", data={"object": DATA, **DATA}))
        with start_worker(database.url):
            eventually(
                lambda: (
                    len(found := states(database)) == len(CHOICES)
                    and all(status for _, status in found.values())
                )
            )
    return states(database)


DATA = {"name": "Zoë <R&D>", "amount": 1.50}


def test_receivers_accept(committed_db: Database) -> None:
    """Each verifies the signature it knows, or reads the body it knows, under Node."""
    expected = dict.fromkeys(CHOICES, ("delivered", 204))

    assert deliver(committed_db, SECRET) == expected


def test_receivers_refuse(committed_db: Database) -> None:
    """What is signed with another secret is refused: the receivers do look."""
    found = deliver(committed_db, OTHER)
    accepted = {path for path, (state, _) in found.items() if state == "delivered"}

    assert accepted == {"ed25519", "casdoor"}  # whose keys are their own
