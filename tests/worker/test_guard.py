"""The guard: whatever a name has for addresses, nothing leaves for one that is not allowed."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from outbox import InvalidInput, addresses
from outbox.addresses import PUBLIC, Allowed, parse_allow
from outbox.request import Outgoing
from outbox.worker import resolver as resolving
from outbox.worker.proxy import Proxy, parse_proxy
from outbox.worker.resolver import THREADS, Resolver
from outbox.worker.send import send
from outbox.worker.transport import HttpTransport, tls_context
from tests.factories import LOOPBACK

from .peers import within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from outbox.worker.outcome import Reply

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Dns:
    """Answers as `getaddrinfo` does: for each name one list after the other, the last again."""

    def __init__(self, **names: Iterable[list[str]]) -> None:
        self.names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: object, **_: Any) -> list[Any]:
        self.asked.append(host)
        answers = self.names.get(host) or []
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]


class Receivers:
    """A receiver on one port of several addresses; `reached` are those that got a request."""

    def __init__(self) -> None:
        self.port = 0
        self.reached: list[str] = []
        self.connections = 0
        self.heads: list[bytes] = []
        self._tasks: set[asyncio.Task[None] | None] = set()

    @asynccontextmanager
    async def listening(self, *hosts: str) -> AsyncIterator[None]:
        servers = []
        for host in hosts:
            servers.append(await asyncio.start_server(self._serve, host, self.port))
            self.port = servers[0].sockets[0].getsockname()[1]
        try:
            yield
        finally:
            for server in servers:
                server.close()
            await asyncio.gather(*filter(None, self._tasks))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                await reader.readexactly(2)
                self.reached.append(writer.get_extra_info("sockname")[0])
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the sender has gone
        finally:
            writer.close()


def sent(
    dns: Callable[..., list[Any]],
    hosts: Iterable[str],
    *urls: str,
    allow: Allowed = LOOPBACK,
    **options: Any,
) -> tuple[list[Reply], Receivers]:
    """Send to each of `urls` in turn, with {port} in them; the receiver listens on `hosts`."""

    async def run() -> tuple[list[Reply], Receivers]:
        receivers = Receivers()
        async with receivers.listening(*hosts), transport(dns, allow, **options) as over:
            replies = []
            for url in urls:
                outgoing = Outgoing(url.format(port=receivers.port), (), b"{}")
                replies.append(await send(over, outgoing, within(5)))
            return replies, receivers

    return asyncio.run(run())


@asynccontextmanager
async def transport(
    dns: Callable[..., list[Any]], allow: Allowed = LOOPBACK, **options: Any
) -> AsyncIterator[HttpTransport]:
    over = HttpTransport(
        **{"allow": allow, "connect_timeout": 5, "resolver": Resolver(dns), **options}
    )
    try:
        yield over
    finally:
        await over.aclose()


# Which addresses.


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/", "http://[::1]:{port}/", "http://[::ffff:127.0.0.1]:{port}/",
        "http://localhost:{port}/", "http://10.0.0.1/", "https://169.254.169.254/latest",
        "http://inside.example:{port}/", "http://mixed.example:{port}/", "http://127.1:{port}/",
        "http://2130706433:{port}/",
    ],
)  # fmt: skip
def test_nothing_is_sent_inside(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without an allow list, neither a literal nor a name leads inside; the log says where to."""
    dns = Dns(
        inside_example=[["127.0.0.1"]],
        mixed_example=[["93.184.216.34", "127.0.0.1"]],
        localhost=[["127.0.0.1"]],
        **{"127_1": [["127.0.0.1"]], "2130706433": [["127.0.0.1"]]},
    )
    (reply,), receivers = sent(dns, ["127.0.0.1"], url, allow=PUBLIC)

    assert (reply.status, reply.error_class, receivers.connections) == (None, "blocked", 0)
    assert "OUTBOX_ALLOW" in str(reply.error)
    assert "127.0.0.1" not in str(reply.error)
    assert "blocked: " in caplog.text
    assert reply.phases.connect_ms is None


def test_rebinding() -> None:
    """A name whose address changes after it was judged: the one that was judged is called."""
    dns = Dns(rebind_example=[["127.0.0.2"], ["127.0.0.1"]])
    url = "http://rebind.example:{port}/"
    (reply,), receivers = sent(dns, ["127.0.0.1", "127.0.0.2"], url, allow=parse_allow("127.0.0.2"))

    assert (reply.status, receivers.reached) == (200, ["127.0.0.2"])
    assert dns.asked == ["rebind.example"]


