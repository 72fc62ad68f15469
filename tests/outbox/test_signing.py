"""Standard Webhooks signatures, against the public vectors and the reference library."""

from __future__ import annotations

import doctest
import json
import time
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from outbox import signing
from outbox.errors import InvalidInput, SignatureInvalid
from outbox.signing import (
    new_private_key,
    new_secret,
    public_key,
    secret_key,
    sign,
    verify,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/standardwebhooks.json").read_text())
STANDARD = VECTORS["standardwebhooks"]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105  it is the public example
OTHER = new_secret(bytes(32))
PUBLIC = public_key(new_private_key(bytes(32)))
ID = "0190163d-8694-739b-aea5-966c26f8ad91"
NOW = 1614265330
BODY = b'{"type":"invoice.paid","data":{}}'

keys = st.binary(min_size=24, max_size=64)
ids = st.text("abcXYZ019_-", min_size=1, max_size=40)
seconds = st.integers(0, 10**11)


def signed(body: bytes = BODY, *, secret: str = SECRET, at: int = NOW) -> dict[str, str]:
    signature = sign(secret, ID, at, body)
    return {"webhook-id": ID, "webhook-timestamp": str(at), "webhook-signature": signature}


def of_receiver(secret: str) -> str:
    """What the receiver has of a sender's secret."""
    return public_key(secret) if secret.startswith("whsk_") else secret


def body_of(vector: dict[str, Any]) -> bytes:
    return b64decode(vector["body_b64"])


def named(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[v["name"] for v in vectors])


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(signing).failed == 0


@named([v for v in STANDARD if not v["expect"].startswith("reject")])
def test_vector_is_signed(vector: dict[str, Any]) -> None:
    """A valid vector gets exactly its signatures, newest first, and verifies."""
    body, at = body_of(vector), vector["timestamp"]

    each = [sign(secret, vector["id"], at, body) for secret in vector["secrets"]]

    assert each == vector["signatures"] == vector["headers"]["webhook-signature"].split(" ")
    for secret in vector["secrets"]:
        verify(body, vector["headers"], of_receiver(secret), now=at)


@named([v for v in STANDARD if v["expect"] != "valid"])
def test_vector_is_refused(vector: dict[str, Any]) -> None:
    """A vector that is tampered with or out of time is refused at the verifier's time."""
    now = vector.get("verifier_now", NOW)

    with pytest.raises(SignatureInvalid):
        verify(
            body_of(vector), vector["headers"], list(map(of_receiver, vector["secrets"])), now=now
        )


@named([v for v in STANDARD if v["name"] == "mixed-v1-and-v1a"])
def test_foreign_versions_are_ignored(vector: dict[str, Any]) -> None:
    """A signature of another version beside ours does no harm and is worth nothing."""
    body, headers, now = body_of(vector), vector["headers"], vector["timestamp"]
    foreign = headers["webhook-signature"].split(" ")[1]

    verify(body, headers, vector["secrets"][0], now=now)

    with pytest.raises(SignatureInvalid):
        verify(body, {**headers, "webhook-signature": foreign}, vector["secrets"][0], now=now)


@given(keys, ids, seconds, st.text(st.characters(exclude_categories=["Cs"])))
def test_like_the_reference(key: bytes, id: str, timestamp: int, body: str) -> None:
    """The reference library signs the same, and what it signs verifies."""
    secret = new_secret(key)
    expected = Webhook(secret).sign(id, datetime.fromtimestamp(timestamp, UTC), body)
    headers = {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": expected,
    }

    assert sign(secret, id, timestamp, body.encode()) == expected
    verify(body.encode(), headers, secret, now=timestamp)


def test_the_reference_verifies_ours() -> None:
    """The reference library accepts our header, also with two secrets in it."""
    now = int(time.time())
    both = " ".join(sign(secret, ID, now, BODY) for secret in (OTHER, SECRET))
    headers = {**signed(at=now), "webhook-signature": both}

    assert Webhook(SECRET).verify(BODY, headers) == json.loads(BODY)


@given(keys)
def test_secret_round_trip(key: bytes) -> None:
    """A secret stands for exactly the bytes it was made of."""
    assert secret_key(new_secret(key)) == key


@pytest.mark.parametrize("size", [0, 1, 23, 65])
def test_secret_of_wrong_size(size: int) -> None:
    """Fewer than 24 bytes are too weak and more than 64 no other library takes."""
    with pytest.raises(InvalidInput, match="24 to 64"):
        new_secret(bytes(size))


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        SECRET.removeprefix("whsec_"),
        SECRET.replace("whsec_", "whsk_"),
        SECRET + "=",
        SECRET + "\n",
        SECRET[:-1],
        SECRET.replace("9", "-"),
        SECRET.replace("9", "é"),
        new_secret(bytes(32))[:-2] + "B=",
        "whsec_" + "A" * 100,
        SECRET.encode(),
        None,
    ],
)
def test_malformed_secret(secret: object) -> None:
    """A secret is strict base64 of a fit size, and the error does not repeat it."""
    with pytest.raises(InvalidInput, match=r"^secret: must be whsec_ and 24 to 64 bytes") as error:
        secret_key(secret)  # type: ignore[arg-type]

    assert "MfKQ" not in str(error.value)
    assert error.value.__cause__ is None


