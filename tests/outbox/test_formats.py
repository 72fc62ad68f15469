"""Body formats: what each makes of an event, to the byte."""

from __future__ import annotations

import doctest
import json
import shutil
import subprocess
from base64 import b64decode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox import formats
from outbox.formats import FORMATS
from outbox.request import Outgoing, build, prepare

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/identity.json").read_text())
LOGTO_KEY = VECTORS["logto_signing_key"]
ID = "0190163d-8694-739b-aea5-966c26f8ad91"
HOOK = "0190163d-9a11-7c3e-9d5c-0b6f0b7f3c55"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of a test
AT = datetime(2026, 3, 3, 12, 0, 0, 344522, tzinfo=UTC)
NOW = 1_772_539_200
DEEP = "[" * 3_000 + "]" * 3_000

NODE = shutil.which("node")
node = pytest.mark.skipif(NODE is None, reason="node is not installed")


@dataclass(frozen=True)
class Sent:
    """An event as a worker claims it."""

    data: str = '{"id": 1, "amount": 19.90}'
    type: str = "invoice.paid"
    tenant: str | None = None
    subject: str | None = None
    source: str | None = None
    occurred_at: datetime = AT
    event_id: str = ID
    traceparent: str | None = None


def body(format: str, data: str = '{"id": 1, "amount": 19.90}', **fields: Any) -> str:
    return FORMATS[format].body(Sent(data, **fields), HOOK).decode()


def outgoing(format: str, event: Sent, **wanted: Any) -> Outgoing:
    wanted = {"headers": {}, "format": format, "schemes": (FORMATS[format].scheme,)} | wanted
    target = prepare(HOOK, "https://example.com/", [(LOGTO_KEY, None)], **wanted)
    return build(target, event, attempt=1, timestamp=NOW)


def headers(sent: Outgoing) -> dict[str, str]:
    return {name.decode().lower(): value.decode() for name, value in sent.headers}


@pytest.mark.parametrize("name", ["cloudevents", "cloudevents_binary", "format", "rewritten"])
def test_examples(name: str) -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(import_module(f"outbox.formats.{name}")).failed == 0


def test_standard() -> None:
    """type, timestamp and data, which stays as it was stored."""
    assert body("standard") == (
        '{"type":"invoice.paid","timestamp":"2026-03-03T12:00:00.344522Z",'
        '"data":{"id": 1, "amount": 19.90}}'
    )


def test_raw() -> None:
    """The data alone, with its white space and digits."""
    assert body("raw", ' [1.0, "é"]\n') == ' [1.0, "é"]\n'


def test_cloudevents() -> None:
    """One object with the attributes of the event, the data spliced in."""
    made = body("cloudevents", tenant="acme", subject='user/4"2 é', source="/shop €")

    assert made == (
        f'{{"specversion":"1.0","id":"{ID}","source":"/shop%20%E2%82%AC","type":"invoice.paid",'
        '"subject":"user/4\\"2 é","time":"2026-03-03T12:00:00.344522Z",'
        '"datacontenttype":"application/json","data":{"id": 1, "amount": 19.90}}'
    )
    sent = outgoing("cloudevents", Sent(), schemes=["none"])
    assert headers(sent)["content-type"] == "application/cloudevents+json; charset=UTF-8"
    assert '"subject"' not in sent.body.decode()
    assert json.loads(sent.body)["source"] == "outbox"


def test_cloudevents_binary() -> None:
    """The attributes are headers, what a header cannot hold is escaped; the data is the body."""
    sent = outgoing(
        "cloudevents-binary", Sent(subject='Euro € 😀 "1%"', source="/shop%20x"), schemes=["none"]
    )
    attributes = {name: value for name, value in headers(sent).items() if name.startswith("ce-")}

    assert attributes == {
        "ce-specversion": "1.0",
        "ce-id": ID,
        "ce-source": "/shop%2520x",
        "ce-type": "invoice.paid",
        "ce-time": "2026-03-03T12:00:00.344522Z",
        "ce-subject": "Euro%20%E2%82%AC%20%F0%9F%98%80%20%221%25%22",
    }
    assert headers(sent)["content-type"] == "application/json"
    assert sent.body == b'{"id": 1, "amount": 19.90}'


