"""PgBouncer in transaction mode, with less sessions than it has clients."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.conninfo import conninfo_to_dict

from tests.databases import libpq_url
from tests.helpers import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SESSIONS = 3

_SETTINGS = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {sessions}
"""


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """The URL of the same database behind a PgBouncer with the settings it comes with."""
    parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    folder = Path(tempfile.mkdtemp(prefix="outbox-pooler-"))
    try:
        folder.chmod(0o755)
        listen = _free_port()
        settings = _SETTINGS.format(
            host=parts["host"], port=parts["port"], listen=listen, folder=folder, sessions=SESSIONS
        )
        (folder / "ini").write_text(settings)
        (folder / "users").write_text(f'"{parts["user"]}" "{parts.get("password", "")}"\n')
        with _running(folder / "ini", _account(parts["host"])):
            eventually(lambda: _listens(listen))
            yield libpq_url("127.0.0.1", listen, parts["user"], parts["dbname"], None)
    finally:
        shutil.rmtree(folder)


@contextmanager
def _running(settings: Path, account: int | None) -> Iterator[None]:
    assert PROGRAM is not None
    with (settings.parent / "log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - the pooler itself
            [PROGRAM, settings], user=account, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


def _account(host: str) -> int | None:
    """Who may use the socket; PgBouncer does not run as root."""
    if os.geteuid() != 0:
        return None
    owner = Path(host).stat().st_uid if host.startswith("/") else 0
    return owner or 65534


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
