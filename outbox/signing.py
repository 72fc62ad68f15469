"""Signatures by Standard Webhooks 1.0 (https://www.standardwebhooks.com).

What is signed is `id.timestamp.body`: the event's id, the Unix second of this attempt
and the exact bytes of the body. A receiver that verifies it knows that the webhook is
ours, whole, and of this minute:

    webhook-id: 0190163d-8694-739b-aea5-966c26f8ad91
    webhook-timestamp: 1614265330
    webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=

    whsec_   a secret that sender and receiver share     v1    HMAC-SHA256
    whsk_    a key that only the sender has              v1a   ed25519
    whpk_    its public half, which verifies

A sender calls `signer`, a receiver `verify`. Neither decodes leniently: a secret that
another library would read as another key is refused here.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .binary import from_base64, to_base64
from .errors import InvalidInput, SignatureInvalid

PREFIX = "whsec_"
PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
MIN_KEY = 24
MAX_KEY = 64

Signer = Callable[[bytes, bytes], bytes]  # of a start and a body
Verifier = Callable[[bytes, list[str]], bool]  # of what was signed and the signatures given

_KEY_RULE = f"must be {MIN_KEY} to {MAX_KEY} random bytes"
_SECRET_RULE = f"must be {PREFIX} and {MIN_KEY} to {MAX_KEY} bytes in standard base64 with padding"
_PRIVATE_RULE = f"must be {PRIVATE_PREFIX} and an ed25519 key in base64: its seed, or seed + public"
_PUBLIC_RULE = f"must be {PUBLIC_PREFIX} and the 32 bytes of an ed25519 public key in base64"
_HALVES_RULE = f"is a {PRIVATE_PREFIX} key whose two halves do not belong together"


# Keys as people carry them.


def new_secret(random_bytes: bytes) -> str:
    """Return the secret made of `random_bytes`, as a person stores it at the receiver.

    Takes 24 to 64 bytes from a cryptographic source; 32 are the advice
    (`secrets.token_bytes(32)`). Raises `InvalidInput` for any other number.

    >>> new_secret(bytes(24))
    'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    if not MIN_KEY <= len(random_bytes) <= MAX_KEY:
        raise InvalidInput("secret", _KEY_RULE)
    return PREFIX + to_base64(random_bytes)


def new_private_key(seed: bytes) -> str:
    """Return the `whsk_` key of `seed`, 32 bytes from a cryptographic source."""
    if len(seed) != 32:
        raise InvalidInput("secret", "must be 32 random bytes")
    return PRIVATE_PREFIX + to_base64(seed + _public(Ed25519PrivateKey.from_private_bytes(seed)))


def public_key(secret: str) -> str:
    """Return the `whpk_` key that verifies what the `whsk_` key `secret` signs.

    >>> public_key(new_private_key(bytes(32)))
    'whpk_O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik='
    """
    return PUBLIC_PREFIX + to_base64(_public(_private_key(secret)))


def secret_key(secret: str) -> bytes:
    """Return the key, 24 to 64 bytes, that the `whsec_` secret stands for.

    Raises `InvalidInput` for anything but `whsec_` and strict base64; its message
    never holds the secret.

    >>> secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")[:4].hex()
    '31f290f6'
    """
    key = _after(PREFIX, secret)
    if key is None or not MIN_KEY <= len(key) <= MAX_KEY:
        raise InvalidInput("secret", _SECRET_RULE)
    return key


def _private_key(secret: str) -> Ed25519PrivateKey:
    raw = _after(PRIVATE_PREFIX, secret)
    if raw is None or len(raw) not in {32, 64}:
        raise InvalidInput("secret", _PRIVATE_RULE)
    key = Ed25519PrivateKey.from_private_bytes(raw[:32])
    if raw[32:] not in {b"", _public(key)}:
        raise InvalidInput("secret", _HALVES_RULE)
    return key


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _after(prefix: str, text: object) -> bytes | None:
    if not isinstance(text, str) or not text.startswith(prefix):
        return None
    return from_base64(text.removeprefix(prefix))


# For senders.


def signer(secret: str) -> Signer:
    """Return what signs with `secret`: called with `id.timestamp.` and the body, as bytes.

    A `whsec_` secret signs `v1,…`, a `whsk_` key `v1a,…`. Raises `InvalidInput` for
    any other.
    """
    if isinstance(secret, str) and secret.startswith(PRIVATE_PREFIX):
        return _ed25519(_private_key(secret))
    return _v1(secret_key(secret))


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of one attempt, such as `v1,g0hM9S…`.

    Takes the event's id, which has no dot, the Unix second of the attempt and the
    bytes that will be sent.

    >>> secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    >>> sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    return signer(secret)(_start(id, str(timestamp)), body).decode()


_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def hmac_sha256(key: bytes) -> Signer:
    """Return HMAC-SHA256 under `key` (RFC 2104) of a start and a body.

    The two hashes of the key are made once: that is 2.5 times as fast as `hmac.digest`.
    """
    block = (key if len(key) <= 64 else sha256(key).digest()).ljust(64, b"\0")
    inner = sha256(block.translate(_INNER))
    outer = sha256(block.translate(_OUTER))

    def digest(start: bytes, body: bytes) -> bytes:
        within, around = inner.copy(), outer.copy()
        within.update(start)
        within.update(body)
        around.update(within.digest())
        return around.digest()

    return digest


