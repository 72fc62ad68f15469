"""Log lines: plain language for people, one JSON object a line for machines.

Fields of a line go in `extra`; both formats show them. `DATABASE` is a field of all lines
that are told where it is set. Nothing here knows what a secret is: whoever logs must not
hand one over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextvars import ContextVar

DATABASE = ContextVar("DATABASE", default="")  # its name, if the process serves several

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z warning  what happened  field=value`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f"  {name}={value}" for name, value in _fields(record).items())
        line = f"{_moment(record)} {record.levelname.lower():<7}  {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """`{"at": "…Z", "level": "warning", "message": "…", "field": "value"}`"""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": _moment(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "pid": record.process,
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(format: str, level: str) -> None:
    """Log to stderr in `format` (text or json), from `level` on."""
    handler = logging.StreamHandler()
    handler.addFilter(_placed)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("outbox").setLevel(level.upper())
    for noisy in ("apscheduler", "asyncio", "httpx", "psycopg"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("apscheduler.executors.default").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """A duty that was about to begin when the process stopped is none."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _placed(record: logging.LogRecord) -> bool:
    if DATABASE.get():
        record.database = DATABASE.get()
    return True


def _moment(record: logging.LogRecord) -> str:
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{at}.{int(record.msecs):03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
