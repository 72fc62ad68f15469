"""`outbox replay` and `outbox replays`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func

from outbox import replays, subscriptions
from outbox.replays import Selection
from outbox.tables import replay, replay_lane, worker
from tests.factories import BY, rows

from .rows import URL, add_delivery, add_event, add_subscription

if TYPE_CHECKING:
    from tests.databases import Database

    from .conftest import Cli

ALL = ("replay", "--type", "*")


@pytest.fixture
def subscription(committed_db: Database) -> UUID:
    """A subscription to everything, younger than three events."""
    for n in range(3):
        add_event(committed_db, type=f"invoice.{n}")
    return add_subscription(committed_db)


def started(database: Database, **fields: Any) -> UUID:
    with database.engine.begin() as connection:
        chosen = Selection(**{"mode": "missing", **fields})
        return replays.start(connection, chosen, rate=50, by=BY).id


def change(database: Database, **values: Any) -> None:
    """As a worker would write it."""
    with database.engine.begin() as connection:
        connection.execute(replay.update().values(values))


class Script:
    """The clock of a command that waits: at each pause the next thing happens."""

    def __init__(self, *actions: Any) -> None:
        self._actions = list(actions)
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, _: float) -> None:
        self._now += 60
        self._actions.pop(0)()


@pytest.fixture
def at_each_pause(monkeypatch: pytest.MonkeyPatch) -> Any:
    def script(*actions: Any) -> None:
        monkeypatch.setattr("outbox.cli.replay.time", Script(*actions))

    return script


def test_dry_run(cli: Cli, committed_db: Database, subscription: UUID) -> None:
    """It counts, for each subscription, and begins nothing."""
    with committed_db.engine.begin() as connection:
        subscriptions.pause(connection, subscription, by=BY)

    assert cli.out("replay", "--missing", "--dry-run") == (
        "3 deliveries of past events to 1 subscription. 1 of them stopped: theirs are held.\n"
        "SUBSCRIPTION ID                       DELIVERIES  STATE   URL\n"
        f"{subscription}           3  paused  {URL}\n"
    )
    share = {
        "subscription_id": str(subscription), "deliveries": 1, "state": "paused", "url": URL,
    }  # fmt: skip
    assert cli.json("replay", "--type", "invoice.1", "--dry-run") == {
        "deliveries": 1, "subscriptions": [share],
    }  # fmt: skip
    assert cli.json("replays", "list") == []


def test_nothing_fits(cli: Cli) -> None:
    """There is nothing to ask about and nothing to begin."""
    assert cli.out(*ALL) == "0 deliveries of past events to 0 subscriptions.\n"
    assert cli.json("replays", "list") == []


def test_it_is_begun_and_left(cli: Cli, subscription: UUID) -> None:
    """With --detach it says what runs, and that no worker is alive."""
    result = cli(*ALL, "--tenant", "acme", "--yes", "--detach")
    assert result.stdout == "0 deliveries of past events to 0 subscriptions.\n"

    options = ("--subscription", str(subscription), "--since", "24h", "--rate", "90/m")
    result = cli("replay", "--missing", *options, "--yes", "--detach", "--json")
    begun = json.loads(result.stdout)

    assert result.exit_code == 0
    assert result.stderr == (
        f"Replay {begun['id']} is running. No worker is alive: it goes on as soon as one is.\n"
    )
    assert (begun["mode"], begun["counted"], begun["rate"]) == ("missing", 3, 1.5)
    assert begun["command"] == "outbox replay"
    assert cli.json("replays", "list") == [begun]


def test_it_asks(cli: Cli, subscription: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --yes a person decides; without a terminal nothing is begun."""
    result = cli(*ALL, "--rate", "1/s")
    assert (result.exit_code, *result.stderr.splitlines()) == (
        2,
        "3 deliveries of past events to 1 subscription, in 3 s at 1/s.",
        "Error: there is no terminal to ask on; pass --yes",
    )

    monkeypatch.setattr("outbox.cli.options.has_terminal", lambda: True)
    result = cli(*ALL, stdin="n\n")

    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1, "Error: nothing was replayed",
    )  # fmt: skip
    assert cli.json("replays", "list") == []


def test_it_is_watched(
    cli: Cli, committed_db: Database, subscription: UUID, at_each_pause: Any
) -> None:
    """It shows how far it is, why it stands still, and what it came to."""
    alive(committed_db)
    at_each_pause(
        lambda: None,
        lambda: stop(committed_db, subscription),
        lambda: change(committed_db, state="done", made=3, ended_at=func.now()),
    )
    result = cli(*ALL, "--yes")

    assert result.exit_code == 0
    assert result.stderr.splitlines()[2:] == [
        "It waits until there is room: what is open comes first.",
        f"It waits for subscriptions: {subscription} is paused.",
        "replay  3 of 3  100 %",
    ]
    assert "state            done" in result.stdout.splitlines()


def alive(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(worker.insert().values(host="a", pid=1, version="0"))


def stop(database: Database, id: UUID) -> None:
    """Pause a subscription that the replay has set apart."""
    with database.engine.begin() as connection:
        subscriptions.pause(connection, id, by=BY)
        (job,) = replays.list_replays(connection)
        values = {"replay_id": job.id, "subscription_id": id, "after_event": uuid4()}
        connection.execute(replay_lane.insert().values(values))


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        ({"state": "failed", "error": "broken by a test"}, "is failed: broken by a test"),
        ({"state": "cancelled", "error": "cancelled by ada"}, "is cancelled: cancelled by ada"),
    ],
)
def test_it_ends_otherwise(
    cli: Cli, committed_db: Database, subscription: UUID, at_each_pause: Any,
    ended: dict[str, str], told: str,
) -> None:  # fmt: skip
    """One that fails, or that someone cancels, is no success."""
    at_each_pause(lambda: change(committed_db, ended_at=func.now(), **ended))
    result = cli(*ALL, "--yes", "--json")

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(told)
    assert result.stdout == ""


