"""Stops an embedded PostgreSQL as soon as nobody uses it any more.

Every process that uses the database holds the file `holders` shared (see `embedded.py`).
The keeper asks for it exclusively, and is given it when the last of them is gone, however it went.
The kernel keeps this account: a process that was killed is gone, one that was forked is there.

The keeper runs as a script, by its path and on the standard library alone,
so that it starts fast, stays small and needs nothing of the environment it was started in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def run(program: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL in the folder, which for root means: as the folder's owner."""
    owner = folder.stat() if os.geteuid() == 0 else None
    return subprocess.run(  # noqa: S603 - the wheel's own programs, no shell
        [program, *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        user=owner and owner.st_uid,
        group=owner and owner.st_gid,
        extra_groups=owner and [],
    )


def stop(programs: Path, folder: Path) -> None:
    """Stop PostgreSQL at once: clients are cut off, data is safe."""
    for mode in ("fast", "immediate"):
        arguments = ("-D", "data", "-w", "-t", "30", "-m", mode)
        if run(programs / "pg_ctl", "stop", *arguments, folder=folder).returncode == 0:
            break


def keep(programs: Path, folder: Path, keeper: int) -> None:
    """Wait until nobody holds the database, stop it, and only then lets the next one in."""
    with (folder / "holders").open("r+") as holders:
        fcntl.flock(holders, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(holders.fileno()), (folder / "holders").stat()):
            stop(
                programs, folder
            )  # else the folder was deleted and made anew: it has its own keeper
        os.close(keeper)  # before `holders`: who comes next must find that it needs a new keeper


if __name__ == "__main__" and os.fork() == 0:
    keep(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
