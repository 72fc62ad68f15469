"""Values of a host as JSON that PostgreSQL can keep."""

from __future__ import annotations

import doctest
import json
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from outbox import encoding
from outbox.encoding import check_text, encode
from outbox.errors import InvalidInput


class Colour(Enum):
    RED = "red"
    BOTH = ("red", Decimal("1.50"))


class Level(IntEnum):
    HIGH = 3


class State(StrEnum):
    PAID = "paid"


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "\0"


Point = namedtuple("Point", "x y")

any_text = st.text(st.characters())  # with lone surrogates, NUL and all the rest
good_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
native = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | good_text,
    lambda inner: st.lists(inner) | st.dictionaries(good_text, inner),
    max_leaves=20,
)  # fmt: skip
junk = st.recursive(
    st.none() | st.booleans() | any_text | st.binary() | st.just(object())
    | st.integers() | st.sampled_from([999, 1_000, 5_000]).map(lambda n: -(10**n))
    | st.floats() | st.decimals() | st.sampled_from([*Colour, *Level, *State])
    | st.builds(lambda digits, exponent: Decimal((0, digits, exponent)),
                st.sampled_from([(1,), (7,) * 999, (7,) * 1_000, (7,) * 1_001]),
                st.integers(-1_002, 1_002))
    | st.datetimes() | st.datetimes(timezones=st.timezones()) | st.dates() | st.times()
    | st.uuids() | st.timedeltas(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner)
    | st.dictionaries(any_text | st.integers() | st.none(), inner, max_size=4)
    | st.frozensets(st.integers(), max_size=2),
    max_leaves=12,
)  # fmt: skip


