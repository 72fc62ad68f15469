"""What is said of a signature: each thing that may have gone wrong is told from the others."""

from __future__ import annotations

import doctest
import json
from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox import verdicts
from outbox.schemes import SCHEMES, signature
from outbox.signing import new_private_key, new_secret, public_key, sign
from outbox.verdicts import Verdict, verdict

SECRET, OTHER = new_secret(b"s" * 32), new_secret(b"o" * 32)
PRIVATE = new_private_key(bytes(32))
ID, NOW = "0190163d-8694-739b-aea5-966c26f8ad91", 1614265330
BODY = '{"type":"invoice.paid","data":{"id":1,"name":"é"}}'.encode()
OWN = "hmac:X-Own:base64:v2="
SIGNING = [*(name for name in SCHEMES if name != "none"), OWN]
REWRITTEN = "something on the way wrote it anew"
READ = "the sender reads the secret another way: it fits if the secret"


def headers(*schemes: str, secrets: tuple[str, ...] = (SECRET,), body: bytes = BODY) -> Any:
    """The headers of a request that is signed so."""
    signed = signature(schemes, secrets)(ID.encode(), str(NOW).encode(), body)
    named = {name.decode(): value.decode() for name, value in signed}
    return {"webhook-id": ID, "webhook-timestamp": str(NOW), **named}


def judged(headers: Any, *secrets: str, body: bytes = BODY, **options: Any) -> Verdict:
    return verdict(body, headers, secrets or [SECRET], **{"now": NOW, **options})


def reason(*arguments: Any, **options: Any) -> str | None:
    """The reason of a verdict that is `wrong`."""
    found = judged(*arguments, **options)

    assert found.state == "wrong"
    return found.reason


def test_examples() -> None:
    """The examples in the docstrings hold."""
    assert doctest.testmod(verdicts).failed == 0


@pytest.mark.parametrize("scheme", SIGNING)
def test_verified(scheme: str) -> None:
    """What a scheme signs is verified, and a flipped bit is not."""
    signed = {name.title(): value for name, value in headers(scheme).items()}
    schemes = (OWN,) if scheme == OWN else ()

    assert judged(signed, schemes=schemes) == Verdict("verified", scheme)
    assert judged(signed, schemes=schemes, body=BODY + b"!").state == "wrong"
    assert judged(signed, OTHER, schemes=schemes).state == "wrong"


def test_ed25519() -> None:
    """The public key verifies, and says so if it meets signatures of the other kind."""
    signed = headers("standard", secrets=(PRIVATE,))

    assert judged(signed, public_key(PRIVATE)) == Verdict("verified", "standard")
    assert judged(signed, public_key(PRIVATE), body=b"x").state == "wrong"
    assert reason(signed) == "a whsec_ secret verifies signatures of version v1, and it has none"
    assert reason(headers("standard"), public_key(PRIVATE)) == (
        "a whpk_ key verifies signatures of version v1a, and it has none"
    )


def test_unsigned_and_unchecked() -> None:
    """Without a header there is no signature; without a secret none is verified."""
    assert judged({}) == Verdict("unsigned", None, "it has no header of a signature")
    assert judged({}, schemes=("github",)) == Verdict(
        "unsigned", "github", "the header x-hub-signature-256 is missing"
    )
    assert verdict(BODY, headers("stripe"), [], now=NOW) == Verdict(
        "unchecked", "stripe", "no secret was given to verify it with"
    )


def test_another_scheme() -> None:
    """A request that is signed by another scheme than the one expected says by which."""
    assert reason(headers("github"), schemes=("stripe",)) == (
        "the header stripe-signature is missing; it has x-hub-signature-256 of the scheme github"
    )


def test_the_worst_of_several_counts() -> None:
    """A request with two signatures is verified if both are."""
    signed = headers("standard", "github")

    assert judged(signed).state == "verified"
    assert judged({**signed, "x-hub-signature-256": "sha256=00"}).scheme == "github"