def test_header_names_in_any_case() -> None:
    """Servers write header names as they like."""
    verify(BODY, {name.title(): value for name, value in signed().items()}, SECRET, now=NOW)


def test_every_secret_and_signature_is_tried() -> None:
    """One secret of the receiver that fits one signature of the sender is enough."""
    both = " ".join(sign(secret, ID, NOW, BODY) for secret in (OTHER, SECRET))
    headers = {**signed(), "webhook-signature": both}

    verify(BODY, headers, SECRET, now=NOW)
    verify(BODY, signed(), [OTHER, SECRET], now=NOW)
    verify(bytearray(BODY), signed(), (SECRET,), now=NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("now", [NOW - 300, NOW + 300, NOW + 299.9])
def test_within_tolerance(now: float) -> None:
    """Five minutes to both sides are tolerated."""
    verify(BODY, signed(), SECRET, now=now)


@pytest.mark.parametrize("now", [NOW - 300.1, NOW + 301, float("nan"), float("inf"), 0])
def test_out_of_tolerance(now: float) -> None:
    """An older or newer webhook is refused, and so is a clock that is none."""
    with pytest.raises(SignatureInvalid, match="more than 300 s"):
        verify(BODY, signed(), SECRET, now=now)


def test_the_error_tells_how_old_it_is() -> None:
    """Whether a clock is wrong or a request old is seen by how far and to which side."""
    with pytest.raises(SignatureInvalid, match="time is 7,200 s in the past, more than 300 s"):
        verify(BODY, signed(), SECRET, now=NOW + 7200)
    with pytest.raises(SignatureInvalid, match="time is 301 s in the future, more than"):
        verify(BODY, signed(), SECRET, now=NOW - 301)


def test_the_error_names_the_version() -> None:
    """A signature of another kind than the secret's is told from one that does not fit."""
    with pytest.raises(SignatureInvalid, match="signatures is of version v1a, as the secret is"):
        verify(BODY, signed(), PUBLIC, now=NOW)
    with pytest.raises(SignatureInvalid, match="is of version v1, as the secret is"):
        verify(BODY, {**signed(), "webhook-signature": "v2,AAAA"}, SECRET, now=NOW)
    with pytest.raises(SignatureInvalid, match="none of the signatures fits this body"):
        verify(b"", signed(), [PUBLIC, SECRET], now=NOW)


@pytest.mark.parametrize(
    "timestamp", ["", " 1614265330", "1614265330.0", "01614265330", "1_614_265_330", "٣", "1" * 13]
)
def test_malformed_timestamp(timestamp: str) -> None:
    """A timestamp is an integer as the sender wrote it, and nothing that int() reads beside."""
    with pytest.raises(SignatureInvalid):
        verify(BODY, {**signed(), "webhook-timestamp": timestamp}, SECRET, now=NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_missing_header(name: str) -> None:
    """The error names the header that is missing."""
    headers = {key: value for key, value in signed().items() if key != name}

    with pytest.raises(SignatureInvalid, match=f"{name} is missing"):
        verify(BODY, headers, SECRET, now=NOW)


def test_dots_cannot_be_moved() -> None:
    """An id with a dot is refused, since part of a body could pass as its timestamp."""
    body = f"{NOW}.{{}}".encode()
    moved = {**signed(body), "webhook-id": f"{ID}.{NOW}", "webhook-timestamp": str(NOW)}

    with pytest.raises(SignatureInvalid, match="contains a dot"):
        verify(b"{}", moved, SECRET, now=NOW)


def test_body_must_be_bytes() -> None:
    """Parsed or decoded bodies are refused with the reason."""
    with pytest.raises(SignatureInvalid, match="must be the bytes received, not str"):
        verify(BODY.decode(), signed(), SECRET, now=NOW)  # type: ignore[arg-type]


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_private_keys_like_cryptography(seed: bytes, body: bytes) -> None:
    """What a whsk_ key signs, cryptography verifies with its whpk_ half, and so do we."""
    secret = new_private_key(seed)
    signature = sign(secret, ID, NOW, body)
    public = Ed25519PublicKey.from_public_bytes(b64decode(public_key(secret)[5:]))
    headers = {**signed(), "webhook-signature": signature}

    public.verify(b64decode(signature.removeprefix("v1a,")), f"{ID}.{NOW}.".encode() + body)
    verify(body, headers, public_key(secret), now=NOW)
    with pytest.raises(SignatureInvalid, match="none of the signatures"):
        verify(body + b" ", headers, public_key(secret), now=NOW)


def test_a_seed_is_a_private_key() -> None:
    """A whsk_ key may be the seed alone: it is the same key."""
    whole = new_private_key(bytes(range(32)))
    seed = "whsk_" + b64encode(bytes(range(32))).decode()

    assert sign(seed, ID, NOW, BODY) == sign(whole, ID, NOW, BODY)
    assert public_key(seed) == public_key(whole)


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), bytes(63), bytes(64), bytes(96)])
def test_malformed_private_key(raw: bytes) -> None:
    """A whsk_ key of another size, or of two halves that do not fit, is refused untold."""
    secret = "whsk_" + b64encode(raw).decode()

    with pytest.raises(InvalidInput, match=r"^secret: ") as error:
        sign(secret, ID, NOW, BODY)
    assert not raw or secret not in str(error.value)


