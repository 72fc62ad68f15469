"""Where webhooks may go: which URLs are stored, and which addresses are connected to.

A URL is judged twice. `check_url` judges its text when a subscription is stored;
`Allowed.address` judges every address that its host has at the moment of each
connection, because what a name means can change in between (DNS rebinding).

Public addresses are allowed, and what the operator adds to them. The table is our own,
as Python's `ipaddress.is_global` differs between releases and lets some through: of IPv4
everything but what IANA's registry of special purposes lists (RFC 6890), of IPv6 nothing
but global unicast (2000::/3, RFC 4291) without its special parts.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import idna

from .errors import InvalidInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL = 2_048

_NOT_PUBLIC = tuple(map(IPv4Network, (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32",
    "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
    "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
)))  # fmt: skip
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(map(IPv6Network, (
    "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)))  # fmt: skip
# Names that the public DNS never has (RFC 6761, 6762, 8375; ICANN reserved .internal).
_PRIVATE_NAME = re.compile(r"[^.]+|(.+\.)?(localhost|local|internal|home\.arpa)")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an operator allows besides public addresses.

    `networks` are allowed under any name. A host whose name fits one of `names` (a name,
    or `*.` and the end of one) may have any address.
    """

    networks: tuple[Network, ...] = ()
    names: tuple[str, ...] = ()

    def address(self, address: str, host: str = "") -> bool:
        """Return whether a connection may be made to `address`, found under the name `host`.

        >>> Allowed().address("169.254.169.254"), Allowed().address("::ffff:8.8.8.8")
        (False, True)
        """
        found = _unwrapped(address)
        return found is not None and (_is_public(found) or self.explicitly(address, host))

    def explicitly(self, address: str, host: str = "") -> bool:
        """Return whether the operator allowed it, be it public or not."""
        found = _unwrapped(address)
        return found is not None and (
            any(found in network for network in self.networks) or self.name(host)
        )

    def name(self, host: str) -> bool:
        """Return whether `host` is a name that may have any address."""
        host = host.lower().removesuffix(".")
        return any(
            host == name or (name.startswith("*.") and host.endswith(name[1:]))
            for name in self.names
        )


PUBLIC = Allowed()
ANYWHERE = Allowed((IPv4Network("0.0.0.0/0"), IPv6Network("::/0")))  # form alone is judged


def parse_allow(text: str) -> Allowed:
    """Return what `text` allows: networks, addresses and names, separated by commas.

    >>> parse_allow("127.0.0.0/8, *.internal.example").names
    ('*.internal.example',)
    """
    networks: list[Network] = []
    names: list[str] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ip_network(item))
        except ValueError:
            names.append(_pattern(item))
    return Allowed(tuple(networks), tuple(names))


