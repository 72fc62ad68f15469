"""What the README shows is run as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.helpers import run_cli, start_worker

if TYPE_CHECKING:
    from tests.databases import Database
    from tests.receiver import Receiver

README = (Path(__file__).parents[1] / "README.md").read_text()


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "readme_invoice"

    id: Mapped[int] = mapped_column(primary_key=True)
    paid: Mapped[bool]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_newcomer(committed_db: Database, receiver: Receiver) -> None:
    """Python, SQL, commands and worker of the first page lead to the request that it shows."""
    add = next(line for line in blocks("console")[0].splitlines() if "subscriptions add" in line)
    arguments = shlex.split(add.removeprefix("$ outbox "))
    arguments[2] = receiver.url
    assert run_cli(*arguments, url=committed_db.url).returncode == 0

    Base.metadata.create_all(committed_db.engine)
    try:
        names = {"engine": committed_db.engine, "Session": Session, "Invoice": Invoice}
        exec(blocks("python")[0], names)  # noqa: S102 - it is our own README
    finally:
        Base.metadata.drop_all(committed_db.engine)
    with committed_db.engine.begin() as connection:
        connection.execute(text(blocks("sql")[0].replace(":", r"\:")))
    with start_worker(committed_db.url):
        receiver.wait_for(2)
    shown = {line.partition(":")[0] for line in blocks("http")[0].splitlines()[1:4]}

    for request in receiver.requests:
        assert shown <= {name.lower() for name, _ in request.headers}
        assert re.fullmatch(
            rb'\{"type":"invoice.paid","timestamp":"[^"]+Z","data":\{"id": ?1\}\}', request.body
        )


def test_first_page() -> None:
    """The first 60 lines hold the point, the demo and the use in an application."""
    first = "\n".join(README.splitlines()[:60])

    assert "make demo" in first
    assert "outbox.emit(" in first
    assert "outbox-worker" in first
