"""A HAR file that is kept up to date, and is whole at any moment."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .documents import dump
from .har import har
from .program import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .inbox import Inbox

EVERY = 2.0  # seconds


def save(path: Path, inbox: Inbox, origin: str) -> str:
    """Write what is kept; return what to tell. Raises Failure."""
    content = dump(har(inbox.arrivals(), origin)).encode(errors="replace")
    try:
        _replace(path, content)
    except OSError as error:
        raise Failure(f"har: {path} cannot be written: {error.strerror or error}") from error
    return f"Saved as {path}."


@asynccontextmanager
async def kept_up_to_date(
    path: Path, inbox: Inbox, origin: str, fail: Callable[[Exception], None]
) -> AsyncIterator[None]:
    """Save every two seconds what has changed, and all in the end; `fail` hears why not."""
    task = asyncio.get_running_loop().create_task(_save_often(path, inbox, origin, fail))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        save(path, inbox, origin)


async def _save_often(
    path: Path, inbox: Inbox, origin: str, fail: Callable[[Exception], None]
) -> None:
    saved = 0
    while True:
        await asyncio.sleep(EVERY)
        if saved != inbox.count:
            saved = inbox.count
            try:
                save(path, inbox, origin)
            except Failure as error:
                fail(error)
                return


def _replace(path: Path, content: bytes) -> None:
    """All of it or nothing, for the owner alone: what came may hold credentials."""
    file, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
