"""Failures of a request for which httpx has no name of its own."""

from __future__ import annotations

import httpx


class DnsError(httpx.ConnectError):
    """The name of the receiver does not resolve."""


class TlsError(httpx.ConnectError):
    """The receiver's certificate or handshake is not acceptable."""


class Blocked(httpx.ConnectError):
    """The receiver's address is not one that may be called; nothing was sent."""


class Stale(httpx.ReadError):
    """A kept connection was closed before a byte of the answer came.

    Most likely the receiver had closed it just before it was used again.
    """
