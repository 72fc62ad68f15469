"""What an operator can set, in one frozen value, read once at the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from outbox.addresses import PUBLIC, Allowed
from outbox.errors import InvalidInput
from outbox.keyring import Keyring

if TYPE_CHECKING:
    from .proxy import Proxy

FLUSH_SECONDS = 0.02  # how long a result waits for others to be recorded with it
FLUSH_SIZE = 500
FAN_OUT_SIZE = 500  # events in one statement
READY = 10_000  # subscriptions that a process keeps ready, with their URLs
START_MARGIN = 5.0  # seconds of a lease kept free for recording after the deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times are in seconds. `concurrency` is requests in flight in one process.

    `database_url` is one URL or several: the requests in flight are those of all of them.
    `allow` is what may be called besides public addresses, `ca_file` the certificates that
    are trusted besides the system's. With a `metrics_port` of 0 nothing is served.
    """

    database_url: str | tuple[str, ...]
    concurrency: int = 100
    processes: int = 1
    timeout: float = 20.0
    connect_timeout: float = 5.0
    grace: float = 25.0
    lease: float = 0.0
    allow: Allowed = PUBLIC
    proxy: Proxy | None = None
    ca_file: str | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    keyring: Keyring = field(default_factory=Keyring)

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise InvalidInput(name.replace("_", "-"), f"must be from {low:,} to {high:,}")
        if self.concurrency < len(self.database_urls):
            raise InvalidInput("concurrency", "must be at least one for each database")
        shortest = self.timeout + START_MARGIN
        if self.lease == 0:
            object.__setattr__(self, "lease", shortest + 10)
        if self.lease <= shortest:
            raise InvalidInput("lease", f"must be longer than timeout + {START_MARGIN:g} seconds")

    @property
    def database_urls(self) -> tuple[str, ...]:
        """The URLs of all databases."""
        url = self.database_url
        return (url,) if isinstance(url, str) else url

    @property
    def start_window(self) -> float:
        """Seconds after a claim in which its request may start: its lease outlasts its answer."""
        return self.lease - self.timeout - START_MARGIN


_RANGES = (
    ("concurrency", 1, 10_000),
    ("processes", 1, 256),
    ("timeout", 0.1, 300),
    ("connect_timeout", 0.1, 300),
    ("grace", 0, 3_600),
    ("lease", 0, 3_600),
    ("metrics_port", 0, 65_535),
)
