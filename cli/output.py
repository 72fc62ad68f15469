"""What goes out to the terminal. This is the only module that prints.

A program gets one JSON document on stdout and nothing else; a person gets lines and
tables, in colour on a terminal unless NO_COLOR says otherwise.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from . import layout
from .documents import csv_line, dump
from .keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Self

    from .layout import Row


def document(value: object) -> None:
    """Print `value` as JSON, in UTF-8 whatever the terminal speaks (RFC 8259)."""
    click.echo(dump(value).encode())


def document_line(value: object) -> None:
    """Print `value` as JSON on one line, at once, for whoever reads along."""
    click.echo(dump(value).replace("\n", "").encode())  # texts have theirs escaped


def page(made: Callable[[int | None, bool], Iterable[Text]]) -> None:
    """Print the lines that are `made` for the terminal's width, None in a pipe.

    It is also told whether there is nothing but ASCII.
    """
    console = _console()
    width = console.width if console.is_terminal else None
    _print(console, made(width, console.options.ascii_only))


def one(row: Row, *, as_json: bool) -> None:
    """Print one thing: a JSON object, or a name and its value on each line."""
    if as_json:
        document(row)
    else:
        _print(_console(), layout.fields(row))


def many(rows: Iterable[Row], columns: Sequence[str], shape: str) -> None:
    """Print many things: a table of `columns`, or all they have in a `shape` for programs."""
    if shape == "jsonl":
        for row in rows:
            document(row)
    elif shape == "csv":
        _csv(rows, columns)
    elif shape == "json":
        document(list(rows))
    else:
        _table(list(rows), columns)


def _csv(rows: Iterable[Row], columns: Sequence[str]) -> None:
    names: Sequence[str] | None = None
    for row in rows:
        if names is None:
            click.echo(csv_line(names := list(row)).encode(), nl=False)
        click.echo(csv_line(row.values()).encode(), nl=False)
    if names is None:
        click.echo(csv_line(columns).encode(), nl=False)


def _table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    console = _console()
    if not rows:
        line("None.")
        return
    room = console.width if console.is_terminal else None
    _print(console, layout.table(rows, columns, room))


def line(text: str) -> None:
    """Print a sentence, or several lines."""
    _print(_console(), [Text(layout.shown(text, lines=True))])


def differences(found: Sequence[tuple[str, object, object]], *, indent: int = 4) -> None:
    """Print what differs: a name, what it was before, what it is after."""
    _print(_console(), layout.differences(found, indent=indent))


def section(heading: str, text: str | None = None) -> None:
    """Print a heading after an empty line, and `text` beneath it."""
    _print(_console(), [Text(), Text(heading.upper(), "bold")])
    if text is not None:
        line(text)


def request(row: Mapping[str, Any], *, as_json: bool) -> None:
    """Print an HTTP request: a JSON object, or its lines with a note that it is a real one."""
    if as_json:
        document(row)
    else:
        request_lines(row)
        note("The signatures are real: whoever sees them can send this request.")


def request_lines(row: Mapping[str, Any]) -> None:
    """Print the lines of an HTTP request."""
    head = [f"{row['method']} {row['url']}"]
    head += [f"{name}: {value}" for name, value in row["headers"].items()]
    line("\n".join([*head, "", row["body"]]))


def raw(content: bytes) -> None:
    """Print these bytes and nothing else."""
    click.echo(content, nl=False)


def note(text: str) -> None:
    """Print a sentence that is no result, on stderr."""
    _print(_console(stderr=True), [Text(layout.shown(text))])


def confirmed(question: str) -> bool:
    """Ask on the terminal, by stderr."""
    return click.confirm(layout.shown(question), err=True)


def asked_secret(name: str) -> str:
    """Ask for a secret on the terminal, without showing what is typed."""
    return str(click.prompt(name, hide_input=True, err=True))


class Feed:
    """Lines that come one after the other for as long as the program runs."""

    def __init__(self) -> None:
        self._console = _console()

    @property
    def room(self) -> int | None:
        """How many cells the terminal is wide now, None if there is none."""
        return self._console.width if self._console.is_terminal else None

    def show(self, lines: Iterable[Text]) -> None:
        """Print lines that are laid out for the room there is."""
        _print(self._console, lines)


class Progress:
    """What is going on: redrawn in place on a terminal, elsewhere a line each second."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._console = _console(stderr=to_stderr)
        self._live = Live(console=self._console, auto_refresh=False)
        self._began = time.monotonic()
        self._next = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, view: Mapping[str, str]) -> None:
        """Show each name with what there is to say about it."""
        if self._console.is_terminal:
            self._live.update(Text("\n").join(layout.fields(view)), refresh=True)
        elif (seconds := time.monotonic() - self._began) >= self._next:
            self._next = seconds + 1
            parts = "; ".join(f"{name}: {text}" for name, text in view.items())
            _print(self._console, [Text(f"{seconds:3.0f} s  {parts}")])