@pytest.mark.parametrize("scheme", ["standard", "stripe", "slack"])
@pytest.mark.parametrize(("now", "apart"), [(412, "412 s in the past"), (-9e3, "9,000 s in the f")])
def test_bad_time(scheme: str, now: float, apart: str) -> None:
    """What fits but is of another time is told from what does not fit."""
    found = judged(headers(scheme), now=NOW + now)

    assert found.state == "bad time"
    assert f"its time is {apart}" in str(found.reason)
    assert f"; its time is {apart}" in str(reason(headers(scheme), OTHER, now=NOW + now))


def test_rotated() -> None:
    """Which of the given secrets signed is told, and that the sender has a newer one."""
    assert judged(headers("standard"), OTHER, SECRET).reason == "by secret 2 of the 2 given"
    for scheme in ("standard", "stripe"):
        found = judged(headers(scheme, secrets=(OTHER, SECRET)))
        assert found.state == "verified"
        assert found.reason == (
            "by an older secret: the sender has a newer one, whose signature comes first"
        )
    mixed = headers("standard", secrets=(PRIVATE, SECRET))
    assert judged(mixed) == Verdict("verified", "standard")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("webhook-id", "", "the header webhook-id is missing"),
        ("webhook-id", "a.b", "the header webhook-id contains a dot"),
        ("webhook-timestamp", "", "the header webhook-timestamp is missing"),
        ("webhook-timestamp", "soon", "the header webhook-timestamp has no Unix time in seconds"),
        ("webhook-signature", "v2,abc",
         "a whsec_ secret verifies signatures of version v1, and it has none"),
        ("webhook-signature", "v1,abc",
         "the header webhook-signature holds no signature of this scheme"),
    ],
)  # fmt: skip
def test_flaws(name: str, value: str, expected: str) -> None:
    """The header that is broken is named."""
    assert reason({**headers("standard"), name: value}) == expected


def test_flaws_of_stripe() -> None:
    """A header of stripe without a time is named as well."""
    signed = {"stripe-signature": "v1=00"}
    assert reason(signed) == "the header stripe-signature has no Unix time in seconds"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda body: body + b"\n", "the body without its last line break: something added one"),
        (lambda body: b"\xef\xbb\xbf" + body,
         "the body without its byte order mark: something added it"),
        (lambda body: json.dumps(json.loads(body)).encode(),
         f"the JSON without spaces: {REWRITTEN}"),
        (lambda body: json.dumps(json.loads(body), indent=4).encode(),
         f"the JSON without spaces: {REWRITTEN}"),
    ],
)  # fmt: skip
def test_a_body_that_was_changed(change: Any, expected: str) -> None:
    """A body that something on the way wrote anew is recognised by what was signed."""
    assert reason(headers("standard"), body=change(BODY)) == f"it fits {expected}"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (BODY + b"\n", "the body with a line break at its end: something took it away"),
        (b"", "an empty body: it was signed without its body"),
        (json.dumps(json.loads(BODY)).encode(),
         f"the JSON with spaces and \\u escapes: {REWRITTEN}"),
        (json.dumps(json.loads(BODY), indent=2, ensure_ascii=False).encode(),
         f"the JSON indented by two: {REWRITTEN}"),
    ],
)  # fmt: skip
def test_a_body_that_was_another(sent: bytes, expected: str) -> None:
    """Likewise when the sender signed other bytes than it sent."""
    assert reason(headers("github", body=sent)) == f"it fits {expected}"


def test_line_breaks_that_were_changed() -> None:
    """Both ways of changing line breaks are recognised."""
    unix, dos = b'{\n"a": 1\n}', b'{\r\n"a": 1\r\n}'

    assert "made them CR LF" in str(reason(headers("github", body=unix), body=dos))
    assert "made them LF" in str(reason(headers("github", body=dos), body=unix))


