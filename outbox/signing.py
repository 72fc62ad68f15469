"""Signatures by Standard Webhooks v1 (https://www.standardwebhooks.com, symmetric).

What is signed is `id.timestamp.body`: the event's id, the Unix second of this attempt
and the exact bytes of the body, with HMAC-SHA256 under each live secret. A receiver
that shares one secret knows that the webhook is ours, whole, and of this minute:

    webhook-id: 0190163d-8694-739b-aea5-966c26f8ad91
    webhook-timestamp: 1614265330
    webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=

A sender calls `signature_header`, a receiver `verify`. Neither decodes leniently:
a secret that another library would read as another key is refused here.
"""

from __future__ import annotations

import hmac
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence

from .errors import InvalidInput, SignatureInvalid

PREFIX = "whsec_"
MIN_KEY = 24
MAX_KEY = 64

_KEY_RULE = f"must be {MIN_KEY} to {MAX_KEY} random bytes"
_SECRET_RULE = f"must be {PREFIX} and {MIN_KEY} to {MAX_KEY} bytes in standard base64 with padding"


def new_secret(random_bytes: bytes) -> str:
    """Return the secret made of `random_bytes`, as a person stores it at the receiver.

    Takes 24 to 64 bytes from a cryptographic source; 32 are the advice
    (`secrets.token_bytes(32)`). Raises `InvalidInput` for any other number.

    >>> new_secret(bytes(24))
    'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    if not MIN_KEY <= len(random_bytes) <= MAX_KEY:
        raise InvalidInput("secret", _KEY_RULE)
    return PREFIX + _base64(random_bytes)


def secret_key(secret: str) -> bytes:
    """Return the key, 24 to 64 bytes, that `secret` stands for.

    Raises `InvalidInput` for anything but `whsec_` and strict base64; its message
    never holds the secret.

    >>> secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")[:4].hex()
    '31f290f6'
    """
    if not isinstance(secret, str) or not secret.startswith(PREFIX):
        raise InvalidInput("secret", _SECRET_RULE)
    key = _strict_base64(secret.removeprefix(PREFIX))
    if key is None or not MIN_KEY <= len(key) <= MAX_KEY:
        raise InvalidInput("secret", _SECRET_RULE)
    return key


def sign(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of one attempt, such as `v1,g0hM9S…`.

    Takes a key of `secret_key`, the event's id, which has no dot, the Unix second
    of the attempt and the bytes that will be sent.

    >>> key = secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    return _signature(key, _content(id, str(timestamp), body))


def signature_header(keys: Sequence[bytes], id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one signature for each key, in their order.

    Give the newest key first; an older one stays until its receiver has changed over.
    Raises `InvalidInput` without a key, since nothing goes out unsigned.

    >>> keys = [bytes(24), bytes(32)]
    >>> len(signature_header(keys, "evt_1", 1614265330, b"{}").split(" "))
    2
    """
    if not keys:
        raise InvalidInput("secret", "there is none to sign with")
    content = _content(id, str(timestamp), body)
    return " ".join([_signature(key, content) for key in keys])


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
    the `whsec_…` secret or several of them, the Unix time and how many seconds the
    webhook's own time may differ from it. A malformed secret raises `InvalidInput`.

    >>> import time
    >>> secret, id, now = new_secret(bytes(32)), "evt_1", int(time.time())
    >>> headers = {
    ...     "Webhook-Id": id,
    ...     "Webhook-Timestamp": str(now),
    ...     "Webhook-Signature": sign(secret_key(secret), id, now, b"{}"),
    ... }
    >>> verify(b"{}", headers, secret, now=time.time())
    >>> verify(b"{ }", headers, secret, now=time.time())
    Traceback (most recent call last):
    outbox.errors.SignatureInvalid: signature: none of the signatures fits this body
    """
    keys = _keys(secret)
    if not isinstance(body, bytes | bytearray | memoryview):
        raise SignatureInvalid(f"the body must be the bytes received, not {type(body).__name__}")
    id, timestamp, signatures = _webhook_headers(headers)
    _check_time(timestamp, now, tolerance)
    content = _content(id, timestamp, body)
    if not _any_equal([_signature(key, content) for key in keys], signatures.split(" ")):
        raise SignatureInvalid("none of the signatures fits this body")


def _keys(secret: str | Sequence[str]) -> list[bytes]:
    if isinstance(secret, str) or not isinstance(secret, Sequence):
        return [secret_key(secret)]
    if not secret:
        raise InvalidInput("secret", "there is none to verify with")
    return [secret_key(each) for each in secret]


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
        raise SignatureInvalid(f"the webhook's time differs by more than {tolerance:g} s")


def _any_equal(expected: list[str], given: list[str]) -> bool:
    """Compare text with text, in constant time: nothing but strict base64 can be equal."""
    pairs = ((_bytes(a), _bytes(b)) for a in expected for b in given)
    return any(hmac.compare_digest(a, b) for a, b in pairs)


def _content(id: str, timestamp: str, body: bytes) -> bytes:
    return b"".join((_bytes(f"{id}.{timestamp}."), body))


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # a hostile header may hold lone surrogates


def _signature(key: bytes, content: bytes) -> str:
    return "v1," + _base64(hmac.digest(key, content, "sha256"))


def _base64(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).decode()


def _strict_base64(text: str) -> bytes | None:
    try:
        raw = a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    return raw if _base64(raw) == text else None  # one spelling for each key
