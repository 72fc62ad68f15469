"""The yardstick: the HTTP client alone, posting what the worker posts, as fast as it can.

One process, aiohttp, nothing before a request and nothing after it: requests are built
beforehand, answers are read and thrown away. Nobody could use it as a sender; it is what
a sender on this client cannot exceed. It prints the CPU seconds that the posting took.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import click
import uvloop

from .workload import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.request import Outgoing


async def post_all(url: str, count: int, concurrency: int) -> float:
    """Post `count` requests to `url`, `concurrency` at a time; return the CPU seconds."""
    left = iter(requests(url, count))
    begin = time.process_time()
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("accept", "accept-encoding"),
        ) as session,
        asyncio.TaskGroup() as slots,
    ):
        for _ in range(concurrency):
            slots.create_task(_post(session, left))
    return time.process_time() - begin


async def _post(session: aiohttp.ClientSession, left: Iterator[Outgoing]) -> None:
    for request in left:
        headers = {name.decode(): value.decode() for name, value in request.headers}
        async with session.post(request.url, data=request.body, headers=headers) as response:
            await response.read()
            response.raise_for_status()


@click.command()
@click.argument("url")
@click.option("--events", default=20_000)
@click.option("--concurrency", default=100)
def main(url: str, events: int, concurrency: int) -> None:
    """Post EVENTS requests to URL."""
    click.echo(uvloop.run(post_all(url, events, concurrency)))


if __name__ == "__main__":
    main()
