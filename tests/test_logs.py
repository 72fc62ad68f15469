"""The last test of a session: what all the others made our programs log."""

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


def test_nothing_secret_was_logged() -> None:
    """No secret, no body and no query of a URL stands in any line of this session."""
    assert logs.told(logs.lines) == []
