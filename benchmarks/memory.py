"""The memory of a program and of all that it started."""

from __future__ import annotations

from contextlib import suppress

import psutil


def rss_mib(pid: int) -> float:
    """Return the resident memory of the largest of its processes, in MiB."""
    return max(_each(pid, "rss"), default=0.0)


def shared_out_mib(pid: int) -> float:
    """Return the memory of all its processes together, what they share counted once, in MiB."""
    return sum(_each(pid, "pss"))


def _each(pid: int, kind: str) -> list[float]:
    process = psutil.Process(pid)
    found = []
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):
            found.append(getattr(each.memory_full_info(), kind, 0) / 2**20)
    return found
