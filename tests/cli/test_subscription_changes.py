"""`outbox subscriptions`: changing them, and what becomes of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, insert, update

from outbox import trials
from outbox.tables import attempt, delivery_queue, subscription

from .rows import URL, add_attempt, add_delivery, add_event, add_subscription

if TYPE_CHECKING:
    from pathlib import Path

    from tests.databases import Database

    from .conftest import Cli

NEW = "https://example.com/v2"


# update.


def test_update_prints_what_changed(cli: Cli, committed_db: Database) -> None:
    """A person reads before and after; what was not given is as it was."""
    id = add_subscription(committed_db, tenant="acme", headers={"X-Team": "a", "X-Old": "1"})
    out = cli.out(
        "subscriptions", "update", str(id), "--url", NEW, "--rate", "90/m", "--schedule", "0s,5m",
        "--header", "X-Team: b", "--header", "X-Token: hunter2", "--header", "X-Old:",
        "--unset", "tenant", "--name", "billing",
    )  # fmt: skip

    assert out == (
        f"Subscription {id} is changed, revision 2.\n"
        "    name            - → billing\n"
        "    tenant          acme → -\n"
        f"    url             {URL} → {NEW}\n"
        "    header X-Team   a → b\n"
        "    header X-Old    1 → -\n"
        "    header X-Token  - → [secure]\n"
        "    schedule        - → 0s, 5m\n"
        "    rate            - → 1.5\n"
    )


def test_update_for_a_program(cli: Cli, committed_db: Database) -> None:
    """A program gets the whole subscription and what changed."""
    id = str(add_subscription(committed_db))
    changed = cli.json("subscriptions", "update", id, "--types", "a.*,b", "--ordered", "stop")

    assert changed.pop("changed") == {
        "types": {"before": ["*"], "after": ["a.*", "b"]},
        "ordered": {"before": None, "after": "stop"},
    }
    shown = cli.json("subscriptions", "show", id)
    assert changed == {name: shown[name] for name in changed}


def test_nothing_to_change(cli: Cli, committed_db: Database) -> None:
    """What is so already is said to be so, and no change is on record."""
    id = str(add_subscription(committed_db))
    told = "Nothing to change: it is so already.\n"

    assert cli.out("subscriptions", "update", id, "--url", URL, "--method", "POST") == told
    assert cli.out("subscriptions", "update", id) == told
    assert len(cli.json("subscriptions", "history", id)) == 1


def test_a_scheme_that_needs_another_secret(cli: Cli, committed_db: Database) -> None:
    """The new secret is shown once, with what to do about it."""
    id = str(add_subscription(committed_db, schemes=["none"]))
    result = cli("subscriptions", "update", id, "--scheme", "github")

    assert "secret  whsec_" in result.stdout
    assert result.stderr.startswith("Keep the secret now: it is not shown again.\n")
    assert "secret" not in cli.json("subscriptions", "update", id, "--scheme", "stripe")


GIVEN = ["subscriptions", "update"]
WRONG: dict[tuple[str, ...], str] = {
    ("--url", "ftp://a"): "url: must begin with https:// or http://",
    ("--types", ""): "types: must be parts",
    ("--name", "a b"): "name: must be 1 to 128 of A-Z a-z 0-9 . _ / -",
    ("--tenant", ""): "tenant: must have 1 to 255 characters, not 0",
    ("--filter", "$.a >"): "filter: is not an SQL/JSON path",
    ("--header", "nope"): "header: must be written as 'Name: value'",
    ("--header", "Webhook-Id:"): "header: Webhook-Id is set by the outbox itself",
    ("--schedule", "soon"): "schedule: must be 1 to 100 delays",
    ("--max-age", "0"): "max-age: must be a number from 1 to 31,622,400",
    ("--max-age", "x"): "Invalid value for '--max-age'",
    ("--timeout", "nan"): "timeout: must be a number from 0.1 to 300",
    ("--method", "GET"): "method: must be one of POST, PUT, PATCH",
    ("--format", "xml"): "format: must be one of standard,",
    ("--scheme", "md5"): "scheme: must be one of standard,",
    ("--user-agent", "é"): "user-agent: must be printable ASCII",
    ("--max-in-flight", "0"): "max-in-flight: must be a whole number from 1 to 10,000",
    ("--rate", "5/fortnight"): "rate: must be written as 50/s, 100/m or 1000/h",
    ("--burst", "5"): "burst: needs a rate",
    ("--ordered", "wait"): "ordered: must be one of stop, skip",
    ("--unset", "url"): "Invalid value for '--unset': 'url' is not one of",
    ("--unset", "rate", "--rate", "5/s"): "--rate is given and unset; give one of both",
    ("--ed25519",): "secret: it has one that signs; `subscriptions rotate-secret` gives it another",
    ("--secret-file", "/no/such/file"): "Invalid value for '--secret-file'",
    ("--allow", "1.2.3.4.5"): "allow: '1.2.3.4.5' is no network",
}


@pytest.mark.parametrize(("options", "message"), WRONG.items(), ids=map(" ".join, WRONG))
def test_wrong_options(
    cli: Cli, committed_db: Database, options: tuple[str, ...], message: str
) -> None:
    """Each is one line that names the option and the rule; nothing is changed."""
    id = str(add_subscription(committed_db))
    result = cli("subscriptions", "update", id, *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith(f"Error: {message}")
    assert len(cli.json("subscriptions", "history", id)) == 1


NOBODY = "0190163d-8694-739b-aea5-966c26f8ad91"


@pytest.mark.parametrize(
    "command",
    ["update {} --rate 5/s", "update {} --header A:1", "disable {} --reason x", "history {}",
     "show {}"],
)  # fmt: skip
def test_one_that_is_not_there(cli: Cli, command: str) -> None:
    """An unknown id is exit code 1."""
    result = cli("subscriptions", *command.format(NOBODY).split())

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: subscription: there is none with the id {NOBODY}\n"


# disable, history.


def test_disable(cli: Cli, committed_db: Database) -> None:
    """It takes a reason, tells of it in an event, and ends with resume."""
    id = str(add_subscription(committed_db))
    disabled = cli.json("subscriptions", "disable", id, "--reason", "they left")

    assert (disabled["state"], disabled["state_reason"]) == ("disabled", "they left")
    assert [each["type"] for each in cli.json("events", "list")] == ["subscription.disabled"]
    assert cli.json("subscriptions", "resume", id)["state"] == "active"
    assert cli("subscriptions", "disable", id).stderr.endswith("Missing option '--reason'.\n")


def test_history_for_a_person(cli: Cli, committed_db: Database) -> None:
    """Each change, by whom and from where, and what it changed."""
    id = str(add_subscription(committed_db))
    cli.out("subscriptions", "pause", id, "--reason", "they migrate")
    cli.out("subscriptions", "remove", id, "--yes")
    lines = cli.out("subscriptions", "history", id).splitlines()

    assert "  3  removed by " in lines[0]
    assert lines[0].endswith(", outbox subscriptions remove")
    assert lines[1] == "    state         paused → removed"
    assert lines[4:6] == [
        "    state         active → paused", "    state_reason  - → they migrate",
    ]  # fmt: skip
    assert f"    url      - → {URL}" in lines


def test_history_for_a_program(cli: Cli, committed_db: Database) -> None:
    """The same, by pages and in any shape."""
    id = str(add_subscription(committed_db, headers={"X-Token": "hunter2"}))
    cli.out("subscriptions", "update", id, "--timeout", "5")
    changes = [json.loads(line) for line in
               cli.out("subscriptions", "history", id, "--jsonl").splitlines()]  # fmt: skip

    assert [each["change"] for each in changes] == ["updated", "added"]
    assert changes[0]["differs"] == {"timeout": {"before": None, "after": 5}}
    assert changes[1]["differs"]["header X-Token"] == {"before": None, "after": "[secure]"}
    page = cli.json("subscriptions", "history", id, "--limit", "1", "--before", changes[0]["id"])
    assert page == changes[1:]


# show.


def test_show_how_it_fares(cli: Cli, committed_db: Database) -> None:
    """Success rate, duration, last success and failure, what is open, recent attempts."""
    id, now = add_subscription(committed_db), datetime.now(UTC)  # noqa: TID251
    event = add_event(committed_db)
    delivery = add_delivery(committed_db, event, id, due_at=now, attempt=1)
    row = {"duration_ms": 12, "started_at": now, "status": 503, "error": "HTTP 503"}
    add_attempt(committed_db, delivery, 1, "retry", recorded_at=now - timedelta(hours=1), **row)
    ok = add_delivery(committed_db, event, id)
    add_attempt(committed_db, ok, 1, "delivered", status=200, duration_ms=8, recorded_at=now)
    out = cli.out("subscriptions", "show", str(id))

    assert "attempts      2\nsucceeded     1, 50.0%\nduration      p50 8 ms, p95 12 ms\n" in out
    assert "open          1, 0 held, 0 in flight\n" in out
    assert [line.split()[1] for line in out.splitlines() if str(ok) in line or
            str(delivery) in line] == ["delivered", "retry"]  # fmt: skip
    health = cli.json("subscriptions", "show", str(id), "--since", "10m")["health"]
    assert (health["attempts"], health["success_rate"], health["sampled"]) == (1, 1.0, False)
    assert health["open"] == {"deliveries": 1, "held": 0, "in_flight": 0, "more": False}


def test_show_since_nonsense(cli: Cli, committed_db: Database) -> None:
    """A wrong time is one line."""
    result = cli("subscriptions", "show", str(add_subscription(committed_db)), "--since", "soon")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: since: must be a time such as ")


# match, and events show.


def test_match(cli: Cli, committed_db: Database) -> None:
    """Who would get it, who would not and why."""
    big = add_subscription(committed_db, filter="$.amount > 100", name="big")
    other = add_subscription(committed_db, tenant="beta", types=["invoice.*"])
    wanted = ("subscriptions", "match", "--type", "invoice.paid", "--tenant", "acme")
    found = cli.json(*wanted, "--data", '{"amount": 120}')

    assert [(each["id"], each["matches"]) for each in found["matching"]] == [(str(big), True)]
    assert [(each["id"], each["reason"]) for each in found["others"]] == [(str(other), "tenant")]
    assert cli.json(*wanted, "--data", "-", stdin="{}")["others_in_all"] == 2
    assert "if its filter passes" in cli.out(*wanted)
    out = cli.out(*wanted, "--data", "{}", "--others", "1")
    assert "its filter lets it not pass" in out
    assert out.endswith("and 1 more\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Missing option '--type'."),
        (("--type", "a.*"), "type: must be parts"),
        (("--type", "a", "--data", "{"), "data: is not JSON: "),
        (("--type", "a", "--data", "@/no/such/file"), "data: cannot be read from /no/such/file"),
        (("--type", "a", "--tenant", ""), "tenant: must have 1 to 255 characters"),
        (("--type", "a", "--others", "-1"), "Invalid value for '--others'"),
    ],
)
def test_match_nonsense(cli: Cli, options: tuple[str, ...], message: str) -> None:
    """Wrong use is one line."""
    result = cli("subscriptions", "match", *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith(f"Error: {message}")


def test_operational_events(cli: Cli, committed_db: Database) -> None:
    """A bare * does not mean what the outbox itself emits."""
    add_subscription(committed_db)
    found = cli.json("subscriptions", "match", "--type", "delivery.dead", "--operational")

    assert [each["reason"] for each in found["others"]] == ["operational"]


def test_events_show_whom_it_matches(cli: Cli, committed_db: Database) -> None:
    """Each that matches has a delivery or says why not; the others say why they do not."""
    here = add_subscription(committed_db)
    event = add_event(committed_db)
    add_delivery(committed_db, event, here, due_at=datetime.now(UTC))  # noqa: TID251
    late = add_subscription(committed_db)
    with committed_db.engine.begin() as connection:
        later = datetime.now(UTC) + timedelta(minutes=1)  # noqa: TID251
        connection.execute(
            update(subscription).where(subscription.c.id == late).values(created_at=later)
        )
    add_subscription(committed_db, types=["user.*"])
    shown = cli.json("events", "show", str(event))

    assert [each["fate"] for each in shown["matching"]] == ["delivery", "added later"]
    assert [each["reason"] for each in shown["others"]] == ["type"]
    assert "no type of it fits" in cli.out("events", "show", str(event))


# test.


def worker(database: Database) -> None:
    """A worker that is alive, if nothing else."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO outbox.worker (host, pid, version) VALUES ('a', 1, '1')"
        )


