"""Connections to checked addresses, and to nothing else.

aiohttp keeps the connections; making one is ours. A name is resolved, every address that
it has is judged, and the connection is made to one of these very addresses: nothing is
looked up a second time, so nothing can change in between. Name indication, certificate
and Host stay those of the name. Through a proxy the name is the proxy's to resolve;
a URL that is an address itself is judged here all the same.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import aiohappyeyeballs
import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage

from outbox.addresses import PUBLIC, is_address

from .failures import Blocked, DnsError, TlsError

if TYPE_CHECKING:
    from aiohappyeyeballs import AddrInfoType
    from aiohttp.client import ClientTimeout
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from outbox.addresses import Allowed

    from .phases import Stopwatch
    from .proxy import Proxy
    from .resolver import Resolver

logger = logging.getLogger("outbox.worker")

MAX_ADDRESSES = 3
NEXT_ADDRESS = 0.25  # seconds after which the next address is tried beside the first (RFC 8305)
MAX_HEAD = 65_536  # bytes of an answer before its last header, interim answers included
KEEP_ALIVE = 4.0  # seconds; less than the 5 s after which many servers close an idle connection


class Wire(ResponseHandler):
    """One connection's bytes. Counts those of an answer until its headers are complete."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.received = 0
        self._answered = False

    def begin(self) -> None:
        """Expect the answer to another request."""
        self.received, self._answered = 0, False

    def is_connected(self) -> bool:
        """A connection on which something came unasked is not used again."""
        return super().is_connected() and not self._buffer

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a message that was parsed; one below 200 is an interim answer (RFC 9110, 15.2)."""
        self._answered = self._answered or data[0].code >= 200 or data[0].code == 101
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the network: the headers alone first, so that a broken body behind

        them, which fails the parser, does not take them with it.
        """
        fresh = not self.received
        self.received += len(data)
        if fresh and (end := data.find(b"\r\n\r\n") + 4) > 3:
            super().data_received(data[:end])
            data = data[end:]
        if data:
            super().data_received(data)
        if self.received > MAX_HEAD and not self._answered and self.transport is not None:
            self.transport.close()
            self.set_exception(BadHttpMessage("the headers have no end"))


@dataclass(slots=True)
class Exchange:
    """A request on its way: its phases, its connection, and whether that was made for it."""

    watch: Stopwatch
    wire: Wire | None = None
    fresh: bool = False


EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")  # of the task that sends


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How connections are made; `timeout` is the seconds from the name to the end of TLS."""

    timeout: float
    tls: ssl.SSLContext
    allow: Allowed = PUBLIC
    proxy: Proxy | None = None


class Connector(aiohttp.BaseConnector):
    """Makes connections by `policy`, with the addresses that `resolver` finds."""

    def __init__(self, policy: Policy, resolver: Resolver) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEP_ALIVE)
        self._policy = policy
        self._resolver = resolver
        self._factory: Any = functools.partial(Wire, loop=self._loop)

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> Connection:
        """Return a kept connection or a new one."""
        connection = await super().connect(req, traces, timeout)
        wire = cast("Wire", connection.protocol)
        wire.begin()
        EXCHANGE.get().wire = wire
        return connection

    async def _create_connection(
        self, req: aiohttp.ClientRequest, _traces: list[Trace], _timeout: ClientTimeout
    ) -> ResponseHandler:
        exchange = EXCHANGE.get()
        exchange.fresh = True
        exchange.watch.reset()
        host, port = str(req.url.raw_host), int(req.url.port or 0)
        try:
            async with asyncio.timeout(self._policy.timeout):
                wire = await self._made(host, port, exchange.watch, tls=req.is_ssl())
        except TimeoutError as error:
            raise self._late(host, exchange.watch) from error
        exchange.watch.enter("first_byte")
        return wire

    async def _made(self, host: str, port: int, watch: Stopwatch, *, tls: bool) -> Wire:
        proxy = self._policy.proxy
        if proxy is None:
            found = await self._resolve(host, watch)
            self._check(host, found)
            connected = await _connect(found, port, watch)
            self._check_own(host, connected)
        else:
            if is_address(host):
                self._check(host, (host,))
            connected = await _connect(await self._resolve(proxy.host, watch), proxy.port, watch)
            if tls:
                await proxy.open_tunnel(connected, host, port)
        return await self._wrap(connected, host, watch, tls=tls)

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

    async def _wrap(
        self, connected: socket.socket, host: str, watch: Stopwatch, *, tls: bool
    ) -> Wire:
        options: dict[str, Any] = {"sock": connected}
        if tls:
            watch.enter("tls")
            options |= {"ssl": self._policy.tls, "server_hostname": host.rstrip(".")}
        try:
            _, wire = await self._loop.create_connection(self._factory, **options)
        except OSError as error:
            raise TlsError(_in_words(error)) from error
        return cast("Wire", wire)

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
