"""What the tests make our programs log is looked at, after each of them."""

from __future__ import annotations

import logging

import pytest

from . import logs


@pytest.mark.parametrize(
    "text", ["sent whsec_MfKQ9r8GKYqrTwjU", f"to http://r/?token={logs.CANARY}", logs.CANARY]
)
def test_what_would_be_found(text: str) -> None:
    """A secret, a query or a body in a line is found, also in its fields and in a traceback."""
    heard = len(logs.lines)
    logger = logging.getLogger("outbox.worker")
    logger.debug("%s", text)
    logger.debug("a line", extra={"field": text})
    logger.error("a fault", exc_info=ValueError(text))
    mine = logs.lines[heard:]
    del logs.lines[heard:]

    assert (len(mine), logs.told(mine)) == (3, mine)


def test_every_test_is_looked_at(request: pytest.FixtureRequest) -> None:
    """The fixture that looks is there without being asked for, and ends after all others."""
    assert request.fixturenames[0] == "discretion"
