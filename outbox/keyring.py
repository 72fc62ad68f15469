"""Secrets at rest: sealed with AES-256-GCM, each bound to its row.

`OUTBOX_SECRET_KEY` holds one key or several, by commas: the first seals, all of them
open. So a new key is put in front, `outbox secrets reseal` moves every secret to it, and
the old one is taken away. Without a key, secrets are stored in clear.

What is sealed is bound to the ids of the secret, of its subscription and of the key: in
another row it does not open. It is kept as base64 of nonce and ciphertext (RFC 5116; the
nonce is random, 96 bits).
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import TYPE_CHECKING, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .binary import from_base64, to_base64
from .errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VARIABLE = "OUTBOX_SECRET_KEY"
KEY_SIZE = 32
NONCE_SIZE = 12
IN_CLEAR = f"Secrets are stored in clear: {VARIABLE} is not set."

KEY_RULE = (
    f"must be {KEY_SIZE} random bytes in base64, or several such keys by commas; "
    "`outbox secrets new-key` makes one"
)


class StoredSecret(NamedTuple):
    """A row of `outbox.secret`; `expires_at` in Unix seconds, `key_id` None if in clear."""

    id: str
    key_id: str | None
    sealed: str
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys that seal and open, the sealing one first. Without any: in clear."""

    keys: Mapping[str, AESGCM] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, text: str | None = None) -> Keyring:
        """Return the keys of `text`, or else of OUTBOX_SECRET_KEY. Raises InvalidInput.

        >>> Keyring.read(to_base64(bytes(32))).sealing_key
        '2d16e1b06d8b'
        """
        text = os.environ.get(VARIABLE, "") if text is None else text
        if not text.strip():
            return cls()
        raw = [_key(each.strip()) for each in text.split(",")]
        return cls({_key_id(key): AESGCM(key) for key in raw})

    @property
    def sealing_key(self) -> str | None:
        """The id of the key that seals, None without keys."""
        return next(iter(self.keys), None)

    def check(self, key_ids: Iterable[str]) -> None:
        """Raise InvalidInput unless all of `key_ids`, which sealed secrets, are here."""
        lacking = [key_id for key_id in key_ids if key_id not in self.keys]
        if lacking:
            raise InvalidInput(
                VARIABLE, f"lacks the key {', '.join(lacking)} that secrets are sealed with"
            )

    def seal(self, secret: str, *, id: object, subscription_id: object) -> tuple[str | None, str]:
        """Return the id of the key and `secret` sealed for the row `id`; without keys in clear."""
        key_id = self.sealing_key
        if key_id is None:
            return None, secret
        nonce = token_bytes(NONCE_SIZE)
        bound = _bound(subscription_id, id, key_id)
        return key_id, to_base64(nonce + self.keys[key_id].encrypt(nonce, secret.encode(), bound))

    def open(self, stored: StoredSecret, *, subscription_id: object) -> str:
        """Return the secret of a row. Raises InvalidInput if it does not open with these keys."""
        if stored.key_id is None:
            return stored.sealed
        key = self.keys.get(stored.key_id)
        if key is None:
            raise InvalidInput("secret", f"{VARIABLE} lacks the key {stored.key_id} that sealed it")
        raw = from_base64(stored.sealed) or b""
        bound = _bound(subscription_id, stored.id, stored.key_id)
        try:
            return key.decrypt(raw[:NONCE_SIZE], raw[NONCE_SIZE:], bound).decode()
        except (InvalidTag, ValueError):
            raise InvalidInput("secret", "it does not open: its row was changed") from None


def new_key() -> str:
    """Return a new key for OUTBOX_SECRET_KEY."""
    return to_base64(token_bytes(KEY_SIZE))


def _key(text: str) -> bytes:
    key = from_base64(text)
    if key is None or len(key) != KEY_SIZE:
        raise InvalidInput(VARIABLE, KEY_RULE)
    return key


def _key_id(key: bytes) -> str:
    """A name that tells nothing of the key."""
    return hmac.digest(key, b"outbox key id", "sha256")[:6].hex()


def _bound(subscription_id: object, id: object, key_id: str) -> bytes:
    return f"{subscription_id}|{id}|{key_id}".encode()