def test_ctrl_c_leaves_it_running(cli: Cli, subscription: UUID, at_each_pause: Any) -> None:
    """Who stops looking is told how to end it."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    at_each_pause(interrupt)
    result = cli(*ALL, "--yes")
    (running,) = cli.json("replays", "list", "--state", "running")

    assert result.exit_code == 130
    assert result.stderr.splitlines()[-2:] == [
        f"It goes on until: outbox replays cancel {running['id']}",
        "Error: interrupted",
    ]


NOBODY = "0190163d-8694-739b-aea5-966c26f8ad91"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("replay",), 2, "selection: narrows nothing"),
        (("replay", "--missing", "--dead"), 2, "--missing and --dead are two selections; give one"),
        ((*ALL, "--rate", "fast"), 2, "rate: must be written as 50/s"),
        ((*ALL, "--rate", "0/s", "--yes"), 2, "rate: must be a number from 0.001 to 100,000"),
        ((*ALL, "--since", "yesterday"), 2, "since: must be a time such as"),
        ((*ALL, "--since", "1h", "--until", "2h"), 2, "until: must be later than since"),
        (("replay", "--type", "a..b"), 2, "types: must be parts of"),
        (("replay", "--event", "7"), 2, "'7' is not a valid UUID"),
        (("replay", "--event", NOBODY), 1, f"event: there is none with the id {NOBODY}"),
        (("replay", "--subscription", NOBODY), 1, "subscription: there is none with the id"),
        (("replays", "show", NOBODY), 1, f"replay: there is none with the id {NOBODY}"),
        (("replays", "cancel", NOBODY), 1, f"replay: there is none with the id {NOBODY}"),
        (("replays", "cancel", NOBODY, "--deliveries"), 1, "replay: there is none with the id"),
        (("replays", "list", "--state", "over"), 2, "'over' is not one of"),
    ],
)
@pytest.mark.usefixtures("subscription")
def test_wrong_use(cli: Cli, arguments: tuple[str, ...], code: int, told: str) -> None:
    """One line says what is wrong."""
    result = cli(*arguments)

    assert result.exit_code == code
    assert told in result.stderr.splitlines()[-1]


def test_the_same_twice(cli: Cli, committed_db: Database, subscription: UUID) -> None:
    """The second is refused, with the id of the one that runs."""
    id = started(committed_db, subscription_id=subscription)
    result = cli("replay", "--missing", "--subscription", str(subscription), "--yes")

    assert result.exit_code == 1
    assert f"replay {id} is running: it cannot be started again" in result.stderr


def test_list(cli: Cli, committed_db: Database, subscription: UUID) -> None:
    """Newest first, with how far each is and what it was asked for."""
    first = started(committed_db, subscription_id=subscription)
    second = started(committed_db, type="invoice.*")

    assert cli.out("replays", "list") == (
        "ID                                    STATE    MADE  COUNTED  MODE     RATE  TYPE"
        "       SUBSCRIPTION ID                       ACTOR\n"
        f"{second}  running     0        3  missing  50.0  invoice.*"
        "  -                                     ada\n"
        f"{first}  running     0        3  missing  50.0  -        "
        f"  {subscription}  ada\n"
    )
    lines = cli.out("replays", "list", "--jsonl", "--before", str(second)).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [str(first)]


def test_show(cli: Cli, committed_db: Database, subscription: UUID) -> None:
    """How far it is, what became of its deliveries, and who is behind the others."""
    id = started(committed_db, type="*")
    with committed_db.engine.begin() as connection:
        values = {"replay_id": id, "subscription_id": subscription, "after_event": uuid4()}
        connection.execute(replay_lane.insert().values(values))
    shown = cli.json("replays", "show", str(id))

    assert (shown["id"], shown["state"], shown["open"], shown["dead"]) == (str(id), "running", 0, 0)
    assert shown["behind"] == [
        {
            "subscription_id": str(subscription), "url": URL, "state": "active",
            "state_reason": None,
        }
    ]  # fmt: skip
    assert cli.out("replays", "show", str(id)).splitlines()[-2:] == [
        "SUBSCRIPTION ID                       STATE   URL",
        f"{subscription}  active  {URL}",
    ]


def test_cancel(cli: Cli, committed_db: Database, subscription: UUID) -> None:
    """It ends; its deliveries go on, until they are cancelled as well."""
    id = started(committed_db, subscription_id=subscription)
    event = add_event(committed_db)
    delivery = add_delivery(committed_db, event, subscription, due_at="infinity")
    with committed_db.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(f"UPDATE outbox.delivery SET replay_id = '{id}'")  # noqa: S608

    assert cli.json("replays", "cancel", str(id))["state"] == "cancelled"
    assert "is cancelled: it cannot be cancelled" in cli("replays", "cancel", str(id)).stderr
    assert "pass --yes" in cli("replays", "cancel", str(id), "--deliveries").stderr
    done = cli.json("replays", "cancel", str(id), "--deliveries", "--yes")

    assert done["cancelled"] == 1
    with committed_db.engine.begin() as connection:
        ends = rows(connection, "SELECT delivery_id, outcome FROM outbox.attempt")
    assert ends == [(delivery, "cancelled")]