def test_a_receiver_has_no_private_key() -> None:
    """Who verifies with the sender's own key is told to take the public one."""
    with pytest.raises(InvalidInput, match="verify with its whpk_ key"):
        verify(BODY, signed(), new_private_key(bytes(32)), now=NOW)
    with pytest.raises(InvalidInput, match="whpk_ and the 32 bytes"):
        verify(BODY, signed(), "whpk_AAAA", now=NOW)


@given(st.text(st.characters(), max_size=100))
def test_hostile_ed25519_signatures(text: str) -> None:
    """A v1a signature that is none is refused like any other."""
    with pytest.raises(SignatureInvalid):
        verify(BODY, {**signed(), "webhook-signature": f"v1a,{text}"}, PUBLIC, now=NOW)


@pytest.mark.parametrize("secret", [None, "", [], b"x", [None], 7])
def test_bad_secret_of_a_receiver(secret: Any) -> None:
    """A receiver without a proper secret learns so, whatever arrives."""
    with pytest.raises(InvalidInput, match=r"^secret: "):
        verify(BODY, {}, secret, now=NOW)


@given(st.data())
def test_any_flipped_byte_breaks_it(data: st.DataObject) -> None:
    """One changed bit in body, id, timestamp or signature is refused."""
    body = data.draw(st.binary(min_size=1, max_size=50))
    sent = {"body": body, **{k: v.encode() for k, v in signed(body).items()}}
    name = data.draw(st.sampled_from(sorted(sent)))
    place = data.draw(st.integers(0, len(sent[name]) - 1))
    flipped = bytearray(sent[name])
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    sent[name] = bytes(flipped)
    headers = {k: v.decode("latin-1") for k, v in sent.items() if k != "body"}

    with pytest.raises(SignatureInvalid):
        verify(sent["body"], headers, SECRET, now=NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("value", ["\ud800", "é", "\0", " ", "v1", ",", "v1,", "v1,=", "," * 9_999])
def test_hostile_header(name: str, value: str) -> None:
    """A header that no honest sender writes is refused like any other."""
    with pytest.raises(SignatureInvalid):
        verify(BODY, {**signed(), name: value}, SECRET, now=NOW)


hostile = st.text(st.characters(), max_size=30) | st.sampled_from(["v1,", "v1,é", "a b", str(NOW)])


@given(
    st.binary(max_size=20),
    st.dictionaries(hostile, hostile) | st.fixed_dictionaries(dict.fromkeys(signed(), hostile)),
)
def test_only_signature_invalid(body: bytes, headers: dict[str, str]) -> None:
    """Whatever a stranger sends, the answer is SignatureInvalid."""
    with pytest.raises(SignatureInvalid):
        verify(body, headers, SECRET, now=NOW)
    with pytest.raises(SignatureInvalid):
        verify(body, {**signed(), **headers, "webhook-timestamp": str(NOW)}, OTHER, now=NOW)
