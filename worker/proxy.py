"""An egress proxy: the one way out of a network that lets nothing else out.

http:// requests are handed to the proxy as they are, https:// ones go through a tunnel
that it opens (CONNECT, RFC 9110, section 9.3.6). Which addresses a name has is then for
the proxy to resolve and to judge.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from outbox.errors import InvalidInput

if TYPE_CHECKING:
    import socket

MAX_ANSWER = 16_384  # bytes


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the proxy listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{_bracketed(self.host)}:{self.port}"

    async def open_tunnel(self, connected: socket.socket, host: str, port: int) -> None:
        """Have the proxy connect to `host`; raises ProxyError, and closes, if it does not."""
        try:
            answer = await _asked(connected, f"{_bracketed(host)}:{port}")
        except OSError as error:
            connected.close()
            raise httpx.ProxyError("the proxy closed the connection") from error
        except BaseException:
            connected.close()
            raise
        if not _OPENED.match(answer):
            connected.close()
            status = answer[9:12].decode("ascii", "replace")
            raise httpx.ProxyError(f"the proxy opened no tunnel: {status or 'no answer'}")


def parse_proxy(text: str) -> Proxy | None:
    """Return the proxy at the URL `text`, or None for an empty one. Raises InvalidInput."""
    if not text:
        return None
    found = _URL.fullmatch(text)
    if not found or not 1 <= int(found[2]) <= 65_535:
        raise InvalidInput("proxy", "must be http://host:port, without a user name")
    return Proxy(found[1].strip("[]"), int(found[2]))


_URL = re.compile(r"http://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})/?")
_OPENED = re.compile(rb"HTTP/1\.[01] 200")


async def _asked(connected: socket.socket, place: str) -> bytes:
    loop, answer = asyncio.get_running_loop(), b""
    request = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n"
    await loop.sock_sendall(connected, request.encode("ascii"))
    while b"\r\n\r\n" not in answer and len(answer) < MAX_ANSWER:
        chunk = await loop.sock_recv(connected, 4_096)
        if not chunk:
            break
        answer += chunk
    return answer


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