class Bar:
    """How far something long is, on stderr: a bar on a terminal, else a line now and then.

    with output.Bar("replay", 1_000_000) as bar:
        bar.show(250_000)
    """

    def __init__(self, what: str, total: int, *, every: float = 5.0) -> None:
        self._what = what
        self._total = total
        self._every = every  # seconds between two lines where there is no terminal
        self._console = _console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._began = time.monotonic()
        self._first: int | None = None
        self._next = every

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, done: int, *, last: bool = False) -> None:
        """Show that `done` of the total are done; `last` always prints a line."""
        seconds = time.monotonic() - self._began
        self._first = done if self._first is None else self._first
        rate = (done - self._first) / seconds if seconds > 0.5 else None
        if self._console.is_terminal:
            width = self._console.width
            text = layout.bar(self._what, done, self._total, rate, width=width)
            self._live.update(text, refresh=True)
        elif last or seconds >= self._next:
            self._next = seconds + self._every
            _print(self._console, [layout.bar(self._what, done, self._total, rate)])

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        _print(self._console, [Text(layout.shown(text))])


class Screen:
    """The whole terminal, drawn anew whenever there is something new, until it is left.

    What stood there comes back at the end, also after Ctrl-C, SIGTERM, or an error. Ctrl-Z
    works: the shell gets its terminal as it was.

        with output.Screen() as screen:
            while screen.key(timeout=0.2) != "q":
                screen.show(lines)
    """

    def __init__(self) -> None:
        self._console = _console()
        self._live = Live(console=self._console, auto_refresh=False, screen=True)
        self._keys: Keys | None = None
        self._before: dict[int, Any] = {}

    @staticmethod
    def is_possible() -> bool:
        """Return whether stdout is a terminal that can be drawn on."""
        console = _console()
        return console.is_terminal and not console.is_dumb_terminal

    @property
    def size(self) -> tuple[int, int]:
        """Its width and height now, in cells."""
        return self._console.size

    @property
    def ascii_only(self) -> bool:
        """Whether it shows nothing but ASCII."""
        return self._console.options.ascii_only

    def __enter__(self) -> Self:
        for number, handler in ((signal.SIGTERM, _end), (signal.SIGTSTP, self._suspend)):
            self._before[number] = signal.signal(number, handler)
        self._resume()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def show(self, lines: Iterable[Text]) -> None:
        """Draw these lines from the top."""
        self._live.update(Text("\n", no_wrap=True).join(lines), refresh=True)

    def key(self, *, timeout: float) -> str | None:
        """Return the key that was pressed within `timeout` seconds, None if none was."""
        return self._keys.read(timeout) if self._keys else None

    def _resume(self) -> None:
        self._keys = Keys()
        self._live.start()

    def _leave(self) -> None:
        self._live.stop()
        if self._keys:
            self._keys.close()

    def _suspend(self, *_: object) -> None:
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._resume()


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _console(*, stderr: bool = False) -> Console:
    if os.environ.get("NO_COLOR"):  # no bold either, which Console would leave
        return Console(stderr=stderr, color_system=None, highlight=False)
    return Console(stderr=stderr, highlight=False)


def _print(console: Console, lines: Iterable[Text]) -> None:
    for text in lines:
        console.print(text, soft_wrap=True)
