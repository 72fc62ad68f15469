"""A walk with the operator: something does not arrive; it is seen, put right, and replayed.

Every step is a command as it is typed, beside a real worker. `-s` shows the record of it.
"""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any

import pytest

import outbox
from outbox import Event
from tests.helpers import eventually, run_cli, start_worker
from tests.receiver import Receiver

if TYPE_CHECKING:
    from tests.databases import Database
    from tests.receiver import Request

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.clone]

PAST = 200


class Operator:
    """Types commands, and keeps what they said."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.record: list[str] = []

    def __call__(self, line: str, code: int = 0) -> str:
        """The stdout of a command that ends with `code`."""
        done = run_cli(*shlex.split(line), url=self._url)
        self.record += [f"$ outbox {line}", done.stdout + done.stderr]
        assert done.returncode == code, (line, done.stderr)
        return done.stdout

    def json(self, line: str, code: int = 0) -> Any:
        return json.loads(self(f"{line} --json", code))


def ids(requests: list[Request]) -> list[str]:
    return [request.header("webhook-id") for request in requests]


def verifies(request: Request, secret: str) -> bool:
    headers = {name.lower(): value for name, value in request.headers}
    try:
        outbox.verify(request.body, headers, secret, now=time.time())
    except outbox.SignatureInvalid:
        return False
    return True


def test_walk(cloned_db: Database, receiver: Receiver) -> None:
    """From what never came, by way of why, to what came again, each step as it is typed."""
    type_ = Operator(cloned_db.url)
    right = receiver.url.partition("?")[0] + "hooks"
    receiver.script = lambda request: 200 if request.path == "/hooks" else 404
    with start_worker(cloned_db.url):
        # It never came.
        added = type_.json(
            f"subscriptions add {right}k --types 'invoice.*' --name shop --schedule 0s,1h"
        )
        to, first_secret = added["id"], added["secret"]
        event = type_.json("""events emit invoice.paid --data '{"id": 1}'""")["id"]
        receiver.wait_for(1)
        failed = eventually(lambda: type_.json(f"deliveries list --subscription {to} --status 404"))

        # Why?
        assert (failed[0]["state"], failed[0]["attempt"]) == ("pending", 1)
        shown = type_(f"deliveries show {failed[0]['id']}")
        assert "HTTP 404" in shown
        assert f"{right}k" in shown

        # Put right, and again.
        assert "/hooksk" in type_(f"subscriptions update {to} --url {right}")
        type_(f"deliveries retry {failed[0]['id']}")
        waited = type_.json(f"events wait {event} --timeout 10")
        assert [answer["status"] for answer in waited["answers"]] == [200]
        assert ids(receiver.requests) == [event, event]

        # A new secret: both sign, for a day.
        second_secret = type_.json(f"subscriptions rotate-secret {to}")["secret"]
        type_("events emit invoice.sent --wait 10")
        last = receiver.requests[-1]
        assert [verifies(last, each) for each in (first_secret, second_secret)] == [True, True]
        assert type_.json(f"subscriptions test {to}")["state"] == "delivered"

        # Stopped for a while, and what came meanwhile.
        type_(f"subscriptions pause {to} --reason 'they migrate'")
        held = type_.json("events emit invoice.late")["id"]
        (waiting,) = eventually(lambda: type_.json("deliveries list --state held"))
        assert (waiting["event_id"], waiting["held"]) == (held, "paused: they migrate")
        type_(f"subscriptions resume {to}")
        assert type_.json(f"events wait {held} --timeout 10")["ended"]
        changes = [each["change"] for each in type_.json(f"subscriptions history {to}")]
        assert sorted(changes) == sorted(["added", "updated", "rotated", "paused", "resumed"])

        # A day again.
        with cloned_db.engine.begin() as connection:
            past = outbox.emit_many(
                connection, [Event(type="invoice.paid", data={"n": n}) for n in range(PAST)]
            )
        before = len(receiver.wait_for(len(receiver.requests) + PAST, timeout=30))
        all_past = {event, held, *map(str, past)}
        counted = type_.json(f"replay --subscription {to} --type 'invoice.*' --since 24h --dry-run")
        assert counted["deliveries"] == PAST + 3
        type_(f"replay --subscription {to} --type 'invoice.*' --since 24h --yes")
        again = receiver.wait_for(before + PAST + 3, timeout=30)[before:]
        assert all_past < set(ids(again))

        # Half a day, on second thought.
        slow = type_.json(f"replay --subscription {to} --type '*' --rate 20/s --yes --detach")["id"]
        receiver.wait_for(before + PAST + 3 + 10, timeout=30)
        type_(f"replays cancel {slow} --yes")
        ended = type_.json(f"replays show {slow}")
        assert ended["state"] == "cancelled"
        assert 10 <= ended["made"] < ended["counted"]

        # Somebody new gets all of history, once.
        with Receiver() as other:
            new = type_.json(f"subscriptions add {other.url} --types 'invoice.*'")["id"]
            type_(f"replay --missing --subscription {new} --yes")
            other.wait_for(PAST + 3, timeout=30)
            assert set(ids(other.requests)) >= all_past
            assert type_.json(f"replay --missing --subscription {new} --dry-run")["deliveries"] == 0
            eventually(lambda: not type_.json("deliveries list --state pending"))
            assert len(other.requests) == PAST + 3

        # It all adds up.
        assert type_.json("audit")["adds_up"]
    print("\n".join(type_.record))  # noqa: T201 - the record
