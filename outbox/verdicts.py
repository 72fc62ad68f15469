"""What to make of a signature: whether it is right, and if it is not, why.

`outbox.verify` says no and means it. Who develops a receiver wants to know what went
wrong, and much of that can be told by trying (`outbox.misfits`).

    verified     it fits, and the time is right
    bad time     it fits, but its time is too far from now
    wrong        it does not fit; the reason says why as far as can be told
    unsigned     there is no header of a signature
    unchecked    there is one, and no secret to verify it with
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import InvalidInput, SignatureInvalid
from .misfits import STARTS, Signed, expected, signature_header, why
from .schemes import SCHEMES
from .signing import PUBLIC_PREFIX, verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERIFIED, BAD_TIME, WRONG = "verified", "bad time", "wrong"
UNSIGNED, UNCHECKED = "unsigned", "unchecked"

_WORST_FIRST = (WRONG, UNSIGNED, BAD_TIME, VERIFIED)
_TIMED = {"standard": "webhook-timestamp", "slack": "x-slack-request-timestamp"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`state` is one of the table above; `reason` says more, if there is more to say."""

    state: str
    scheme: str | None = None
    reason: str | None = None


def verdict(
    body: bytes,
    headers: Mapping[str, str],
    secrets: Sequence[str],
    *,
    now: float,
    schemes: Sequence[str] = (),
    tolerance: float = 300,
) -> Verdict:
    """Return what to make of the signatures of a request.

    Takes the raw body, the headers in any case, the secrets that may have signed, the
    Unix time, and the schemes that must be there; by default those whose headers are.
    The worst of several signatures counts.

    >>> from outbox.signing import sign
    >>> secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    >>> signed = sign(secret, "evt_1", 1614265330, b'{"id":1}')
    >>> headers = {
    ...     "webhook-id": "evt_1", "webhook-timestamp": "1614265330", "webhook-signature": signed,
    ... }
    >>> verdict(b'{"id":1}', headers, [secret], now=1614265330).state
    'verified'
    >>> verdict(b'{"id": 1}', headers, [secret], now=1614265330).reason
    'it fits the JSON without spaces: something on the way wrote it anew'
    """
    named = {name.lower(): value for name, value in headers.items()}
    present = [scheme for scheme in SCHEMES if signature_header(scheme) in named]
    wanted = list(schemes or present)
    if not wanted:
        return Verdict(UNSIGNED, reason="it has no header of a signature")
    if not secrets and any(signature_header(scheme) in named for scheme in wanted):
        return Verdict(UNCHECKED, wanted[0], "no secret was given to verify it with")
    found = []
    for scheme in wanted:
        if signature_header(scheme) not in named:
            found.append(_absent(scheme, present))
        else:
            found.append(_judged(_signed(scheme, named, body), secrets, now, tolerance))
    return min(found, key=lambda one: _WORST_FIRST.index(one.state))


def _absent(scheme: str, present: Sequence[str]) -> Verdict:
    reason = f"the header {signature_header(scheme)} is missing"
    if not present:
        return Verdict(UNSIGNED, scheme, reason)
    others = ", ".join(f"{signature_header(each)} of the scheme {each}" for each in present)
    return Verdict(WRONG, scheme, f"{reason}; it has {others}")


def _signed(scheme: str, headers: Mapping[str, str], body: bytes) -> Signed:
    value = headers[signature_header(scheme)]
    if scheme == "stripe":
        time = next((part[2:] for part in value.split(",") if part.startswith("t=")), "")
    else:
        time = headers.get(_TIMED.get(scheme, ""), "")
    return Signed(scheme, headers.get("webhook-id", ""), time, value, body)


def _judged(signed: Signed, secrets: Sequence[str], now: float, tolerance: float) -> Verdict:
    if (flaw := _flaw(signed)) is not None:
        return Verdict(WRONG, signed.scheme, flaw)
    age = _age(signed, now, tolerance)
    for number, secret in enumerate(secrets, start=1):
        if (place := _place(signed, secret)) is not None:
            reason = age or _whose(number, len(secrets), place)
            return Verdict(BAD_TIME if age else VERIFIED, signed.scheme, reason)
    return Verdict(WRONG, signed.scheme, "; ".join(filter(None, (why(signed, secrets), age))))


def _flaw(signed: Signed) -> str | None:
    """What makes it impossible to know what was signed."""
    if signed.scheme == "standard" and not signed.id:
        return "the header webhook-id is missing"
    if signed.scheme == "standard" and "." in signed.id:
        return "the header webhook-id contains a dot"
    if signed.scheme not in STARTS or re.fullmatch("[0-9]{1,12}", signed.timestamp):
        return None
    where = _TIMED.get(signed.scheme, signature_header(signed.scheme))
    if not signed.timestamp and signed.scheme in _TIMED:
        return f"the header {where} is missing"
    return f"the header {where} has no Unix time in seconds"


def _age(signed: Signed, now: float, tolerance: float) -> str | None:
    if signed.scheme not in STARTS or abs(now - int(signed.timestamp)) <= tolerance:
        return None
    side = "past" if now > int(signed.timestamp) else "future"
    apart = f"{abs(now - int(signed.timestamp)):,.0f} s in the {side}"
    return f"its time is {apart}, more than {tolerance:g} s: it was sent then, or a clock is wrong"


def _place(signed: Signed, secret: str) -> int | None:
    """Return how many signatures of its version stand before the one that `secret` made."""
    is_public = secret.startswith(PUBLIC_PREFIX)
    given = [each for each in signed.signatures if each.startswith("v1a,") == is_public]
    return next((n for n, each in enumerate(given) if _fits(signed, secret, each)), None)


def _fits(signed: Signed, secret: str, given: str) -> bool:
    if secret.startswith(PUBLIC_PREFIX):
        return signed.scheme == "standard" and _verifies(signed, secret, given)
    made = expected(signed, secret)
    spelled = given.encode(errors="surrogatepass")
    return made is not None and hmac.compare_digest(made.encode(), spelled)


def _verifies(signed: Signed, secret: str, given: str) -> bool:
    headers = {
        "webhook-id": signed.id, "webhook-timestamp": signed.timestamp, "webhook-signature": given,
    }  # fmt: skip
    try:
        verify(signed.body, headers, secret, now=float(signed.timestamp))
    except (SignatureInvalid, InvalidInput):
        return False
    return True


def _whose(number: int, secrets: int, place: int) -> str | None:
    if place:  # they stand newest first
        return "by an older secret: the sender has a newer one, whose signature comes first"
    return f"by secret {number} of the {secrets} given" if secrets > 1 else None
