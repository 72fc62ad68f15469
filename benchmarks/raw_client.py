"""The yardstick: the HTTP client alone, posting what the worker posts, as fast as it can.

One process, aiohttp, nothing before a request and nothing after it: requests are built
beforehand, answers are read and thrown away. Nobody could use it as a sender; it is what
a sender on this client cannot exceed. It prints the CPU seconds that the posting took; with
`--rate`, one at a time, how long it was from the call to the first byte at the receiver.
"""

from __future__ import annotations

import asyncio
import json
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import aiohttp
import click
import uvloop

from .report import milliseconds
from .workload import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.request import Outgoing


DISTINCT = 20_000  # requests that are built; more than these are the same once more


async def post_all(made: list[Outgoing], count: int, concurrency: int) -> float:
    """Post `count` requests, `concurrency` at a time; return the CPU seconds."""
    left = islice(cycle(made), count)
    begin = time.process_time()
    async with _session() as session, asyncio.TaskGroup() as slots:
        for _ in range(concurrency):
            slots.create_task(_post_each(session, left))
    return time.process_time() - begin


async def post_at(url: str, made: list[Outgoing], rate: float) -> list[float]:
    """Post one at a time, so many a second; return how long each took to arrive, in seconds."""
    began: dict[str, float] = {}
    async with _session() as session:
        begin = time.monotonic()
        for number, request in enumerate(made):
            await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
            began[dict(request.headers)[b"webhook-id"].decode()] = time.monotonic()
            await _post(session, request)
        async with session.get(urljoin(url, "/answers")) as response:
            answers = await response.json(content_type=None)
    return [answers[id] - moment for id, moment in began.items()]


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("accept", "accept-encoding"),
    )


async def _post_each(session: aiohttp.ClientSession, left: Iterator[Outgoing]) -> None:
    for request in left:
        await _post(session, request)


async def _post(session: aiohttp.ClientSession, request: Outgoing) -> None:
    headers = {name.decode(): value.decode() for name, value in request.headers}
    async with session.post(request.url, data=request.body, headers=headers) as response:
        await response.read()
        response.raise_for_status()


@click.command()
@click.argument("url")
@click.option("--requests", "count", default=20_000)
@click.option("--fan-out", default=1)
@click.option("--concurrency", default=100)
@click.option("--rate", type=float)
def main(url: str, count: int, fan_out: int, concurrency: int, rate: float | None) -> None:
    """Post so many requests to URL, or to so many paths below it."""
    made = requests(url, min(count, DISTINCT), fan_out)
    if rate:
        click.echo(json.dumps(milliseconds(uvloop.run(post_at(url, made, rate)))))
    else:
        click.echo(uvloop.run(post_all(made, count, concurrency)))


if __name__ == "__main__":
    main()
