"""Which URLs a webhook may have.

A URL is judged when a subscription is stored, by its text alone: an absolute http or
https URL of a host, with nothing in it that two programs could read in two ways.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from .errors import InvalidInput

MAX_URL = 2_048

_PRINTABLE_ASCII = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


def check_url(url: str) -> str:
    """Return `url` if a webhook may be sent there; raises InvalidInput that names the rule.

    check_url("https://example.com/hooks?app=1")
    """
    if not isinstance(url, str) or not _PRINTABLE_ASCII.fullmatch(url) or "\\" in url:
        raise InvalidInput("url", "must be ASCII without spaces, controls and backslashes")
    if len(url) > MAX_URL:
        raise InvalidInput("url", f"must have at most {MAX_URL:,} characters")
    parts = _split(url)
    if parts.scheme not in {"http", "https"}:
        raise InvalidInput("url", "must begin with https:// or http://")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("url", "must not hold a user name or password; use a header")
    if "#" in url:
        raise InvalidInput("url", "must not have a fragment (#...)")
    _check_host(parts)
    return url


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput("url", "is not a URL, or its port is not 1 to 65535") from error
    if port == 0 or parts.netloc.endswith(":"):
        raise InvalidInput("url", "its port must be 1 to 65535")
    return parts


def _check_host(parts: SplitResult) -> None:
    host = parts.hostname or ""
    if not _HOST.fullmatch(host) or any(not p or len(p) > 63 for p in _labels(host)):
        raise InvalidInput("url", "must have a host: a name, an IPv4 or an [IPv6] address")


def _labels(host: str) -> list[str]:
    return [host] if ":" in host else host.removesuffix(".").split(".")