def test_rebinding_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next connection judges the name anew: what has moved inside is not called."""
    monkeypatch.setattr(resolving, "FOUND_SECONDS", 0)
    monkeypatch.setattr("outbox.worker.kept.KEEP_ALIVE", 0)
    dns = Dns(rebind_example=[["127.0.0.2"], ["127.0.0.1"]])
    url = "http://rebind.example:{port}/"
    replies, receivers = sent(
        dns, ["127.0.0.1", "127.0.0.2"], url, url, allow=parse_allow("127.0.0.2")
    )

    assert [reply.error_class for reply in replies] == [None, "blocked"]
    assert receivers.reached == ["127.0.0.2"]


def test_redirects_lead_nowhere() -> None:
    """An allowed receiver cannot lead the sender to another address (test_send has all forms)."""
    dns = Dns(a_example=[["127.0.0.1"]])
    (reply,), receivers = sent(dns, ["127.0.0.1"], "http://a.example:{port}/")

    assert (reply.status, len(receivers.reached)) == (200, 1)


def test_an_address_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public address that is this machine's own is not called unless it is allowed."""
    monkeypatch.setattr(addresses, "_NOT_PUBLIC", ())  # as if 127.0.0.1 were public
    url = "http://127.0.0.1:{port}/"
    (refused,), receivers = sent(Dns(), ["127.0.0.1"], url, allow=PUBLIC)
    (called,), _ = sent(Dns(), ["127.0.0.1"], url, allow=LOOPBACK)

    assert (refused.error_class, receivers.reached) == ("blocked", [])
    assert "this machine's own" in str(refused.error)
    assert called.status == 200


def test_an_allowed_name() -> None:
    """A name that the operator allows may have any address, and others at it may not."""
    dns = Dns(a_internal_example=[["127.0.0.1"]], b_example=[["127.0.0.1"]])
    replies, _ = sent(
        dns, ["127.0.0.1"], "http://a.internal.example:{port}/", "http://b.example:{port}/",
        allow=parse_allow("*.internal.example"),
    )  # fmt: skip

    assert [reply.error_class for reply in replies] == [None, "blocked"]


def test_the_name_stays() -> None:
    """Pinned to an address, the request still carries the name."""
    _, receivers = sent(Dns(a_example=[["127.0.0.1"]]), ["127.0.0.1"], "http://a.example:{port}/")

    assert b"Host: a.example:%d\r\n" % receivers.port in receivers.heads[0]


def test_the_next_address() -> None:
    """When nobody listens on the first addresses, the next is called; after three it is over."""
    places = [f"127.0.0.{n}" for n in (2, 3, 1)]
    dns = Dns(good_example=[places], late_example=[["127.0.0.4", *places]])
    replies, receivers = sent(
        dns, ["127.0.0.1"], "http://good.example:{port}/", "http://late.example:{port}/"
    )

    assert [reply.error_class for reply in replies] == [None, "connect"]
    assert receivers.reached == ["127.0.0.1"]


# The resolver.


def test_one_lookup_at_a_time() -> None:
    """Those who ask for the same name meanwhile, and a moment later, share one answer."""
    dns = Dns(a_example=[["127.0.0.1"]])

    async def run() -> list[tuple[str, ...]]:
        resolver = Resolver(dns)
        found = await asyncio.gather(*(resolver.addresses("a.example") for _ in range(20)))
        found.append(await resolver.addresses("a.example"))
        resolver.close()
        return found

    assert asyncio.run(run()) == [("127.0.0.1",)] * 21
    assert dns.asked == ["a.example"]


def test_names_that_hang() -> None:
    """Six names whose lookup hangs delay no other; each ends at its deadline, by its class."""
    go_on = threading.Event()
    dns = Dns(good_example=[["127.0.0.1"]])

    def lookup(host: str, port: object, **options: Any) -> list[Any]:
        if host.startswith("hang"):
            go_on.wait(30)
        return dns(host, port, **options)

    async def run() -> tuple[list[Reply], Reply]:
        receivers = Receivers()
        async with (
            receivers.listening("127.0.0.1"),
            transport(lookup, connect_timeout=0.5) as over,
        ):

            def to(host: str) -> Any:
                url = f"http://{host}:{receivers.port}/"
                return send(over, Outgoing(url, (), b"{}"), within(5))

            hanging = [asyncio.create_task(to(f"hang{n}.example")) for n in range(6)]
            await asyncio.sleep(0)
            async with asyncio.timeout(0.4):
                good = await to("good.example")
            return await asyncio.gather(*hanging), good

    hanging, good = asyncio.run(run())
    go_on.set()

    assert (good.status, good.error_class) == (200, None)
    assert {(r.error_class, r.error) for r in hanging} == {
        ("dns", "DNS gave no answer within 0.5 s")
    }
    assert all(r.phases.dns_ms and r.phases.dns_ms >= 500 for r in hanging)
    assert all(r.phases.connect_ms is None for r in hanging)


def test_more_names_than_threads() -> None:
    """A name that waits for a thread in vain is our fault, not the receiver's."""
    go_on = threading.Event()

    def lookup(host: str, *_: object, **__: Any) -> list[Any]:
        go_on.wait(30)
        raise OSError

    async def run() -> list[Reply]:
        async with transport(lookup, connect_timeout=0.5) as over:
            return await asyncio.gather(
                *(
                    send(over, Outgoing(f"http://h{n}.example/", (), b"{}"), within(5))
                    for n in range(THREADS + 3)
                )
            )

    replies = asyncio.run(run())
    go_on.set()

    assert [r.error_class for r in replies].count("internal") == 3


