"""Headers of answers: which are kept."""

from __future__ import annotations

import doctest
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.worker import answers
from outbox.worker.answers import MAX_KEPT, decoded, kept

ANSWER = [
    (b"Server", b"nginx"),
    (b"X-Request-ID", b"r-1"),
    (b"cf-ray", b"8a-FRA"),
    (b"Request-Id", b"req_1"),
    (b"traceparent", b"00-1-2-01"),
    (b"x-b3-traceid", b"b3"),
    (b"x-correlation-id", b"c"),
    (b"Content-Type", b"text/html"),
]


def test_examples() -> None:
    """The examples of the module hold."""
    assert doctest.testmod(answers).failed == 0


def test_a_2xx_keeps_what_names_it() -> None:
    """Of a 2xx the ids that the receiver's own logs have, and nothing else."""
    assert [name for name, _ in decoded(ANSWER, delivered=True)] == [
        "x-request-id", "cf-ray", "request-id", "traceparent", "x-b3-traceid", "x-correlation-id",
    ]  # fmt: skip
    assert decoded([(b"Server", b"nginx"), (b"Date", b"now")], delivered=True) == ()


def test_a_refusal_keeps_all() -> None:
    """Of what did not deliver every header, in lower case and in its order."""
    assert decoded(ANSWER, delivered=False)[0] == ("server", "nginx")
    assert len(decoded(ANSWER, delivered=False)) == len(ANSWER)


@pytest.mark.parametrize(
    "name", ["set-cookie", "authorization", "x-api-key", "x-auth-token", "x-signature", "x-secret"]
)
def test_no_credentials(name: str) -> None:
    """What may be a credential is not kept, and a challenge is none."""
    headers = [(name, "hunter2"), ("www-authenticate", "Bearer")]

    assert kept(headers) == '{"www-authenticate": "Bearer"}'


def test_a_redirect_keeps_no_query() -> None:
    """A URL's query, fragment and user may be secret."""
    assert kept([("location", "https://me:pw@example.com/a?token=1#x")]) == (
        '{"location": "https://example.com/a"}'
    )


def test_what_is_too_large_is_left_out() -> None:
    """A header without room is left out; those after it are not."""
    large = "x" * (MAX_KEPT + 1)

    assert kept([("csp", large), ("server", "nginx")]) == '{"server": "nginx"}'
    assert kept([("csp", large)]) is None
    assert kept([]) is None


@given(st.lists(st.tuples(st.binary(max_size=50), st.binary(max_size=3000))))
def test_whatever_comes(raw: list[tuple[bytes, bytes]]) -> None:
    """Any bytes become JSON in ASCII, of bounded size."""
    text = kept(decoded(raw, delivered=False)) or "{}"

    assert text.isascii()
    assert sum(len(name) + len(value) for name, value in json.loads(text).items()) <= MAX_KEPT
