"""Faults of PostgreSQL that its settings and its disk make."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from tests.helpers import eventually, happens

if TYPE_CHECKING:
    from .run import Run

END_WORKERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outbox-worker'
"""
MEGABYTES = 24  # of the disk that becomes full


def statement_timeout(run: Run) -> bool:
    """Statements may take a tenth of a second, while one holds them up for longer."""
    return _hurried(run, "statement_timeout")


def lock_timeout(run: Run) -> bool:
    """Statements may wait a tenth of a second for a lock, while one is held for longer."""
    return _hurried(run, "lock_timeout")


def _hurried(run: Run, setting: str) -> bool:
    told = f"due to {setting.replace('_', ' ')}"
    before = said(run, told)
    _set(run, f"SET {setting} = '100ms'")
    try:
        eventually(lambda: run.ask(WORKERS), 15)
        with run.engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL {setting} = 0")
            connection.exec_driver_sql("LOCK TABLE outbox.delivery_queue IN ACCESS EXCLUSIVE MODE")
            time.sleep(1.5)
    finally:
        _set(run, f"RESET {setting}")
    return said(run, told) > before


def _set(run: Run, change: str) -> None:
    """Change a setting of the database; workers come back with it."""
    run.execute(f"ALTER DATABASE postgres {change}")
    run.fleet.lost()
    run.ask(END_WORKERS)


def said(run: Run, words: str) -> int:
    """How often PostgreSQL has said so in its log."""
    return (run.cluster.folder / "log").read_text(errors="replace").count(words)


def restart_in_a_loop(run: Run) -> bool:
    """PostgreSQL crashes again and again while workers start."""
    started = []
    for _ in range(3):
        run.fleet.lost()
        started.append(run.fleet.add())
        run.cluster.restart_immediate()
    run.fleet.start(2)
    return len(started) == 3


def fill_the_disk(run: Run) -> bool:
    """The disk of the queues is full for a while. Needs the right to mount one."""
    before = said(run, NO_SPACE)
    run.fleet.lost()  # results wait for their record, and leases run out, of both workers
    run.fleet.lost()
    with ExitStack() as stack:
        disk = _mounted(run, stack)
        if disk is None:
            return False
        run.execute(f"CREATE TABLESPACE small LOCATION '{disk / 'space'}'")
        stack.callback(_move, run, "pg_default")
        _move(run, "small")
        _fill(disk)
        full = happens(lambda: said(run, NO_SPACE) > before)
        (disk / "ballast").unlink()
    return full


def _mounted(run: Run, stack: ExitStack) -> Path | None:
    """A small disk of its own, until the end; None where that is refused."""
    disk = Path(tempfile.mkdtemp(prefix="outbox-disk-"))
    disk.chmod(0o755)
    stack.callback(rmtree, disk, ignore_errors=True)
    options = ("-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=755", "tmpfs", str(disk))
    if not can_mount() or subprocess.run(["mount", *options], check=False).returncode:  # noqa: S603, S607
        return None
    stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
    (disk / "space").mkdir(mode=0o700)
    owner = (run.cluster.folder / "data").stat()
    os.chown(disk / "space", owner.st_uid, owner.st_gid)
    return disk


def can_mount() -> bool:
    """Whether this machine lets us mount a disk at all."""
    return os.geteuid() == 0 and Path("/bin/mount").exists()


def _move(run: Run, space: str) -> None:
    """Let the queues live there; who leaves the small disk gives it up."""
    for name in ("TABLE outbox.delivery_queue", "INDEX outbox.delivery_queue_pkey",
                 "INDEX outbox.delivery_queue_lane"):  # fmt: skip
        run.execute(f"ALTER {name} SET TABLESPACE {space}")
    if space == "pg_default":
        run.execute("DROP TABLESPACE small")


def _fill(disk: Path) -> None:
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        for _ in range(MEGABYTES * 256):
            ballast.write(bytes(4096))


NO_SPACE = "No space left on device"
WORKERS = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'outbox-worker'"