def test_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names do not pile up without end."""
    monkeypatch.setattr(resolving, "THREADS", 1)
    monkeypatch.setattr(resolving, "WAITING", 0)
    go_on = threading.Event()

    def lookup(host: str, *_: object, **__: Any) -> list[Any]:
        go_on.wait(30)
        raise OSError

    async def run() -> list[Reply]:
        async with transport(lookup, connect_timeout=0.3) as over:
            urls = ["http://a.example/", "http://b.example/"]
            return await asyncio.gather(
                *(send(over, Outgoing(url, (), b"{}"), within(5)) for url in urls)
            )

    replies = asyncio.run(run())
    go_on.set()

    assert [r.error_class for r in replies] == ["dns", "internal"]


@pytest.mark.parametrize("error", [socket.gaierror(-2, "unknown"), UnicodeError(), ValueError()])
def test_a_failed_lookup(error: Exception) -> None:
    """Whatever the lookup raises is told as a fault of the name."""

    def lookup(host: str, *_: object, **__: Any) -> list[Any]:
        raise error

    (reply,), _ = sent(lookup, [], "http://a.example/")

    assert (reply.status, reply.error_class) == (None, "dns")
    assert reply.phases.dns_ms is not None


# Phases.


def test_phases() -> None:
    """A new connection has the time of each phase, a kept one only that of the answer."""
    url = "http://a.example:{port}/"
    (first, second), receivers = sent(Dns(a_example=[["127.0.0.1"]]), ["127.0.0.1"], url, url)

    assert receivers.connections == 1
    assert None not in (first.phases.dns_ms, first.phases.connect_ms, first.phases.first_byte_ms)
    assert (first.phases.tls_ms, second.phases.dns_ms, second.phases.connect_ms) == (None,) * 3
    assert None not in (second.phases.first_byte_ms, second.phases.body_ms)


# The proxy.


async def proxy_once(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes, seen: list[bytes]
) -> None:
    seen.append(await reader.readuntil(b"\r\n\r\n"))
    writer.write(answer)
    await writer.drain()
    writer.close()


def through_proxy(url: str, answer: bytes, allow: Allowed = PUBLIC) -> tuple[Reply, list[bytes]]:
    """Send by a proxy on loopback; the reply, and what the proxy saw."""
    seen: list[bytes] = []

    async def run() -> Reply:
        server = await asyncio.start_server(
            lambda reader, writer: proxy_once(reader, writer, answer, seen), "127.0.0.1"
        )
        proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
        async with server, transport(Dns(), allow, proxy=proxy) as over:
            return await send(over, Outgoing(url, (), b"{}"), within(5))

    return asyncio.run(run()), seen


def test_a_proxy() -> None:
    """With a proxy nothing is resolved here: it gets the whole URL."""
    reply, seen = through_proxy("http://a.example/hook?x=1", OK)

    assert reply.status == 200
    assert seen[0].startswith(b"POST http://a.example/hook?x=1 HTTP/1.1\r\n")


def test_a_tunnel() -> None:
    """For https the proxy is asked for a tunnel, and TLS is the receiver's."""
    reply, seen = through_proxy("https://a.example/hook", b"HTTP/1.1 200 OK\r\n\r\nno TLS")

    assert seen[0].startswith(b"CONNECT a.example:443 HTTP/1.1\r\n")
    assert reply.error_class == "tls"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 No\r\n\r\n", b"nonsense\r\n\r\n", b""])
def test_no_tunnel(answer: bytes) -> None:
    """A proxy that opens no tunnel is a failure to connect."""
    reply, _ = through_proxy("https://a.example/hook", answer)

    assert (reply.status, reply.error_class) == (None, "connect")
    assert "the proxy opened no tunnel" in str(reply.error)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_literals_are_judged_before_a_proxy(scheme: str) -> None:
    """A URL that is an address itself is judged here, whoever sends it on."""
    reply, seen = through_proxy(f"{scheme}://169.254.169.254/", OK)

    assert (reply.error_class, seen) == ("blocked", [])


def test_which_proxies() -> None:
    """A proxy is http://host:port; nothing is none."""
    assert parse_proxy("") is None
    assert parse_proxy("http://proxy.example:3128") == Proxy("proxy.example", 3128)
    assert parse_proxy("http://[::1]:3128/") == Proxy("::1", 3128)
    for wrong in ("proxy:3128", "http://a:b@proxy:1", "https://p:1", "http://p", "http://p:99999"):
        with pytest.raises(InvalidInput, match="proxy: "):
            parse_proxy(wrong)


# TLS.


def test_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """TLS 1.2 or newer, verified; a file of keys that the environment names is not written."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = tls_context()

    assert context.minimum_version.name == "TLSv1_2"
    assert (context.check_hostname, context.verify_mode.name) == (True, "CERT_REQUIRED")
    assert context.keylog_filename is None


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_wrong_ca_file(tmp_path: Any, content: str | None) -> None:
    """A file without certificates is refused at the start."""
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises(InvalidInput, match="ca-file"):
        tls_context(str(path))


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "outbox.worker")
