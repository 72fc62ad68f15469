"""Signature schemes, against the services' own vectors and the verifiers that they publish."""

from __future__ import annotations

import base64
import doctest
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.signature import SignatureVerifier

from outbox import binary, schemes
from outbox.errors import InvalidInput
from outbox.schemes import SCHEMES, check_schemes, check_secret, signature
from outbox.signing import new_private_key, new_secret, sign

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/standardwebhooks.json").read_text())
OWN = "hmac:X-Signature:base64:v2="
ID, NOW = b"0190163d-8694-739b-aea5-966c26f8ad91", b"1614265330"
NEW, OLD = new_secret(b"n" * 32), new_secret(b"o" * 32)
PRIVATE = new_private_key(bytes(32))

texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=100).filter(
    lambda text: not text.startswith("whsk_")
)


def headers(
    scheme: str, *secrets: str, body: bytes = b"{}", timestamp: bytes = NOW
) -> dict[str, str]:
    signed = signature([scheme], secrets)(ID, timestamp, body)
    return {name.decode(): value.decode() for name, value in signed}


def plain_hmac(secret: str, content: bytes) -> bytes:
    """By the standard library, in one go."""
    return hmac.digest(secret.encode(), content, "sha256")


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(schemes).failed == 0
    assert doctest.testmod(binary).failed == 0


@pytest.mark.parametrize("vector", VECTORS["other_schemes"], ids=lambda v: v["scheme"])
def test_vector(vector: dict[str, Any]) -> None:
    """Each service's vector gets exactly its headers."""
    timestamp = str(vector.get("timestamp", 0)).encode()
    given = headers(
        vector["scheme"], vector["secret"], body=vector["body"].encode(), timestamp=timestamp
    )

    assert given == {name.lower(): value for name, value in vector["headers"].items()}


@given(texts, texts, st.text(st.characters(exclude_categories=["Cs"])))
def test_stripe_accepts(new: str, old: str, body: str) -> None:
    """Stripe's own library accepts the signature of each live secret."""
    value = headers("stripe", new, old, body=body.encode())["stripe-signature"]

    for secret in (new, old):
        verified = stripe.WebhookSignature.verify_header(body, value, secret, tolerance=None)
        assert verified


@given(texts, st.text(st.characters(exclude_categories=["Cs"])))
def test_slack_accepts(secret: str, body: str) -> None:
    """Slack's own library accepts the signature."""
    now = str(int(time.time())).encode()
    given = headers("slack", secret, body=body.encode(), timestamp=now)

    assert SignatureVerifier(secret).is_valid_request(body, given)


@given(texts, st.binary())
def test_schemes_of_the_body(secret: str, body: bytes) -> None:
    """github, shopify, logto and hmac are HMAC-SHA256 of the body, each in its own spelling."""
    digest = plain_hmac(secret, body)
    in_base64 = base64.b64encode(digest).decode()

    assert headers("github", secret, body=body) == {"x-hub-signature-256": f"sha256={digest.hex()}"}
    assert headers("shopify", secret, body=body) == {"x-shopify-hmac-sha256": in_base64}
    assert headers("logto", secret, body=body) == {"logto-signature-sha-256": digest.hex()}
    assert headers(OWN, secret, body=body) == {"x-signature": f"v2={in_base64}"}
    assert headers("hmac:X-A:hex", secret, body=body) == {"x-a": digest.hex()}


def test_a_key_longer_than_a_block() -> None:
    """A secret of more than 64 bytes is hashed first, as HMAC has it."""
    secret = "s" * 65

    assert headers("logto", secret) == {"logto-signature-sha-256": plain_hmac(secret, b"{}").hex()}
    assert len(hashlib.sha256().digest()) == 32


def test_standard_signs_with_every_secret() -> None:
    """The new secret, an old one and a private key sign side by side."""
    expected = [sign(secret, ID.decode(), int(NOW), b"{}") for secret in (NEW, OLD, PRIVATE)]

    assert headers("standard", NEW, OLD, PRIVATE) == {"webhook-signature": " ".join(expected)}