def test_a_secret_that_was_read_another_way() -> None:
    """Both sides have the same secret, and one of them did not decode it, or did."""
    plain = SECRET.removeprefix("whsec_")
    of_text = headers("github")["x-hub-signature-256"].removeprefix("sha256=")
    start = f"{ID}.{NOW}.".encode()

    def standard(key: str) -> Any:
        made = signature(["logto"], [key])(b"", b"", start + BODY)[0][1].decode()
        return {**headers("standard"), "webhook-signature": f"v1,{made}"}

    assert reason(headers("standard"), plain) == (
        "the secret as it was given lacks its whsec_; with it, the signature fits"
    )
    assert reason(standard(SECRET)) == f"{READ} is text with its whsec_, not decoded"
    assert reason(standard(plain)) == f"{READ} is text without its whsec_, not decoded"
    assert reason({"x-hub-signature-256": f"sha256={of_text}"}, f" {SECRET}\n") == (
        "it fits the secret without the spaces or quotes around it"
    )
    key = b64decode(plain).decode("latin-1")
    assert reason(headers("github", secrets=(key,))) == f"{READ} was decoded from base64"
    assert reason(headers("github", secrets=("sesame",)), b"sesame".hex()) == (
        f"{READ} was decoded from hex"
    )


def test_a_signature_that_is_spelled_another_way() -> None:
    """The right HMAC in the wrong letters, or without what stands in front of it."""
    made = sign(SECRET, ID, NOW, BODY).removeprefix("v1,")
    raw = b64decode(made)
    bare = headers("github")["x-hub-signature-256"].removeprefix("sha256=")

    for text in (made, raw.hex(), f"v1,{raw.hex()}", f"v1={made}", f"v1,{made.rstrip('=')}"):
        spelled = {**headers("standard"), "webhook-signature": text}
        assert reason(spelled) == "it is right, but must be written as v1,BASE64"
    assert reason({"x-hub-signature-256": bare}) == (
        "it is right, but must be written as sha256=HEX"
    )


def test_a_signature_over_something_else() -> None:
    """The header of one scheme with the signature of another."""
    body_alone = headers("github")["x-hub-signature-256"].removeprefix("sha256=")
    stripe = {"stripe-signature": f"t={NOW},v1={body_alone}"}

    assert reason(stripe) == "it is made over the body alone, as the scheme github does"


def test_another_secret() -> None:
    """What no trial explains is said to be another secret or another body."""
    end = "another secret signed it, or the body was changed on the way"
    two = headers("standard", secrets=(OTHER, new_secret(b"x" * 32)))

    assert reason(headers("github"), OTHER) == f"it does not fit this secret: {end}"
    assert reason(two) == f"none of its 2 signatures fits this secret: {end}"
    assert reason(headers("github"), OTHER, OTHER) == (
        f"it does not fit any of the 2 secrets: {end}"
    )
    assert reason(headers("standard"), "sesame") == (
        "the scheme standard needs a whsec_ secret in base64, or a whpk_ key"
    )


def test_a_large_body_is_not_tried() -> None:
    """Trying costs time, so a body of more than 1 MiB is only verified."""
    body = b"x" * 1_048_577

    assert judged(headers("github", body=body), body=body).state == "verified"
    assert "another secret" in str(reason(headers("github", body=body), body=body + b"\n"))


hostile = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["v1,", "t=1,v1=", "t=,v1=é", "a b", "sha256=" + "0" * 64, "A" * 43 + "=", "\ud800", str(NOW)]
)
NAMES = ["webhook-id", "webhook-timestamp", "x-slack-request-timestamp"]
NAMES += [SCHEMES[name].headers[-1] for name in SCHEMES if name != "none"]


@given(
    st.binary(max_size=30),
    st.dictionaries(st.sampled_from(NAMES), hostile),
    hostile | st.sampled_from(["whpk_", "whsec_", public_key(PRIVATE), SECRET]),
)
def test_nothing_breaks_it(body: bytes, headers: dict[str, str], secret: str) -> None:
    """Whatever comes, there is a verdict, and it is not `verified`."""
    assert verdict(body, headers, [secret], now=NOW).state in {"wrong", "unsigned", "bad time"}