# The two that other systems send.


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: v["name"])
def test_identity_vector(vector: dict[str, Any]) -> None:
    """A payload of Casdoor or Logto goes out as it did: body, signature, headers that matter."""
    data = b64decode(vector["body_b64"]).decode()
    schemes = ["logto" if vector["system"] == "logto" else "none"]
    sent = outgoing(vector["system"], Sent(json.dumps(json.loads(data), indent=1)), schemes=schemes)
    lines = vector["request_head"].split("\r\n")[1:]
    wanted = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    network = {"host", "connection", "content-length", "accept-encoding"}
    browser = {"accept", "accept-language", "sec-fetch-mode"}

    assert sent.body == data.encode()
    assert sent.method == "POST"
    assert {name: headers(sent)[name] for name in wanted.keys() - network - browser} == {
        name: value for name, value in wanted.items() if name not in network | browser
    }


def test_logto_fills_what_is_missing() -> None:
    """event and createdAt come first, hookId last; what the data has stays where it is."""
    ends = '"createdAt":"2026-03-03T12:00:00.344Z"', f'"hookId":"{HOOK}"'

    assert body("logto", '{"data": null}') == (
        f'{{"event":"invoice.paid",{ends[0]},"data":null,{ends[1]}}}'
    )
    assert body("logto", '{"hookId": "h", "event": "E", "createdAt": "c"}') == (
        '{"hookId":"h","event":"E","createdAt":"c"}'
    )
    assert body("logto", '{"event": "E", "ip": "::1"}') == (
        f'{{{ends[0]},"event":"E","ip":"::1",{ends[1]}}}'
    )


@pytest.mark.parametrize("data", ["[1.0]", '"text"', "null", "7"])
def test_logto_of_other_data(data: str) -> None:
    """Data that is no object is the member `data` of a payload."""
    assert json.loads(body("logto", data)) == {
        "event": "invoice.paid",
        "createdAt": "2026-03-03T12:00:00.344Z",
        "data": json.loads(data),
        "hookId": HOOK,
    }


def test_casdoor_fills_what_is_missing() -> None:
    """A record has all 17 members in their order, whatever the data has."""
    made = body("casdoor", "{}", tenant="acme", type="login")

    assert made == (
        f'{{"id":0,"owner":"acme","name":"{ID}","createdTime":"2026-03-03T12:00:00Z",'
        '"organization":"acme","clientIp":"","user":"","method":"POST",'
        '"requestUri":"/api/login","action":"login","language":"en","object":"","response":"",'
        '"statusCode":200,"detail":"","isTriggered":false,"extendedUser":null}'
    )


def test_casdoor_types() -> None:
    """Texts are texts, numbers numbers; what is an object becomes the JSON it is."""
    record = json.loads(
        body(
            "casdoor",
            '{"organization": "o", "action": "a", "user": 7, "clientIp": null, "statusCode": "x",'
            ' "isTriggered": true, "object": {"b": 1.50, "a": "<&>"}, "more": [1e2]}',
        )
    )

    assert (record["owner"], record["requestUri"]) == ("o", "/api/a")
    assert (record["user"], record["clientIp"], record["statusCode"]) == ("7", "", 200)
    assert record["object"] == '{"b":1.5,"a":"\\u003c\\u0026\\u003e"}'
    assert (record["isTriggered"], record["more"]) == (True, [100])
    assert list(record)[-2:] == ["extendedUser", "more"]


def test_casdoor_escapes_as_go() -> None:
    """What HTML or JavaScript would trip over is escaped as json.Marshal does."""
    made = body("casdoor", json.dumps({"user": "<&>\u2028\u2029\x7fé\b\f\n\x01", "action": "a"}))

    assert '"user":"\\u003c\\u0026\\u003e\\u2028\\u2029\x7fé\\b\\f\\n\\u0001"' in made


