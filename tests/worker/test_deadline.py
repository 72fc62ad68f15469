"""Deadlines: each in time, and an interruption from outside stays one."""

from __future__ import annotations

import asyncio

import pytest

from outbox.worker.deadline import Deadlines

SOON, LATER = 0.05, 30.0


def test_in_time() -> None:
    """Who is done before it is over is not disturbed, then or afterwards, and nothing stays."""

    async def run() -> Deadlines:
        deadlines = Deadlines()
        for _ in range(3):
            with deadlines.within(SOON):
                await asyncio.sleep(0)
        with deadlines.within(LATER):
            await asyncio.sleep(3 * SOON)
        return deadlines

    deadlines = asyncio.run(run())
    assert deadlines._begun == {LATER: {}}


def test_over() -> None:
    """Each that takes too long is told so, those with the same seconds and those with others."""

    async def take(deadlines: Deadlines, seconds: float) -> float:
        with deadlines.within(seconds):
            await asyncio.sleep(LATER)
        return 0.0

    async def run() -> list[float | BaseException]:
        deadlines = Deadlines()
        takes = [take(deadlines, SOON * (n % 3 + 1)) for n in range(9)]
        return await asyncio.gather(*takes, return_exceptions=True)

    assert [type(each) for each in asyncio.run(run())] == [TimeoutError] * 9


def test_one_by_one() -> None:
    """The timer goes on to the next of those that have as long, and begins again after the last."""

    async def run() -> int:
        deadlines, over = Deadlines(), 0
        for _ in range(2):
            first = asyncio.create_task(_sleep_within(deadlines, SOON))
            await asyncio.sleep(SOON / 2)
            second = asyncio.create_task(_sleep_within(deadlines, SOON))
            done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
            assert done == {first}
            over += sum(await asyncio.gather(first, second))
        return over

    assert asyncio.run(run()) == 4


async def _sleep_within(deadlines: Deadlines, seconds: float) -> bool:
    try:
        with deadlines.within(seconds):
            await asyncio.sleep(LATER)
    except TimeoutError:
        return True
    return False


def test_interrupted_from_outside() -> None:
    """A cancellation by somebody else is passed on, also in the moment in which it is over."""

    async def run(both: bool) -> None:
        deadlines = Deadlines()
        task = asyncio.create_task(_sleep_within(deadlines, LATER))
        await asyncio.sleep(0)
        if both:
            next(iter(deadlines._begun[LATER])).expire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run(both=False))
    asyncio.run(run(both=True))


def test_another_error() -> None:
    """An error of the work itself is that error."""

    async def run() -> None:
        with Deadlines().within(LATER):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(run())