def _v1(key: bytes) -> Signer:
    digest = hmac_sha256(key)
    return lambda start, body: b"v1," + to_base64(digest(start, body)).encode()


def _ed25519(key: Ed25519PrivateKey) -> Signer:
    return lambda start, body: b"v1a," + to_base64(key.sign(start + body)).encode()


# For receivers.


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    now: float,
    tolerance: float = 300,
) -> None:
    """Return if the webhook is genuine, else raise `SignatureInvalid` with the reason.

    For receivers. Takes the raw body as it arrived, the request's headers in any case,
    the `whsec_…` secret or the `whpk_…` key or several of them, the Unix time and how
    many seconds the webhook's own time may differ from it. A malformed secret raises
    `InvalidInput`. Why a signature does not fit, `outbox.verdicts` tells by trying.

    >>> import time
    >>> secret, id, now = new_secret(bytes(32)), "evt_1", int(time.time())
    >>> headers = {
    ...     "Webhook-Id": id,
    ...     "Webhook-Timestamp": str(now),
    ...     "Webhook-Signature": sign(secret, id, now, b"{}"),
    ... }
    >>> verify(b"{}", headers, secret, now=time.time())
    >>> verify(b"{ }", headers, secret, now=time.time())
    Traceback (most recent call last):
    outbox.errors.SignatureInvalid: signature: none of the signatures fits this body
    """
    verifiers = _verifiers(secret)
    if not isinstance(body, bytes | bytearray | memoryview):
        raise SignatureInvalid(f"the body must be the bytes received, not {type(body).__name__}")
    id, timestamp, given = _webhook_headers(headers)
    _check_time(timestamp, now, tolerance)
    content, signatures = b"".join((_start(id, timestamp), body)), given.split(" ")
    if not any(fits(content, signatures) for fits in verifiers):
        raise SignatureInvalid(_misfit(signatures, secret))


def _verifiers(secret: str | Sequence[str]) -> list[Verifier]:
    if isinstance(secret, str) or not isinstance(secret, Sequence):
        return [_verifier(secret)]
    if not secret:
        raise InvalidInput("secret", "there is none to verify with")
    return [_verifier(each) for each in secret]


def _verifier(secret: str) -> Verifier:
    if isinstance(secret, str) and secret.startswith(PUBLIC_PREFIX):
        return _public_verifier(secret)
    if isinstance(secret, str) and secret.startswith(PRIVATE_PREFIX):
        raise InvalidInput("secret", f"is the sender's own; verify with its {PUBLIC_PREFIX} key")
    sign = _v1(secret_key(secret))

    def fits(content: bytes, given: list[str]) -> bool:
        """Text with text, in constant time: nothing but strict base64 can be equal."""
        expected = sign(content, b"")
        return any(hmac.compare_digest(expected, _bytes(each)) for each in given)

    return fits


def _public_verifier(text: str) -> Verifier:
    raw = _after(PUBLIC_PREFIX, text)
    if raw is None or len(raw) != 32:
        raise InvalidInput("secret", _PUBLIC_RULE)
    key = Ed25519PublicKey.from_public_bytes(raw)
    return lambda content, given: any(_is_signed(key, each, content) for each in given)


def _is_signed(key: Ed25519PublicKey, given: str, content: bytes) -> bool:
    signature = _after("v1a,", given)
    if signature is None:
        return False
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _webhook_headers(headers: Mapping[str, str]) -> tuple[str, str, str]:
    found = {str(name).lower(): str(value) for name, value in headers.items()}
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if not found.get(name):
            raise SignatureInvalid(f"the header {name} is missing")
    if "." in found["webhook-id"]:  # `1.2` and `3` would sign the same as `1` and `2.3`
        raise SignatureInvalid("the header webhook-id contains a dot")
    return found["webhook-id"], found["webhook-timestamp"], found["webhook-signature"]


def _check_time(timestamp: str, now: float, tolerance: float) -> None:
    if not re.fullmatch("[0-9]{1,12}", timestamp):
        raise SignatureInvalid("the header webhook-timestamp is no Unix time in seconds")
    if not abs(now - int(timestamp)) <= tolerance:  # this way round a NaN is refused
        side = "past" if now > int(timestamp) else "future"
        apart = f"{abs(now - int(timestamp)):,.0f} s in the {side}"
        raise SignatureInvalid(f"the webhook's time is {apart}, more than {tolerance:g} s")


def _misfit(signatures: list[str], secret: str | Sequence[str]) -> str:
    secrets = [secret] if isinstance(secret, str) else secret
    wanted = sorted({"v1a" if each.startswith(PUBLIC_PREFIX) else "v1" for each in secrets})
    if any(given.partition(",")[0] in wanted for given in signatures):
        return "none of the signatures fits this body"
    return f"none of the signatures is of version {' or '.join(wanted)}, as the secret is"


def _start(id: str, timestamp: str) -> bytes:
    return _bytes(f"{id}.{timestamp}.")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # a hostile header may hold lone surrogates