def answering(monkeypatch: pytest.MonkeyPatch, outcome: str, **row: Any) -> None:
    """Let the time pass in which a worker does its work."""

    def wait(engine: Any, trial: trials.Trial, *, timeout: float) -> trials.Seen:
        with engine.begin() as connection:
            row.setdefault("started_at", datetime.now(UTC))  # noqa: TID251
            told = {"delivery_id": trial.delivery_id, "attempt": 1, "outcome": outcome, **row}
            connection.execute(insert(attempt).values(told))
            mine = delivery_queue.c.delivery_id == trial.delivery_id
            connection.execute(update(delivery_queue).where(mine).values(attempt=1))
            if outcome == "delivered":
                connection.execute(delete(delivery_queue).where(mine))
            return trials.look(connection, trial)

    monkeypatch.setattr("outbox.trials.wait", wait)


def test_a_test_that_is_delivered(
    cli: Cli, committed_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows the request as it was sent, the answer and the phases; exit code 0."""
    worker(committed_db)
    answering(monkeypatch, "delivered", status=200, duration_ms=9, connect_ms=2, first_byte_ms=5,
              response_body=b"thanks \x1b[2J")  # fmt: skip
    id = str(add_subscription(committed_db, headers={"X-Token": "hunter2"}))
    result = cli("subscriptions", "test", id, "--data", '{"amount": 19.90}')

    assert result.exit_code == 0
    for told in (
        f"POST {URL}", "x-token: [secure]", "webhook-signature: v1,", '{"amount":19.90}',
        "connect 2, first byte 5", "ANSWER TO ATTEMPT 1\nthanks \\x1b[2J",
    ):  # fmt: skip
        assert told in result.stdout
    assert "hunter2" not in result.stdout


def test_a_test_that_fails(
    cli: Cli, committed_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says why on stderr; exit code 1; nothing stays open."""
    worker(committed_db)
    answering(monkeypatch, "retry", status=500, error="HTTP 500")
    id = str(add_subscription(committed_db))
    result = cli("subscriptions", "test", id, "--json")
    told = json.loads(result.stdout)

    assert (result.exit_code, told["state"]) == (1, "cancelled")
    assert result.stderr == "Error: the test was not delivered: HTTP 500\n"
    assert [each["outcome"] for each in told["attempts"]] == ["retry", "cancelled"]
    assert told["request"]["url"] == URL
    event = cli.json("events", "show", told["event_id"])
    assert (event["is_test"], event["matching"], event["context"]["test"]) == (True, [], True)
    assert "A test: it is for one subscription alone." in cli.out(
        "events", "show", told["event_id"]
    )


def test_a_request_that_cannot_be_shown(
    cli: Cli, committed_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this machine has no key for the secret, all but the signature is shown."""
    worker(committed_db)
    answering(monkeypatch, "delivered", status=200)
    id = str(add_subscription(committed_db))
    with committed_db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox.secret SET key_id = 'elsewhere'")

    result = cli("subscriptions", "test", id)

    assert (result.exit_code, "webhook-signature" in result.stdout) == (0, False)
    assert "Not exact: made without its signature, for want of a secret" in result.stderr


def test_a_test_that_nobody_answers(
    cli: Cli, committed_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is lacking: time, or a worker."""
    worker(committed_db)
    id = str(add_subscription(committed_db))

    def passed(engine: Any, trial: trials.Trial, *, timeout: float) -> trials.Seen:
        with engine.begin() as connection:
            return trials.look(connection, trial)

    monkeypatch.setattr("outbox.trials.wait", passed)
    late = cli("subscriptions", "test", id)
    monkeypatch.setattr("outbox.fleet.alive", lambda _: next(answers))
    answers: Any = iter([["a worker"], []])
    gone = cli("subscriptions", "test", id)

    assert "the time is over, and no worker has come to it" in late.stderr
    assert "the time is over, and no worker is alive any more" in gone.stderr
    assert (late.exit_code, gone.exit_code) == (1, 1)


def test_a_test_that_is_not_sent(cli: Cli, committed_db: Database) -> None:
    """Without a worker, or to one that is stopped, nothing is made."""
    id = str(add_subscription(committed_db))
    alone = cli("subscriptions", "test", id)
    worker(committed_db)
    cli.out("subscriptions", "pause", id)
    paused = cli("subscriptions", "test", id)

    assert alone.stderr == ("Error: no worker is alive: nothing was sent; start outbox-worker\n")
    assert paused.stderr == f"Error: subscription {id} is paused: it cannot be tested\n"
    assert (alone.exit_code, paused.exit_code) == (1, 1)
    assert cli.json("events", "list") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "{"), "data: is not JSON: "),
        (("--type", "a..b"), "type: must be parts"),
        (("--timeout", "0"), "Invalid value for '--timeout'"),
        (("--timeout", "nan"), "Invalid value for '--timeout'"),
    ],
)
def test_test_nonsense(
    cli: Cli, committed_db: Database, options: tuple[str, ...], message: str
) -> None:
    """Wrong use is one line."""
    worker(committed_db)
    result = cli("subscriptions", "test", str(add_subscription(committed_db)), *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith(f"Error: {message}")


# apply, export.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two subscriptions as a file."""
    path = tmp_path / "subscriptions.toml"
    path.write_text(
        f'[billing]\nurl = "{URL}"\ntypes = ["invoice.*"]\n\n'
        f'[users]\nurl = "{URL}"\ntypes = ["*"]\n'
    )
    return path


def test_apply_and_export(cli: Cli, file: Path) -> None:
    """What is applied is exported, and applied again it changes nothing."""
    first = cli("subscriptions", "apply", str(file), "--yes")

    assert first.stdout.startswith("+ billing\n    url      - → https://example.com/hooks\n")
    assert "Done: 2 added.\n" in first.stdout
    assert first.stdout.count("secret  whsec_") == 2
    assert first.stderr.startswith("Keep the secret now: it is not shown again.\n")
    assert cli.out("subscriptions", "export").partition("\n\n")[2] == file.read_text()
    assert cli.out("subscriptions", "apply", str(file)) == (
        "Nothing to change: all is so already.\n"
    )
    file.write_text(cli.out("subscriptions", "export", "--json"))
    assert cli.json("subscriptions", "apply", str(file), "--prune", "--yes") == []


def test_apply_shows_first_and_asks(
    cli: Cli, committed_db: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--dry-run and --check show; without --yes someone must agree."""
    old = add_subscription(committed_db, name="billing", rate=5)
    add_subscription(committed_db, name="gone")
    cli_apply = ("subscriptions", "apply", str(file), "--prune")
    shown = (
        "~ billing\n    types  * → invoice.*\n    rate   5 → -\n- gone\n"
        "+ users\n    url      - → https://example.com/hooks\n    types    - → *\n"
        "    schemes  - → standard\n"
    )
    dry, check, asked = (cli(*cli_apply, *more) for more in (["--dry-run"], ["--check"], []))

    assert (dry.exit_code, dry.stdout, dry.stderr) == (0, shown, "")
    assert (check.exit_code, check.stdout) == (1, shown)
    assert check.stderr == "Error: 3 would change\n"
    assert (asked.exit_code, asked.stdout) == (2, shown)
    assert asked.stderr == "Error: there is no terminal to ask on; pass --yes\n"
    monkeypatch.setattr("outbox.cli.options.has_terminal", lambda: True)
    no, yes = (cli(*cli_apply, stdin=answer) for answer in ("n\n", "y\n"))
    assert no.exit_code == 1
    assert "Change 3, 1 of them removed for good? [y/N]: " in no.stderr
    assert "Error: nothing was changed\n" in no.stderr
    assert "Done: 1 added, 1 changed, 1 removed.\n" in yes.stdout
    assert cli.json("subscriptions", "show", str(old))["types"] == ["invoice.*"]


def test_apply_for_a_program(cli: Cli, file: Path) -> None:
    """One document: each step, and what was made."""
    dry = cli.json("subscriptions", "apply", str(file), "--dry-run")
    done = cli.json("subscriptions", "apply", "-", "--yes", stdin=file.read_text())

    assert [(each["change"], each["name"], each["id"]) for each in dry] == [
        ("added", "billing", None), ("added", "users", None),
    ]  # fmt: skip
    assert dry[0]["differs"]["types"] == {"before": None, "after": ["invoice.*"]}
    listed = cli.json("subscriptions", "list")
    assert [each["id"] for each in done] == [each["id"] for each in listed]
    assert all(each["secret"].startswith("whsec_") for each in done)


def test_apply_of_one_tenant(cli: Cli, committed_db: Database, file: Path) -> None:
    """--tenant guards the others."""
    add_subscription(committed_db, name="other", tenant="beta")
    result = cli("subscriptions", "apply", str(file), "--tenant", "acme", "--yes")

    assert result.exit_code == 2
    assert result.stderr == "Error: billing: tenant: is not acme\n"
    assert "[other]" in cli.out("subscriptions", "export", "--tenant", "beta")
    assert "[other]" not in cli.out("subscriptions", "export", "--tenant", "acme")


def test_apply_all_or_nothing(cli: Cli, file: Path) -> None:
    """A mistake that only PostgreSQL finds undoes all that was done before it."""
    file.write_text(f"{file.read_text()}filter = '$.a >'\n")
    result = cli("subscriptions", "apply", str(file), "--yes")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: users: filter: is not an SQL/JSON path: ")
    assert cli.json("subscriptions", "list") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "file: is not UTF-8"),
        (b"[billing", "file: is not TOML: "),
        (b"a = 1", "file: 'a' must be the table of a subscription"),
        (b"[a]\nurl = 'https://a.example'", "a: types: is missing"),
        (b'["\\u001b[2J\\n"]\nurl = 1', "\\x1b[2J\\n: types: is missing"),
        (b"[" + NOBODY.encode() + b"]\nurl = 'https://a.example'\ntypes = ['*']",
         f"subscription: there is none with the id {NOBODY}"),
    ],
)  # fmt: skip
def test_apply_nonsense(cli: Cli, tmp_path: Path, content: bytes, message: str) -> None:
    """A file that is none is one line."""
    path = tmp_path / "f"
    path.write_bytes(content)
    result = cli("subscriptions", "apply", str(path), "--yes")

    assert (result.exit_code, result.stdout) == (1 if NOBODY in message else 2, "")
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1


def test_apply_of_no_file(cli: Cli) -> None:
    """A file that is not there, or stdin without --yes, is one line."""
    gone = cli("subscriptions", "apply", "/no/such/file")
    unasked = cli("subscriptions", "apply", "-", stdin="")

    assert (
        gone.stderr == "Error: file: cannot be read from /no/such/file: No such file or directory\n"
    )
    assert unasked.stderr.startswith("Error: FILE is stdin, so nobody can be asked")
    assert (gone.exit_code, unasked.exit_code) == (2, 2)
