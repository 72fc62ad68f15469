"""Bytes as text: standard base64 with padding, and only one spelling for each.

A lenient decoder skips what it does not know, so that a secret that was copied wrongly
becomes another key and every signature is wrong; a strict one says so at once.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64


def to_base64(raw: bytes) -> str:
    """Return `raw` in standard base64 with padding (RFC 4648, section 4).

    >>> to_base64(bytes(2))
    'AAA='
    """
    return b2a_base64(raw, newline=False).decode()


def from_base64(text: str) -> bytes | None:
    """Return the bytes that `text` stands for, None if `to_base64` would not write it so.

    >>> from_base64("AAA="), from_base64("AAB="), from_base64("AA-_")
    (b'\\x00\\x00', None, None)
    """
    try:
        raw = a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    return raw if to_base64(raw) == text else None
