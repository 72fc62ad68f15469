"""A PostgreSQL of one test's own, that may be stopped, restarted and killed."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from outbox import embedded, embedded_keeper, schema
from tests.databases import embedded_server, engine_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SETTINGS = """
fsync = off  # what was committed must survive the server, not the machine
max_prepared_transactions = 10
"""


@dataclass(frozen=True)
class Cluster:
    """`url` stays the same over restarts; the schema is installed."""

    folder: Path
    url: str

    @property
    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        embedded.resolve(f"{embedded.PREFIX}{self.folder}")

    def stop(self) -> None:
        """Cut all connections and stop; everything is written."""
        self._pg_ctl("stop", "-m", "fast")

    def restart_immediate(self) -> None:
        """Crash and recover: `pg_ctl restart -m immediate`."""
        self._pg_ctl("restart", "-l", "log", "-m", "immediate")

    def kill(self) -> None:
        """`kill -9` the server; `start` brings it back."""
        os.kill(self.pid, signal.SIGKILL)

    def _pg_ctl(self, verb: str, *arguments: str) -> None:
        programs = embedded._programs(self.folder)
        command = (verb, "-D", "data", "-w", *arguments)
        ended = embedded_keeper.run(programs / "pg_ctl", *command, folder=self.folder)
        assert ended.returncode == 0, ended.stderr


@contextmanager
def own_cluster() -> Iterator[Cluster]:
    with embedded_server(_SETTINGS) as (embedded_url, folder):
        url = embedded.resolve(embedded_url)
        with engine_at(url).begin() as connection:
            schema.apply(connection)
        yield Cluster(folder, url)