@pytest.mark.parametrize("data", ["[1, 2]", '"text"', "true", "7.50"])
def test_casdoor_of_other_data(data: str) -> None:
    """Data that is no object is the record's `object`, as text."""
    value = json.loads(data)
    expected = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))

    assert json.loads(body("casdoor", data))["object"] == expected


@pytest.mark.parametrize("name", list(FORMATS))
def test_deep_data(name: str) -> None:
    """Data nested deeper than we read is sent all the same, as it was stored."""
    made = body(name, DEEP, type="a")

    assert (DEEP if name != "casdoor" else f'"object":"{DEEP}"') in made


@pytest.mark.parametrize("name", list(FORMATS))
def test_times_are_in_utc(name: str) -> None:
    """An event's time is told in UTC, wherever its offset came from."""
    there = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert body(name, "{}", occurred_at=there) == body(name, "{}", occurred_at=AT)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
        | st.integers(0, 2**33).map(str),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("name", list(FORMATS))
@given(data=json_values)
def test_always_json_and_always_the_same(name: str, data: Any) -> None:
    """Any data becomes JSON of the same value, byte for byte the same each time."""
    stored = json.dumps(data)
    made = body(name, stored)

    assert body(name, stored) == made
    assert isinstance(json.loads(made), dict) or name in {"raw", "cloudevents-binary"}
    if name == "logto" and not isinstance(data, dict):
        assert as_doubles(made)["data"] == as_doubles(stored)


def as_doubles(text: str) -> Any:
    return json.loads(text, parse_int=float)


@node
def test_logto_writes_as_javascript(tmp_path: Path) -> None:
    """Numbers, escapes and the order of members are those of JSON.stringify."""
    numbers = (
        "1.0 0.1 19.90 1e21 123456789012345680000 1E-7 0.000001 -0.0 -0 1.5e300 5e-324 1e5 100 "
        "9007199254740991 4.35 -1.25e-9"
    )
    members = {"b": 1, "2": 2, "10": 3, "01": 4, "4294967295": 5, "4294967294": 6, "-1": 7}
    texts = ["<&>'\"\\/\u2028\u2029\x7f\b\f\n\r\t\x01é😀"]
    data = f"[[{numbers.replace(' ', ',')}],{json.dumps(members)},{json.dumps(texts)}]"
    (tmp_path / "data.json").write_text(data)

    assert f'"data":{in_node(STRINGIFY, tmp_path / "data.json")},"hookId"' in body("logto", data)


STRINGIFY = """
    const text = require("fs").readFileSync(process.argv[1], "utf8");
    process.stdout.write(JSON.stringify(JSON.parse(text)));
"""


def in_node(script: str, *arguments: object) -> str:
    command = [str(NODE), "-e", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode()  # noqa: S603


def test_digits_are_not_lost() -> None:
    """A number that no double holds keeps its digits."""
    exact = "[12345678901234567890,0.12345678901234567890,1e400,1e-99999]"

    assert f'"data":{exact}' in body("logto", exact)


# The whole request.


def test_a_format_keeps_our_headers() -> None:
    """Every format goes out with the headers by which a receiver knows repetitions."""
    for name in FORMATS:
        sent = headers(outgoing(name, Sent(), schemes=["none"]))

        assert (sent["webhook-id"], sent["idempotency-key"]) == (ID, f'"{ID}"')
        assert (sent["webhook-timestamp"], sent["webhook-attempt"]) == (str(NOW), "1")


def test_user_agents() -> None:
    """Ours, or the one of the system that is imitated, unless the subscription has its own."""
    agents = {
        name: headers(outgoing(name, Sent(), schemes=["none"]))["user-agent"] for name in FORMATS
    }

    assert agents["standard"].startswith("outbox-webhooks/")
    assert agents["casdoor"] == "Go-http-client/1.1"
    assert agents["logto"] == "Logto (https://logto.io/)"
    mine = outgoing("logto", Sent(), schemes=["none"], user_agent="mine/1")
    assert headers(mine)["user-agent"] == "mine/1"


def test_the_package_says_what_it_has() -> None:
    """What `outbox.formats` offers is importable."""
    assert all(hasattr(formats, name) for name in formats.__all__)
