"""A primary and its streaming standby, which can take its place."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outbox import embedded, embedded_keeper
from tests.databases import engine_at
from tests.factories import rows, value
from tests.helpers import eventually

from . import pg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

_STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
_SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
_HAS = "SELECT pg_last_wal_receive_lsn() >= CAST(:written AS pg_lsn)"


@dataclass(frozen=True)
class Pair:
    """`url` leads to whichever of the two takes writes."""

    primary: pg.Cluster
    standby: pg.Cluster
    engine: Engine  # of the primary

    @property
    def url(self) -> str:
        hosts = f"{self.primary.folder},{self.standby.folder}"
        return f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs=read-write"

    def be_synchronous(self) -> None:
        """From now on no commit is told before the standby has it on disk."""
        with self.engine.connect() as connection:
            quiet = connection.execution_options(isolation_level="AUTOCOMMIT")
            quiet.exec_driver_sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
            quiet.exec_driver_sql("SELECT pg_reload_conf()")
            eventually(lambda: value(quiet, _SYNCHRONOUS))

    def catch_up(self) -> None:
        """Wait until the standby has all that is committed by now."""
        with self.engine.connect() as connection:
            written = value(connection, "SELECT pg_current_wal_lsn()::text")
        with engine_at(self.standby.url).connect() as connection:
            eventually(lambda: value(connection, _HAS, written=written))

    def cut(self) -> None:
        """From now on the standby gets nothing more."""
        with engine_at(self.standby.url).connect() as connection:
            quiet = connection.execution_options(isolation_level="AUTOCOMMIT")
            quiet.exec_driver_sql("ALTER SYSTEM SET primary_conninfo = ''")
            quiet.exec_driver_sql("SELECT pg_reload_conf()")
            eventually(lambda: not rows(quiet, "SELECT FROM pg_stat_wal_receiver"))

    def promote(self) -> None:
        self.standby._pg_ctl("promote")


@contextmanager
def pair() -> Iterator[Pair]:
    """Both run; what the primary has, the standby has or is about to have."""
    with pg.own_cluster() as primary:
        folder = Path(tempfile.mkdtemp(prefix="outbox-test-"))
        owner = primary.folder.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        standby = pg.Cluster(folder, primary.url.replace(str(primary.folder), str(folder)))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder)
            _copy(primary, folder)
            standby._pg_ctl("start", "-l", "log")
            stack.callback(standby._pg_ctl, "stop", "-m", "immediate")
            made = Pair(primary, standby, engine_at(primary.url))
            eventually(lambda: _streams(made), timeout=30)
            yield made


def _copy(primary: pg.Cluster, folder: Path) -> None:
    """A backup that becomes a standby when it is started, with the same settings."""
    shutil.copy(primary.folder / "settings.conf", folder)
    program = embedded._programs(primary.folder) / "pg_basebackup"
    command = ("-h", str(primary.folder), "-U", "postgres", "-D", "data", "-R", "-c", "fast")
    ended = embedded_keeper.run(program, *command, folder=folder)
    assert ended.returncode == 0, ended.stderr


def _streams(made: Pair) -> bool:
    with made.engine.connect() as connection:
        return bool(rows(connection, _STREAMING)[0][0])