@pytest.mark.parametrize("scheme", ["github", "slack", "shopify", "logto", OWN])
def test_one_place_for_a_signature(scheme: str) -> None:
    """Where receivers compare for equality, the newest secret signs and no other."""
    assert headers(scheme, NEW, OLD) == headers(scheme, NEW)
    assert headers(scheme, NEW) != headers(scheme, OLD)


def test_several_schemes() -> None:
    """Two schemes on one subscription set the headers of both."""
    both = signature(["standard", "github"], [NEW])(ID, NOW, b"{}")

    assert [name for name, _ in both] == [b"webhook-signature", b"x-hub-signature-256"]


def test_none() -> None:
    """`none` signs nothing and needs no secret."""
    assert headers("none") == {}


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "none"])
def test_nothing_goes_out_unsigned(scheme: str) -> None:
    """A scheme without a secret that fits is an error, not a request without a signature."""
    with pytest.raises(InvalidInput, match=r"^secret: there is none"):
        signature([scheme], [])


@pytest.mark.parametrize(
    "scheme", [name for name in (*SCHEMES, OWN) if name not in {"none", "standard"}]
)
def test_a_private_key_is_not_shared(scheme: str) -> None:
    """A whsk_ key is never used as a text that the receiver would have to know."""
    with pytest.raises(InvalidInput, match="cannot sign with a whsk_ key"):
        check_secret(PRIVATE, [scheme])


@pytest.mark.parametrize(
    "secret", ["hush", "whsec_test_secret", "whsk_AAAA", "", "a\nb", "é" * 256]
)
def test_unfit_secret_is_not_told(secret: str) -> None:
    """A secret that `standard` cannot use is refused by its rule, which does not repeat it."""
    with pytest.raises(InvalidInput, match=r"^secret: ") as error:
        check_secret(secret, ["standard"])
    assert not secret or secret not in str(error.value)


def test_a_secret_of_a_service() -> None:
    """Services' secrets are texts, also where they look like one of ours."""
    assert check_secret("whsec_test_secret", ["stripe"]) == "whsec_test_secret"


@pytest.mark.parametrize(
    ("wanted", "rule"),
    [
        ([], "must be 1 to 5"),
        (["standard"] * 6, "must be 1 to 5"),
        (["standard", "standard"], "would set the header webhook-signature"),
        (["github", "hmac:X-Hub-Signature-256:hex"], "would set the header x-hub-signature-256"),
        (["hmac:X-A:hex", "hmac:x-a:base64"], "would set the header x-a"),
        (["standard", "none"], "none stands alone"),
        (["svix"], "must be one of standard, github"),
        ([7], "must be one of standard, github"),
        (["hmac"], "or hmac:HEADER:hex|base64"),
        (["hmac:X-A"], "or hmac:HEADER:hex|base64"),
        (["hmac:X-A:HEX"], "or hmac:HEADER:hex|base64"),
        (["hmac::hex"], "'' is not a header name"),
        (["hmac:X A:hex"], "'X A' is not a header name"),
        (["hmac:Host:hex"], "Host is set by the outbox itself"),
        (["hmac:Webhook-Signature:hex"], "Webhook-Signature is set by the outbox itself"),
        (["hmac:X-A:hex:é"], "printable ASCII"),
        (["hmac:X-A:hex:a\r\nHost: b"], "printable ASCII"),
        (["hmac:X-A:hex: a"], "begin with a space"),
        (["hmac:X-A:hex:" + "a" * 65], "at most 64"),
    ],
)
def test_refused_schemes(wanted: list[str], rule: str) -> None:
    """What is no scheme, or would fight with another one, is refused by its rule."""
    with pytest.raises(InvalidInput) as error:
        check_schemes(wanted)
    assert rule in str(error.value)


def test_a_prefix_may_hold_colons() -> None:
    """What follows the encoding is the prefix, all of it."""
    (value,) = headers("hmac:X-A:hex:t=1:v=", NEW).values()

    assert value.startswith("t=1:v=")
