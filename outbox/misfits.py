"""Why a signature does not fit, found by trying what may have gone wrong.

The secret read in another way, the signature of another scheme, the body before something
on the way wrote it anew: one thing at a time is tried, and what fits is the reason. None
of it makes a wrong signature right. It costs some 20 HMACs at most, and bodies of more
than 1 MiB are left alone.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .binary import from_base64, to_base64
from .errors import InvalidInput
from .schemes import parse_scheme, signature
from .signing import PREFIX, PUBLIC_PREFIX, secret_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_TRIED = 1_048_576  # bytes of a body

STARTS = {"standard": "{id}.{timestamp}.", "stripe": "{timestamp}.", "slack": "v0:{timestamp}:"}
_SIGNED = {
    "standard": "id.timestamp.body",
    "stripe": "timestamp.body",
    "slack": "v0:timestamp:body",
    "github": "the body alone",
}
_HMAC = re.compile(r"[0-9A-Fa-f]{64}|[A-Za-z0-9+/_-]{43}=?")


@dataclass(frozen=True, slots=True)
class Signed:
    """What a request says of itself in the headers of a scheme."""

    scheme: str
    id: str
    timestamp: str
    value: str
    body: bytes

    @property
    def signatures(self) -> list[str]:
        """The signatures in the header, in its order."""
        return _split(self.scheme, self.value)

    def start(self, scheme: str) -> bytes:
        """What `scheme` signs before the body."""
        text = STARTS.get(scheme, "").format(id=self.id, timestamp=self.timestamp)
        return text.encode(errors="surrogatepass")


class _Trial(NamedTuple):
    """`reason` is the truth if HMAC of `start` and `body` under `key` is in the header."""

    reason: str
    key: bytes
    start: bytes
    body: bytes


def signature_header(scheme: str) -> str:
    """Return the name of the header that holds the signatures of a scheme; none has none."""
    return parse_scheme(scheme).headers[-1] if scheme != "none" else ""


def expected(signed: Signed, secret: str) -> str | None:
    """Return the signature that `secret` makes, as its scheme writes it; None if it cannot."""
    id, timestamp = signed.id.encode(errors="surrogatepass"), signed.timestamp.encode()
    try:
        headers = signature([signed.scheme], [secret])(id, timestamp, signed.body)
    except (InvalidInput, UnicodeEncodeError):
        return None
    return _split(signed.scheme, headers[-1][1].decode())[-1]


def _split(scheme: str, value: str) -> list[str]:
    if scheme == "standard":
        return value.split(" ")
    if scheme == "stripe":
        return [part for part in value.split(",") if not part.startswith("t=")]
    return [value]


def why(signed: Signed, secrets: Sequence[str]) -> str:
    """Return why no signature in `signed` is of one of `secrets`, as far as can be told."""
    given = _hmacs(signed.value)
    trials = _trials(signed, secrets) if given and len(signed.body) <= MAX_TRIED else ()
    for reason, key, start, body in trials:
        made = hmac.digest(key, start + body, "sha256")
        if any(hmac.compare_digest(made, each) for each in given):
            return reason
    return _unfit(signed, secrets) or _unknown(signed, secrets)


def _hmacs(value: str) -> list[bytes]:
    """All that may be HMACs in a header, however they are written."""
    return [_decoded(found) for found in _HMAC.findall(value)]


def _decoded(text: str) -> bytes:
    if len(text) == 64:
        return bytes.fromhex(text)
    return from_base64(text.rstrip("=").replace("-", "+").replace("_", "/") + "=") or b""


# What may have gone wrong.


def _trials(signed: Signed, secrets: Sequence[str]) -> Iterator[_Trial]:
    start, body = signed.start(signed.scheme), signed.body
    for secret in secrets:
        key = _key(signed.scheme, secret)
        for reason, other in _other_keys(signed.scheme, secret):
            if other != key:
                yield _Trial(reason, other, start, body)
        if key is not None:
            yield from _same_key(signed, key, _form(signed, secret))


def _same_key(signed: Signed, key: bytes, form: str) -> Iterator[_Trial]:
    start, body = signed.start(signed.scheme), signed.body
    yield _Trial(f"it is right, but must be written as {form}", key, start, body)
    for scheme, content in _SIGNED.items():
        reason = f"it is made over {content}, as the scheme {scheme} does"
        yield _Trial(reason, key, signed.start(scheme), body)
    for what, other in _other_bodies(body):
        yield _Trial(f"it fits {what}", key, start, other)


def _key(scheme: str, secret: str) -> bytes | None:
    """Return the key that `secret` is to a scheme, None if it cannot be one."""
    if secret.startswith(PUBLIC_PREFIX):
        return None
    if scheme != "standard":
        return secret.encode(errors="surrogatepass")
    try:
        return secret_key(secret)
    except InvalidInput:
        return None


def _other_keys(scheme: str, secret: str) -> Iterator[tuple[str, bytes]]:
    text = secret.strip().strip("'\"")
    plain = text.removeprefix(PREFIX)
    if text != secret:
        yield "it fits the secret without the spaces or quotes around it", _utf8(text)
    if (decoded := from_base64(plain)) is not None:
        bare = scheme == "standard" and plain == text
        yield _WITH_PREFIX if bare else f"{_AS_IF}was decoded from base64", decoded
    yield f"{_AS_IF}is text with its {PREFIX}, not decoded", _utf8(text)
    yield f"{_AS_IF}is text without its {PREFIX}, not decoded", _utf8(plain)
    if re.fullmatch("(?:[0-9A-Fa-f]{2})+", plain):
        yield f"{_AS_IF}was decoded from hex", bytes.fromhex(plain)


_AS_IF = "the sender reads the secret another way: it fits if the secret "
_WITH_PREFIX = f"the secret as it was given lacks its {PREFIX}; with it, the signature fits"


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _other_bodies(body: bytes) -> Iterator[tuple[str, bytes]]:
    with_lf = body.replace(b"\r\n", b"\n")
    yield "the body without its last line break: something added one", body.rstrip(b"\r\n")
    yield "the body with a line break at its end: something took it away", body + b"\n"
    yield "the body with LF line breaks: something made them CR LF", with_lf
    yield "the body with CR LF line breaks: something made them LF", with_lf.replace(b"\n", b"\r\n")
    yield "the body without its byte order mark: something added it", body.removeprefix(_BOM)
    yield "an empty body: it was signed without its body", b""
    try:
        value = json.loads(body)
        for way, options in _WRITERS.items():
            text = json.dumps(value, **options).encode(errors="surrogatepass")
            yield f"the JSON {way}: something on the way wrote it anew", text
    except (ValueError, RecursionError):
        return


_BOM = b"\xef\xbb\xbf"
_WRITERS: dict[str, dict[str, Any]] = {
    "without spaces": {"separators": (",", ":"), "ensure_ascii": False},
    "with a space behind commas and colons": {"ensure_ascii": False},
    "without spaces and with \\u escapes": {"separators": (",", ":")},
    "with spaces and \\u escapes": {},
    "without spaces, its keys sorted": {
        "separators": (",", ":"), "ensure_ascii": False, "sort_keys": True,
    },
    "indented by two": {"indent": 2, "ensure_ascii": False},
}  # fmt: skip


def _form(signed: Signed, secret: str) -> str:
    """How the scheme writes a signature, such as `sha256=HEX`."""
    made = expected(signed, secret) or ""
    raw = next(iter(_hmacs(made)), b"")
    return made.replace(raw.hex(), "HEX").replace(to_base64(raw), "BASE64")


# What is left to say.


def _unfit(signed: Signed, secrets: Sequence[str]) -> str | None:
    """What is the matter with the kind of the secrets, or of the signatures."""
    if signed.scheme != "standard":
        return None
    public = any(secret.startswith(PUBLIC_PREFIX) for secret in secrets)
    shared = any(_key("standard", secret) is not None for secret in secrets)
    versions = {each.partition(",")[0] for each in signed.signatures}
    if not public and not shared:
        return f"the scheme standard needs a {PREFIX} secret in base64, or a {PUBLIC_PREFIX} key"
    if not shared and "v1a" not in versions:
        return f"a {PUBLIC_PREFIX} key verifies signatures of version v1a, and it has none"
    if not public and "v1" not in versions:
        return f"a {PREFIX} secret verifies signatures of version v1, and it has none"
    return None


def _unknown(signed: Signed, secrets: Sequence[str]) -> str:
    if not _hmacs(signed.value):
        return f"the header {signature_header(signed.scheme)} holds no signature of this scheme"
    given, whose = len(signed.signatures), "this secret"
    if len(secrets) > 1:
        whose = f"any of the {len(secrets)} secrets"
    which = f"none of its {given} signatures fits" if given > 1 else "it does not fit"
    return f"{which} {whose}: another secret signed it, or the body was changed on the way"
