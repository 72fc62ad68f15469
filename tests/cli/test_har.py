"""Requests to HAR and back."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox import InvalidInput
from outbox.cli import har_file
from outbox.cli.documents import dump
from outbox.cli.har import har, read_har
from outbox.cli.inbox import Inbox
from outbox.cli.program import Failure
from outbox.verdicts import Verdict

from .arrivals import arrival, request

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = "http://127.0.0.1:8000"


@given(st.binary(max_size=40), st.text("aé\x1b\xff", max_size=9), st.sampled_from(["/", "/a?b=/c"]))
def test_round_trip(body: bytes, value: str, path: str) -> None:
    """What is saved is read as it was, byte for byte."""
    found = request(path, body, X_Value=value, method="PUT", version="1.0")
    document = dump(har([arrival(found, status=503)], ORIGIN))

    assert read_har(document.encode()) == [(found, 503)]


def test_a_header_beyond_latin_1() -> None:
    """What another program wrote into the file can be sent as well."""
    document = har([arrival(request(X_A="日"))], ORIGIN)

    assert read_har(dump(document))[0][0].headers[-1] == ("X-A", "日".encode().decode("latin-1"))


def test_an_entry() -> None:
    """Other programs find what HAR 1.2 asks for, and what there was to say as a comment."""
    found = arrival(verdict=Verdict("wrong", "github", "it does not fit"), note="forwarded")
    log = har([found], ORIGIN)["log"]
    entry = log["entries"][0]

    assert (log["version"], log["creator"]["name"]) == ("1.2", "outbox listen")
    assert entry["startedDateTime"] == "2026-11-22T03:12:06+00:00"
    assert entry["request"]["url"] == f"{ORIGIN}/hooks"
    assert entry["request"]["postData"]["text"] == found.request.body.decode()
    assert entry["response"]["status"] == 200
    assert entry["comment"] == "signature wrong; it does not fit; forwarded"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"log":{"entries":[{}]}}', '{"log":{"entries":7}}', "\xff",
     "[" * 100_000, json.dumps({"log": {"entries": [{
         "startedDateTime": "2026-11-22", "response": {"status": 200},
         "request": {"method": 7, "url": "/", "headers": []},
     }]}})],
)  # fmt: skip
def test_what_is_no_har(text: str) -> None:
    """A file that is none is refused in one line."""
    with pytest.raises(InvalidInput, match=r"^load: is no HAR document: ") as error:
        read_har(text.encode("latin-1"))

    assert "\n" not in str(error.value)


def test_the_file_is_written_safely(tmp_path: Path) -> None:
    """It is for its owner alone, replaced as a whole, and nothing is left beside it."""
    box, path = Inbox(), tmp_path / "a.har"
    har_file.save(path, box, ORIGIN)
    box.keep(arrival())

    assert har_file.save(path, box, ORIGIN) == f"Saved as {path}."
    assert len(read_har(path.read_bytes())) == 1
    assert (path.stat().st_mode & 0o777, list(tmp_path.iterdir())) == (0o600, [path])
    with pytest.raises(Failure, match=r"^har: /no/such/a.har cannot be written: No such file or"):
        har_file.save(tmp_path.parent / "/no/such/a.har", box, ORIGIN)


def test_the_file_is_kept_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written on the way and in the end; a disk that is full meanwhile is heard of."""
    monkeypatch.setattr(har_file, "EVERY", 0.001)
    box, path = Inbox(), tmp_path / "a.har"
    found, failures = request(), list[Exception]()

    async def listen() -> None:
        async with har_file.kept_up_to_date(path, box, ORIGIN, failures.append):
            box.keep(arrival(found, box.arrive(found).number))
            while not path.exists():
                await asyncio.sleep(0.001)
            box.keep(arrival(found, 2))
        assert len(read_har(path.read_bytes())) == 2
        async with har_file.kept_up_to_date(
            tmp_path / "no" / "a.har", box, ORIGIN, failures.append
        ):
            while not failures:
                await asyncio.sleep(0.001)

    with pytest.raises(Failure):
        asyncio.run(asyncio.wait_for(listen(), 10))
    assert isinstance(failures[0], Failure)
