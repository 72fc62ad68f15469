"""The rules of the house: what lies where, who knows whom, what has which name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGES = {"outbox": "outbox", "worker": "outbox.worker", "cli": "outbox.cli"}
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "benchmarks", "cli",
    "examples", "outbox", "pyproject.toml", "schema.sql", "tests", "worker",
}  # fmt: skip
LINKS = {"outbox/cli": "../cli", "outbox/schema.sql": "../schema.sql", "outbox/worker": "../worker"}
RUNS_SQL = {"worker/store.py"}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
OUTLASTS = re.compile(
    r"pg_(try_)?advisory_(lock|unlock)|\bTEMP(ORARY)? TABLE|\bWITH HOLD\b|pg_export_snapshot",
    re.IGNORECASE,
)
SQL = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH)\s")


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Each module of these folders, links not followed: its path from the root, its syntax tree."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents):
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each import as its dots and its module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def test_top_level() -> None:
    """The root holds what the design lists and nothing else."""
    ignored = (ROOT / ".gitignore").read_text().split()
    made = {path for pattern in (*ignored, ".git") for path in ROOT.glob(pattern.rstrip("/"))}

    assert {path.name for path in ROOT.iterdir() if path not in made} - TOP_LEVEL == set()


def test_links() -> None:
    """The only links are the three that give the folders their names in the wheel."""
    folders = [ROOT / folder for folder in (*PACKAGES, "tests")]
    links = [path for folder in folders for path in folder.rglob("*") if path.is_symlink()]

    assert {str(link.relative_to(ROOT)): str(link.readlink()) for link in links} == LINKS


def test_public_names() -> None:
    """What `outbox` offers is what it says it offers."""
    public = {
        name
        for name, value in vars(outbox).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert set(outbox.__all__) - {"__version__"} == public
    assert sorted(outbox.__all__) == outbox.__all__


def test_import_is_light() -> None:
    """`import outbox` takes neither the ORM nor a driver along, nor what few hosts need."""
    heavy = ("sqlalchemy.orm", "sqlalchemy.ext.asyncio", "psycopg", "jsonschema", "aiohttp")
    code = f"import sys, outbox; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert ended.stdout == "[]\n"


def test_every_package_is_in_the_wheel() -> None:
    """Setuptools is told of each folder with an __init__.py, because it does not look itself."""
    found = {
        ".".join([PACKAGES[first], *rest])
        for path, _ in sources(*PACKAGES)
        if path.endswith("__init__.py")
        for first, *rest in [Path(path).parent.parts]
    }
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert set(settings["tool"]["setuptools"]["packages"]) == found


def test_imports_stay_relative_within_a_package() -> None:
    """A package calls its own modules relatively and never reaches out of itself with dots."""
    wrong = [
        (path, "." * dots + module)
        for path, tree in sources(*PACKAGES)
        for dots, module in imports(tree)
        if dots >= len(Path(path).parts) or (dots == 0 and own_name(path, module))
    ]

    assert wrong == []


def own_name(path: str, module: str) -> bool:
    package = PACKAGES[Path(path).parts[0]]
    return within(module, package) or module.split(".")[0] in {"worker", "cli"}


def test_worker_and_cli_are_strangers() -> None:
    """Neither imports the other, under any name."""
    other = {"worker": "cli", "cli": "worker"}
    wrong = [
        (path, module)
        for path, tree in sources("worker", "cli")
        for dots, module in imports(tree)
        if not dots and within(module, f"outbox.{other[Path(path).parts[0]]}")
    ]

    assert wrong == []


def test_sql_has_its_places() -> None:
    """Statements stand in .sql files or are built with SQLAlchemy; only a store has a literal."""
    wrong = [
        (path, node.lineno)
        for path, tree in sources(*PACKAGES)
        if path not in RUNS_SQL
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
    ]

    assert wrong == []


def test_nothing_outlasts_its_transaction() -> None:
    """No lock, table or cursor belongs to a session: behind a pooler the next may be another."""
    paths = [ROOT / "schema.sql", *(ROOT / "worker/queries").glob("*.sql")]
    texts = [path.read_text() for path in paths]
    texts += [ast.unparse(tree) for _, tree in sources(*PACKAGES)]

    assert OUTLASTS.search("SELECT pg_try_advisory_lock(7)")
    assert [found for text in texts for found in OUTLASTS.findall(text)] == []


def test_queries_are_named_as_their_methods() -> None:
    """Each file in worker/queries is run by the method of the store that has its name."""
    queries = {path.stem for path in (ROOT / "worker/queries").glob("*.sql")}
    parts = [tree for path, tree in sources("worker") if path.endswith("store.py")]
    nodes = (node for tree in parts for node in ast.walk(tree))
    methods = {node.name for node in nodes if isinstance(node, FUNCTION)}

    assert queries - methods == set()


def test_loggers_have_fixed_names() -> None:
    """A logger's name does not depend on where its module lies."""
    wrong = [
        (path, node.lineno)
        for path, tree in sources(*PACKAGES)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node).endswith("getLogger(__name__)")
    ]

    assert wrong == []


def test_readme_begins() -> None:
    """The README's first 60 lines show the point, the demo and the first lines of code."""
    beginning = "\n".join((ROOT / "README.md").read_text().splitlines()[:60])

    for wanted in ("make demo", "emit(", "outbox subscriptions add", "outbox-worker"):
        assert wanted in beginning


def test_every_test_says_what_is_true() -> None:
    """Each test has a docstring."""
    silent = [
        (path, node.name)
        for path, tree in sources("tests")
        for node in ast.walk(tree)
        if isinstance(node, FUNCTION)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]

    assert silent == []
