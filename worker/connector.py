"""Connections to checked addresses, and to nothing else.

A name is resolved, every address that it has is judged, and the connection is made to one
of these very addresses: nothing is looked up a second time, so nothing can change in
between. Name indication, certificate and Host stay those of the name. Through a proxy the
name is the proxy's to resolve; a URL that is an address itself is judged here all the same.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohappyeyeballs
import httpx

from outbox.addresses import PUBLIC, is_address

from .failures import Blocked, DnsError, TlsError
from .wire import Wire

if TYPE_CHECKING:
    from aiohappyeyeballs import AddrInfoType

    from outbox.addresses import Allowed

    from .phases import Stopwatch
    from .proxy import Proxy
    from .resolver import Resolver
    from .route import Place

logger = logging.getLogger("outbox.worker")

MAX_ADDRESSES = 3
NEXT_ADDRESS = 0.25  # seconds after which the next address is tried beside the first (RFC 8305)
LAST_WORD = 1.0  # seconds that the end of TLS may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How connections are made; `timeout` is the seconds from the name to the end of TLS."""

    timeout: float
    tls: ssl.SSLContext
    allow: Allowed = PUBLIC
    proxy: Proxy | None = None


class Connector:
    """Makes connections by `policy`, with the addresses that `resolver` finds."""

    def __init__(self, policy: Policy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._loop = asyncio.get_running_loop()

    async def connect(self, place: Place, watch: Stopwatch) -> Wire:
        """Return a new connection to `place`; raises httpx.TransportError if there is none."""
        watch.reset()
        try:
            async with asyncio.timeout(self._policy.timeout):
                wire = await self._made(place, watch)
        except TimeoutError as error:
            raise self._late(place.host, watch) from error
        watch.enter("first_byte")
        return wire

    async def _made(self, place: Place, watch: Stopwatch) -> Wire:
        host, port, proxy = place.host, place.port, self._policy.proxy
        if proxy is None:
            found = await self._resolve(host, watch)
            self._check(host, found)
            connected = await _connect(found, port, watch)
            self._check_own(host, connected)
        else:
            if is_address(host):
                self._check(host, (host,))
            connected = await _connect(await self._resolve(proxy.host, watch), proxy.port, watch)
            if place.tls:
                await proxy.open_tunnel(connected, host, port)
        return await self._wrap(connected, place, watch)

    async def _resolve(self, host: str, watch: Stopwatch) -> tuple[str, ...]:
        if is_address(host):
            return (host,)
        watch.enter("dns")
        return await self._resolver.addresses(host)

    def _check(self, host: str, addresses: tuple[str, ...]) -> None:
        """All of them: a name that has one bad address among good ones is up to something."""
        for address in addresses:
            if not self._policy.allow.address(address, host):
                raise _blocked(host, address, "its address is not public")

    def _check_own(self, host: str, connected: socket.socket) -> None:
        """A public address of this very machine gets around the firewall in front of it."""
        here, there = connected.getsockname()[0], connected.getpeername()[0]
        if here == there and not self._policy.allow.explicitly(there, host):
            connected.close()
            raise _blocked(host, there, "its address is this machine's own")

    async def _wrap(self, connected: socket.socket, place: Place, watch: Stopwatch) -> Wire:
        options: dict[str, Any] = {"sock": connected}
        if place.tls:
            watch.enter("tls")
            options["ssl"] = self._policy.tls
            options["server_hostname"] = place.host.rstrip(".")
            options["ssl_shutdown_timeout"] = LAST_WORD
        try:
            _, wire = await self._loop.create_connection(Wire, **options)
        except OSError as error:
            raise TlsError(_in_words(error)) from error
        return wire

    def _late(self, host: str, watch: Stopwatch) -> httpx.TransportError:
        seconds = f"within {self._policy.timeout:g} s"
        if watch.phase != "dns":
            return httpx.ConnectTimeout(f"no connection {seconds}")
        name = self._policy.proxy.host if self._policy.proxy else host
        if self._resolver.is_waiting(name):
            return httpx.PoolTimeout("no thread was free to resolve the name")
        return DnsError(f"DNS gave no answer {seconds}")


async def _connect(addresses: tuple[str, ...], port: int, watch: Stopwatch) -> socket.socket:
    """Return a connection to one of the addresses; the next is tried while the first hangs."""
    watch.enter("connect")
    try:
        return await aiohappyeyeballs.start_connection(
            [_address_info(address, port) for address in addresses[:MAX_ADDRESSES]],
            happy_eyeballs_delay=NEXT_ADDRESS,
        )
    except (OSError, RuntimeError) as error:  # uvloop raises both
        raise httpx.ConnectError(_in_words(error)) from error


def _address_info(address: str, port: int) -> AddrInfoType:
    six = ":" in address
    family = socket.AF_INET6 if six else socket.AF_INET
    place = (address, port, 0, 0) if six else (address, port)
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place


def _blocked(host: str, address: str, why: str) -> Blocked:
    """The log alone says which address it is: what is inside is not for who looks from outside."""
    logger.warning("blocked: %s is at %s, %s", host, address, why)
    return Blocked(f"{why}; an operator can allow it with OUTBOX_ALLOW")


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason or 'the handshake broke off'}".lower()
    if isinstance(error, OSError):
        return error.strerror or "the connection broke off"
    return "no connection"
