"""How it goes right now: who works, how much comes and goes, what waits, what is wrong.

    with engine.begin() as connection:
        print(outbox.status.look(connection).backlog.due)

Looking costs about 0.2 s of one core on a million open deliveries and a thousand attempts
a second, and not much more on more: what is too much to be counted is estimated from some
of its pages, and says so (`Count.exact`). It reads only, and gives up after `PATIENCE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from . import fleet
from .backlog import Backlog, Count
from .backlog import look as _backlog
from .traffic import Errors, Percentiles, Rate, Traffic
from .traffic import look as _traffic
from .trouble import Failing, Held, Replay, Trouble
from .trouble import look as _trouble

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from .fleet import Worker

__all__ = [
    "Backlog", "Count", "Errors", "Failing", "Held", "Percentiles", "Rate", "Replay", "Status",
    "Traffic", "Trouble", "look",
]  # fmt: skip

PATIENCE = "5s"

# Reads only, one core, no compiling of plans; and no plan that reads all of what can be
# large: the newest events come from their index, the last attempts from their BRIN.
_SETTINGS = {
    "transaction_read_only": "on",
    "statement_timeout": PATIENCE,
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "work_mem": "16MB",
}


@dataclass(frozen=True, slots=True)
class Status:
    """What was seen `at` a moment of the database's clock; each part tells its units."""

    at: datetime
    workers: tuple[Worker, ...]
    traffic: Traffic
    backlog: Backlog
    trouble: Trouble


def look(connection: Connection) -> Status:
    """Return how it goes. The caller's transaction can only read from then on.

    Raises what SQLAlchemy raises, also when a statement takes longer than `PATIENCE`.
    """
    at = restrain(connection)
    backlog, held = _backlog(connection)
    return Status(
        at=at,
        workers=tuple(fleet.alive(connection)),
        traffic=_traffic(connection),
        backlog=backlog,
        trouble=_trouble(connection, held),
    )


def restrain(connection: Connection) -> datetime:
    """Bound what a look may cost until the transaction ends; return now, of the database."""
    settings = [func.set_config(name, value, True) for name, value in _SETTINGS.items()]
    at: datetime = connection.execute(select(func.now(), *settings)).scalar_one()
    return at