def is_address(host: str) -> bool:
    """Return whether `host`, of a URL and without its brackets, is an address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def check_url(url: str, *, allow: Allowed = PUBLIC) -> str:
    """Return `url` as it is stored if a webhook may be sent there, else raise InvalidInput.

    A host beyond ASCII is stored in its ASCII form (IDNA 2008, UTS 46).

    >>> check_url("https://bücher.example/h")
    'https://xn--bcher-kva.example/h'
    """
    _check_form(url)
    scheme, authority, rest = _parts(url)
    if "@" in authority:
        raise InvalidInput("url", "must not hold a user name or password; use a header")
    host, port, address = _place(authority)
    if allow is not ANYWHERE:
        _check_allowed(host, address, allow)
    slash = "/" if rest.startswith("?") else ""
    return f"{scheme.lower()}://{host}{port}{slash}{rest}"


@lru_cache(maxsize=1_000)  # many subscriptions may be those of one service
def _place(authority: str) -> tuple[str, str, Address | None]:
    """Return the host, the port with its colon or nothing, and the address that the host is."""
    host, port = _split(authority)
    if (address := _literal(host)) is None:
        host = ascii_name(host)
        address = _literal(host)
    return host, port, address


def ascii_name(host: str) -> str:
    """Return the name `host` as DNS knows it, in ASCII and lower case; raises InvalidInput."""
    name = host.lower() if host.isascii() else _encoded(host)
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput("url", "must have a host: a name, an IPv4 or an [IPv6] address")
    if _NUMBER.fullmatch(labels[-1]) and _ipv4(name) is None:
        raise InvalidInput("url", "an IPv4 address must be written as four decimal numbers")
    if any(label.startswith("xn--") for label in labels):
        _check_decodes(name)
    return name


_DOTS = ".-\u3002\uff0e\uff61"  # a hyphen, and all dots that part labels (UTS 46)
_URL = re.compile(r"(?i:(https?))://([^/?]+)([/?][!-~]*|)")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def _check_form(url: str) -> None:
    if not isinstance(url, str) or len(url) > MAX_URL:
        raise InvalidInput("url", f"must be text of at most {MAX_URL:,} characters")
    if any(c <= " " or c in "\x7f\\" for c in url):
        raise InvalidInput("url", "must not have spaces, control characters or backslashes")
    if "#" in url:
        raise InvalidInput("url", "must not have a fragment (#...)")


def _parts(url: str) -> tuple[str, str, str]:
    if not url.lower().startswith(("https://", "http://")):
        raise InvalidInput("url", "must begin with https:// or http://")
    found = _URL.fullmatch(url)
    if not found:
        raise InvalidInput("url", "must be https://host/path; the path in ASCII, escaped with %")
    scheme, authority, rest = found.groups()
    return scheme, authority, rest


def _split(authority: str) -> tuple[str, str]:
    """Return the host, and the port with its colon or nothing."""
    found = _AUTHORITY.fullmatch(authority)
    if not found:
        raise InvalidInput("url", "must have a host, and after a colon nothing but a port")
    host, port = found.groups()
    if port is None:
        return host, ""
    if not 1 <= int(port) <= 65_535:
        raise InvalidInput("url", "its port must be 1 to 65535")
    return host, f":{int(port)}"


def _literal(host: str) -> Address | None:
    """Return the address that `host` is, or None for a name."""
    if not host.startswith("["):
        return _ipv4(host)
    try:
        address = IPv6Address(host[1:-1])
    except ValueError:
        address = None
    if address is None or "%" in host:
        raise InvalidInput("url", "must have an IPv6 address in its brackets, without a zone")
    return address


def _ipv4(host: str) -> IPv4Address | None:
    try:
        return IPv4Address(host) if host.isascii() else None
    except ValueError:
        return None


def _encoded(host: str) -> str:
    """Refuses what would vanish on the way: only letters, marks, numbers, dots and hyphens."""
    if not all(c in _DOTS or unicodedata.category(c)[0] in "LMN" for c in host):
        raise InvalidInput("url", "its host has characters that no name may have")
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except UnicodeError as error:
        raise InvalidInput("url", "its host is not an internationalised name") from error


def _check_decodes(name: str) -> None:
    try:
        idna.decode(name)
    except UnicodeError as error:
        raise InvalidInput("url", "its host has an xn-- part that means nothing") from error


def _check_allowed(host: str, address: Address | None, allow: Allowed) -> None:
    """By the text alone; a name may turn out to have a forbidden address when it is called."""
    name = host.removesuffix(".")
    if address is not None:
        bare = host.strip("[]")
        if not allow.address(bare):
            raise InvalidInput("url", f"{bare} is not a public address; {_REMEDY}{bare}")
    elif _PRIVATE_NAME.fullmatch(name) and not allow.networks and not allow.name(name):
        raise InvalidInput("url", f"{name} is not a public name; {_REMEDY}{name}")


_REMEDY = "an operator can allow it for the worker and here: OUTBOX_ALLOW="


def _pattern(text: str) -> str:
    """Return a name, or `*.` and the end of one, in its ASCII form."""
    star = "*." if text.startswith("*.") else ""
    try:
        name = ascii_name(text.removeprefix(star)).removesuffix(".")
    except InvalidInput:
        name = ""
    if not name or _NUMBER.fullmatch(name.rpartition(".")[2]):
        rule = f"{text!r} is no network, address, name or *.name (10.0.0.0/8, *.example.com)"
        raise InvalidInput("allow", rule)
    return star + name


def _unwrapped(address: str) -> Address | None:
    """Return the address; what is IPv4 in IPv6's clothes as IPv4, one with a zone as None."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        return None if found.scope_id else found.ipv4_mapped or found
    return found


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC)
    return address in _GLOBAL_UNICAST and not any(address in n for n in _NOT_PUBLIC_6)
