"""`outbox subscriptions apply|export`: subscriptions as a file in version control."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from outbox import InvalidInput, schema, subscriptions
from outbox.subscription_files import as_document, dump, load
from outbox.subscription_plans import carry_out, plan

from . import output
from .options import (
    allow_option,
    confirm,
    database_option,
    json_option,
    read_stdin,
    text_option,
    yes_option,
)
from .program import Failure, WrongUse
from .rows import differences_row
from .secret_text import note, secret_row
from .session import author, open_engine, transaction
from .subscription_print import print_differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.subscription_plans import Made, Step

    from .rows import Row

STDIN = "-"
_SIGNS = {"added": "+", "changed": "~", "removed": "-"}


@click.command()
@text_option("--tenant", help="Only those of this tenant.", max_chars=255)
@json_option
@database_option()
def export(tenant: str | None, as_json: bool) -> None:
    """Print subscriptions as a file that `apply` takes.

    It is TOML, or JSON with --json, with what is set and nothing else. Secrets are not in
    it; values of headers whose names sound like credentials stand there as [secure].

    \b
    Example:
      outbox subscriptions export > subscriptions.toml
    """
    with transaction() as connection:
        found = subscriptions.list_subscriptions(connection, tenant=tenant)
    if as_json:
        output.document(as_document(found))
    else:
        output.raw(dump(found).encode())


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--check", is_flag=True, help="As --dry-run; the exit code is 1 if anything would.")
@click.option("--prune", is_flag=True, help="Remove those that have a name and are not in FILE.")
@text_option(
    "--tenant", help="All in FILE is this tenant's, and no other's is pruned.", max_chars=255
)
@yes_option
@allow_option
@json_option
@database_option()
def apply(
    file: str, dry_run: bool, check: bool, prune: bool, tenant: str | None, yes: bool, allow: Any,
    as_json: bool,
) -> None:  # fmt: skip
    """Make the subscriptions as FILE wants them, or - for stdin.

    FILE is what `export` prints. It shows first what would change, then asks; then all is
    done in one transaction, or nothing. Each stands under its name: an unknown name is a
    new subscription, whose secret is shown once, unless the file says where it is: secret
    = { env = "NAME" }. Those that are not in FILE stay, and whether one is paused is not
    its business.

    \b
    Example:
      outbox subscriptions apply subscriptions.toml --dry-run
    """
    if file == STDIN and not (yes or dry_run or check):
        raise WrongUse("FILE is stdin, so nobody can be asked; pass --yes or --dry-run")
    entries = load(_read(file), environ=os.environ)
    with open_engine() as engine:
        with engine.begin() as connection:
            schema.check(connection)
            known = subscriptions.list_subscriptions(connection, tenant=tenant)
        steps = plan(entries, known, prune=prune, tenant=tenant)
        if not as_json:
            _print_plan(steps)
        if dry_run or check or not steps:
            if as_json:
                output.document([_step_row(step) for step in steps])
            if check and steps:
                raise Failure(f"{len(steps):,} would change")
            return
        _agree(steps, yes=yes)
        with engine.begin() as connection:
            made = carry_out(connection, steps, by=author(), environ=os.environ, allow=allow)
    _print_made(steps, made, as_json)


def _agree(steps: Sequence[Step], *, yes: bool) -> None:
    removed = sum(step.change == "removed" for step in steps)
    also = f", {removed:,} of them removed for good" if removed else ""
    confirm(f"Change {len(steps):,}{also}?", yes=yes, otherwise="nothing was changed")


def _read(file: str) -> str:
    try:
        raw = read_stdin() if file == STDIN else Path(file).read_bytes()
        return raw.decode()
    except OSError as error:
        raise InvalidInput("file", f"cannot be read from {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput("file", "is not UTF-8") from error


def _step_row(step: Step) -> Row:
    id = None if step.before is None else step.before.id
    differs = differences_row(step.differs)
    return {"change": step.change, "name": step.key, "id": id, "differs": differs}


def _print_plan(steps: Sequence[Step]) -> None:
    if not steps:
        output.line("Nothing to change: all is so already.")
    for step in steps:
        output.line(f"{_SIGNS[step.change]} {step.key}")
        print_differences(step.differs)


def _print_made(steps: Sequence[Step], made: Sequence[Made], as_json: bool) -> None:
    rows = [
        _step_row(step) | {"id": each.id} | secret_row(each.secret)
        for step, each in zip(steps, made, strict=True)
    ]
    if as_json:
        output.document(rows)
        return
    output.line(f"Done: {_counts(steps)}.")
    for step, each in zip(steps, made, strict=True):
        if each.secret is not None:
            row = {"name": step.key, "id": each.id} | secret_row(each.secret)
            output.one(row, as_json=False)
    secrets = [each.secret for each in made if each.secret is not None]
    if secrets:
        note(secrets[0])


def _counts(steps: Sequence[Step]) -> str:
    counts = {sign: sum(step.change == sign for step in steps) for sign in _SIGNS}
    return ", ".join(f"{count:,} {change}" for change, count in counts.items() if count)