def refusal(value: object, **options: Any) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as error:
        encode(value, **options)
    return error.value.field, error.value.rule


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(encoding).failed == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (-7, "-7"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        ('say "é"\n\x7f\u2028', '"say \\"é\\"\\n\x7f\u2028"'),
        ("\\u0000", '"\\\\u0000"'),
        ({"b": [1, (2, {})], "a": []}, '{"b":[1,[2,{}]],"a":[]}'),
        (OrderedDict(z=1, a=2), '{"z":1,"a":2}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        (Point(1, 2), "[1,2]"),
        (Decimal("19.90"), "19.90"),
        (Decimal("-0.00"), "-0.00"),
        (Decimal("1E+5"), "1E+5"),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (date(2026, 1, 31), '"2026-01-31"'),
        (Colour.RED, '"red"'),
        (Colour.BOTH, '["red",1.50]'),
        (Level.HIGH, "3"),
        (State.PAID, '"paid"'),
        ({State.PAID: 1}, '{"paid":1}'),
        (Loud("quiet"), '"quiet"'),
    ],
)
def test_forms(value: object, expected: str) -> None:
    """Each type of the table has its one form."""
    assert encode(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC), "2026-01-31T12:00:05Z"),
        (datetime(2026, 1, 31, 12, 0, 5, 120, tzinfo=UTC), "2026-01-31T12:00:05.000120Z"),
        (
            datetime(2026, 1, 31, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
            "2026-01-31T00:00:00-05:30",
        ),
        (datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/London")), "2026-07-01T00:00:00+01:00"),
        (datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/London")), "2026-01-01T00:00:00Z"),
        (datetime(1850, 1, 1, tzinfo=timezone(timedelta(seconds=3208))), "1849-12-31T23:06:32Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
    ],
)
def test_datetime(value: datetime, expected: str) -> None:
    """A datetime is RFC 3339 with the offset it had, which is Z for UTC."""
    assert encode(value) == f'"{expected}"'


@given(native)
def test_like_the_standard_library(value: object) -> None:
    """What the standard library can write as well is the same text."""
    expected = json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    assert encode(value) == expected


@pytest.mark.parametrize(
    ("value", "field", "rule"),
    [
        ({"items": [{}, {"name": "a\0"}]}, "data.items[1].name", "NUL"),
        ({"a": "\ud83d"}, "data.a", "lone surrogate"),
        ([0, float("nan")], "data[1]", "NaN"),
        ({"a": float("-inf")}, "data.a", "infinite"),
        ({"a": Decimal("NaN")}, "data.a", "NaN"),
        ({"a": Decimal("sNaN9")}, "data.a", "NaN"),
        ({"a": Decimal("Infinity")}, "data.a", "infinite"),
        ({"a": 10**1_000}, "data.a", "digits"),
        ({"a": -(10**5_000)}, "data.a", "digits"),
        ({"a": Decimal("1e1001")}, "data.a", "exponent"),
        ({"a": Decimal("1e-1001")}, "data.a", "exponent"),
        ({"a": {1: 2}}, "data.a", "a key of the type int"),
        ({10**5_000: 2}, "data", "a key of the type int"),
        ({"a": {"b\0": 2}}, "data.a", "NUL"),
        ({"\udfff": 2}, "data", "lone surrogate"),
        ({"a b": [b""]}, "data['a b'][0]", "the type bytes"),
        ({"a": {1}}, "data.a", "the type set"),
        ({"a": time(1)}, "data.a", "the type time"),
        ({"a": datetime(2026, 1, 1)}, "data.a", "time zone"),  # noqa: DTZ001  that is the point
        (datetime.min.replace(tzinfo=timezone(timedelta(seconds=1))), "data", "years"),
        (object(), "data", "the type object"),
        (nested(65), "data" + "[0]" * 64, "deeper than 64"),
    ],
)
def test_refused(value: object, field: str, rule: str) -> None:
    """What PostgreSQL or JSON cannot hold is refused, with the path to it."""
    found = refusal(value)

    assert found[0] == field
    assert rule in found[1]


def test_limits_are_reachable() -> None:
    """64 levels, 1,000 digits and an exponent of 1,000 are still taken."""
    digits = 10**1_000 - 1

    assert encode(nested(64)) == "[" * 64 + "]" * 64
    assert encode(-digits) == f"-{digits}"
    assert encode(Decimal(digits)) == f"{digits}"
    assert encode(Decimal("1e-1000")) == "1E-1000"


def test_cycle() -> None:
    """A value that contains itself is refused for its depth, in a short message."""
    value: dict[str, object] = {}
    value["itself_and_nothing_else"] = value

    field, rule = refusal(value)

    assert "contains itself" in rule
    assert len(field) == 200


def test_size_is_bytes() -> None:
    """The limit counts the bytes of UTF-8 and names both numbers."""
    assert encode("é" * 4, max_bytes=10) == '"éééé"'
    assert refusal("é" * 5, max_bytes=11) == ("data", "takes 12 bytes as JSON; 11 are allowed")
    assert refusal("x" * 262_143)[1].startswith("takes 262,145 bytes")


def test_field_begins_the_path() -> None:
    """The path begins with the field that the caller names."""
    assert refusal({"a": b""}, field="context")[0] == "context.a"


@given(junk)
def test_only_invalid_input(value: object) -> None:
    """Whatever the value, the answer is text in UTF-8 or InvalidInput."""
    try:
        json.loads(encode(value).encode())
    except InvalidInput as error:
        str(error).encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=junk | native)
def test_postgresql_takes_it(db: Connection, value: object) -> None:
    """PostgreSQL keeps as json, byte for byte, all that is encoded, and casts it to jsonb."""
    try:
        found = encode(value)
    except InvalidInput:
        return
    query = text("SELECT CAST(j AS text), CAST(j AS jsonb) FROM CAST(:j AS json) AS j")

    with db.begin_nested():
        kept = db.execute(query, {"j": found}).scalar_one()

    assert kept == found


def test_decimal_filters(db: Connection) -> None:
    """A Decimal is a number to an SQL/JSON path."""
    query = text("SELECT CAST(:j AS jsonb) @@ CAST('$.amount > 100' AS jsonpath)")

    assert db.execute(query, {"j": encode({"amount": Decimal("100.01")})}).scalar_one() is True


@pytest.mark.parametrize("value", ["acme", "user/42", " ", "é🚀", "x" * 20])
def test_text_is_returned(value: str) -> None:
    """Plain text up to the limit is returned as it is."""
    assert check_text("tenant", value, 20) == value


@pytest.mark.parametrize("value", ["", "x" * 21, "a\0", "a\n", "a\x7f", "\x9b", "\ud800", None, 7])
def test_bad_text(value: object) -> None:
    """Empty, long, unprintable text and what is no text are refused under the field's name."""
    with pytest.raises(InvalidInput, match=r"^tenant: "):
        check_text("tenant", value, 20)  # type: ignore[arg-type]


@given(any_text)
def test_text_never_fails_otherwise(value: str) -> None:
    """Whatever the text, it is returned in UTF-8 or refused."""
    try:
        check_text("subject", value, 10).encode()
    except InvalidInput as error:
        str(error).encode()
