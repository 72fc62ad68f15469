"""How requests are signed: by the scheme, or the schemes, that a receiver verifies.

    scheme       header                            signed               value
    standard     webhook-signature                 id.timestamp.body    v1,BASE64 v1a,BASE64 …
    github       x-hub-signature-256               body                 sha256=HEX
    stripe       stripe-signature                  timestamp.body       t=TIMESTAMP,v1=HEX,v1=HEX …
    slack        x-slack-signature, and            v0:timestamp:body    v0=HEX
                 x-slack-request-timestamp
    shopify      x-shopify-hmac-sha256             body                 BASE64
    logto        logto-signature-sha-256           body                 HEX
    hmac:…       a name of one's own               body                 PREFIX and HEX or BASE64
    none

All but `none` are HMAC-SHA256; `standard` also signs with ed25519 (`outbox.signing`). It
decodes its secrets, the others take the text of a secret as it is. Where a header has
room for several signatures, `standard` and `stripe`, every live secret signs, newest
first; where it has room for one, its receivers compare for equality and the newest
secret alone signs. A `whsk_` key signs `standard` only: it is nobody's to share.

A scheme is one function, which takes the secrets and returns what signs, and one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .binary import to_base64
from .encoding import check_text
from .errors import InvalidInput
from .headers import check_name
from .signing import PREFIX, PRIVATE_PREFIX, Signer, hmac_sha256, signer

MAX_SCHEMES = 5
MAX_SECRET = 255  # characters
MAX_HMAC_PREFIX = 64

Headers = tuple[tuple[bytes, bytes], ...]
Sign = Callable[[bytes, bytes, bytes], Headers]  # of an id, a timestamp and a body


class Scheme(NamedTuple):
    """`headers` are the names it sets; `make` returns what signs with secrets, newest first.

    `fits` tells whether it can sign with a secret.
    """

    headers: tuple[str, ...]
    make: Callable[[Sequence[str]], Sign]
    fits: Callable[[str], bool]


def check_schemes(schemes: Sequence[str]) -> tuple[str, ...]:
    """Return `schemes` if one subscription can have them all; raises InvalidInput.

    >>> check_schemes(["standard", "hmac:X-Signature:hex:sha256="])
    ('standard', 'hmac:X-Signature:hex:sha256=')
    """
    if not 1 <= len(schemes) <= MAX_SCHEMES:
        raise InvalidInput("scheme", f"there must be 1 to {MAX_SCHEMES}")
    if "none" in schemes and len(schemes) > 1:
        raise InvalidInput("scheme", "none stands alone")
    names = header_names(schemes)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput("scheme", f"two of them would set the header {twice}")
    return tuple(schemes)


def header_names(schemes: Sequence[str]) -> list[str]:
    """Return the lower-case names of the headers that `schemes` set."""
    return [name for scheme in schemes for name in parse_scheme(scheme).headers]


def check_secret(secret: str, schemes: Sequence[str]) -> str:
    """Return `secret` if each of `schemes` can sign with it.

    Raises InvalidInput, whose message never holds the secret.
    """
    signature(schemes, [check_text("secret", secret, MAX_SECRET)])
    return secret


def signature(schemes: Sequence[str], secrets: Sequence[str]) -> Sign:
    """Return what signs with all of `schemes`; `secrets` are the live ones, newest first.

    Raises InvalidInput for a scheme without a secret that fits: nothing goes out unsigned.
    """
    makers = [_sign(scheme, secrets) for scheme in schemes]
    if len(makers) == 1:
        return makers[0]
    return lambda id, timestamp, body: tuple(
        header for sign in makers for header in sign(id, timestamp, body)
    )


def _sign(name: str, secrets: Sequence[str]) -> Sign:
    scheme = parse_scheme(name)
    fitting = [secret for secret in secrets if scheme.fits(secret)]
    if not fitting and scheme.headers:
        live = "there is none that is still valid" if not secrets else _unfit(name)
        raise InvalidInput("secret", live)
    return scheme.make(fitting)


def _unfit(scheme: str) -> str:
    if scheme == "standard":
        return f"the scheme standard needs a {PREFIX} secret or a {PRIVATE_PREFIX} key"
    return f"the scheme {scheme.partition(':')[0]} cannot sign with a {PRIVATE_PREFIX} key"


# The schemes.


def _standard(secrets: Sequence[str]) -> Sign:
    signers = [signer(secret) for secret in secrets]

    def sign(id: bytes, timestamp: bytes, body: bytes) -> Headers:
        start = b"%s.%s." % (id, timestamp)
        return ((b"webhook-signature", b" ".join([one(start, body) for one in signers])),)

    return sign


def _stripe(secrets: Sequence[str]) -> Sign:
    digests = [hmac_sha256(secret.encode()) for secret in secrets]

    def sign(_id: bytes, timestamp: bytes, body: bytes) -> Headers:
        start = timestamp + b"."
        values = "".join([f",v1={digest(start, body).hex()}" for digest in digests])
        return ((b"stripe-signature", b"t=%s%s" % (timestamp, values.encode())),)

    return sign


def _slack(secrets: Sequence[str]) -> Sign:
    digest = _newest(secrets)

    def sign(_id: bytes, timestamp: bytes, body: bytes) -> Headers:
        value = "v0=" + digest(b"v0:%s:" % timestamp, body).hex()
        time = (b"x-slack-request-timestamp", timestamp)
        return time, (b"x-slack-signature", value.encode())

    return sign


def _body_hmac(header: str, encode: Callable[[bytes], str], prefix: str = "") -> Scheme:
    """A scheme that signs the body alone, as several services do."""
    name, start = header.lower().encode(), prefix.encode()

    def make(secrets: Sequence[str]) -> Sign:
        digest = _newest(secrets)
        return lambda _id, _timestamp, body: ((name, start + encode(digest(b"", body)).encode()),)

    return Scheme((header.lower(),), make, _is_text)


def _none(_secrets: Sequence[str]) -> Sign:
    return lambda _id, _timestamp, _body: ()


def _newest(secrets: Sequence[str]) -> Signer:
    return hmac_sha256(secrets[0].encode())


def _is_standard(secret: str) -> bool:
    return secret.startswith((PREFIX, PRIVATE_PREFIX))


def _is_text(secret: str) -> bool:
    return not secret.startswith(PRIVATE_PREFIX)


def _is_any(_secret: str) -> bool:
    return True


_hex = bytes.hex

SCHEMES = {
    "standard": Scheme(("webhook-signature",), _standard, _is_standard),
    "github": _body_hmac("x-hub-signature-256", _hex, "sha256="),
    "stripe": Scheme(("stripe-signature",), _stripe, _is_text),
    "slack": Scheme(("x-slack-request-timestamp", "x-slack-signature"), _slack, _is_text),
    "shopify": _body_hmac("x-shopify-hmac-sha256", to_base64),
    "logto": _body_hmac("logto-signature-sha-256", _hex),
    "none": Scheme((), _none, _is_any),
}

_ENCODINGS: dict[str, Callable[[bytes], str]] = {"hex": _hex, "base64": to_base64}
_RULE = f"must be one of {', '.join(SCHEMES)}, or hmac:HEADER:hex|base64[:PREFIX]"


def parse_scheme(text: str) -> Scheme:
    """Return the scheme that `text` names. Raises InvalidInput."""
    if not isinstance(text, str):
        raise InvalidInput("scheme", _RULE)
    if text in SCHEMES:
        return SCHEMES[text]
    kind, _, rest = text.partition(":")
    header, _, rest = rest.partition(":")
    encoding, _, prefix = rest.partition(":")
    if kind != "hmac" or encoding not in _ENCODINGS:
        raise InvalidInput("scheme", _RULE)
    return _body_hmac(check_name(header), _ENCODINGS[encoding], _check_prefix(prefix))


def _check_prefix(prefix: str) -> str:
    if len(prefix) > MAX_HMAC_PREFIX or not prefix.isascii() or not prefix.isprintable():
        rule = f"the prefix of hmac must be at most {MAX_HMAC_PREFIX} printable ASCII characters"
        raise InvalidInput("scheme", rule)
    if prefix != prefix.lstrip():
        raise InvalidInput("scheme", "the prefix of hmac must not begin with a space")
    return prefix
