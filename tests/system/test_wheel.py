"""The wheel, as a user gets it: installed, without the source tree, among strangers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers import environment

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
HOSTILE = 'raise RuntimeError("the host\'s own package was imported")'

pytestmark = pytest.mark.system


def run(*command: str | os.PathLike[str], cwd: Path) -> str:
    ended = subprocess.run(  # noqa: S603 - our own commands
        command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by way of the sdist, from a copy of the sources, without the network."""
    sources = tmp_path_factory.mktemp("wheel") / "sources"
    made = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, sources, symlinks=True, ignore=made)
    run(sys.executable, "-m", "build", "--no-isolation", cwd=sources)
    (path,) = sources.glob("dist/*.whl")
    return path


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a fresh environment: ours from the wheel, the dependencies lent."""
    fresh = tmp_path_factory.mktemp("environment")
    venv.create(fresh, with_pip=False, symlinks=True)
    python = fresh / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=fresh)
    Path(site.strip(), "lent.pth").write_text(sysconfig.get_path("purelib"))
    run(sys.executable, "-m", "pip", "--python", python, *_install(wheel), cwd=fresh)
    return fresh / "bin"


def _install(wheel: Path) -> Sequence[str]:
    return ("install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel))


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    """A host's folder with a worker/ and a cli/ of its own."""
    for name in ("worker", "cli"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(HOSTILE)
    return tmp_path


def test_one_top_level_name(wheel: Path) -> None:
    """Nothing of ours can overwrite a package of the host; no link and no test comes along."""
    names = zipfile.ZipFile(wheel).namelist()
    owned = {name for name in names if not name.startswith("outbox_webhooks-")}

    assert {name.split("/")[0] for name in owned} == {"outbox"}
    assert {"outbox/schema.sql", "outbox/py.typed", "outbox/worker/queries/claim.sql"} <= owned


def test_nothing_is_left_out(wheel: Path) -> None:
    """Each module, statement and catalogue of the source tree is in the wheel."""
    folders = {"outbox": "outbox", "outbox/worker": "worker", "outbox/cli": "cli"}
    wanted = {
        f"{name}/{path.relative_to(ROOT / folder)}"
        for name, folder in folders.items()
        for pattern in ("*.py", "*.sql", "*.json")
        for path in (ROOT / folder).rglob(pattern)
        if not any(parent.is_symlink() for parent in path.parents)
    }

    assert wanted - set(zipfile.ZipFile(wheel).namelist()) == set()


@pytest.mark.parametrize(
    "command",
    [
        ["outbox", "--help"],
        ["outbox-worker", "--help"],
        ["python", "-m", "outbox.cli", "--version"],
        ["python", "-m", "outbox.worker", "--version"],
    ],
)
def test_commands(bin_folder: Path, strangers: Path, command: list[str]) -> None:
    """Both commands run, also in a folder that has its own worker/ and cli/."""
    assert run(bin_folder / command[0], *command[1:], cwd=strangers) != ""


def test_schema_is_inside(bin_folder: Path, strangers: Path) -> None:
    """The schema is printed from the wheel."""
    printed = run(bin_folder / "outbox", "schema", "print", cwd=strangers)

    assert printed.strip() == (ROOT / "schema.sql").read_text().strip()


def test_the_source_tree_is_not_used(bin_folder: Path, strangers: Path) -> None:
    """What was tested here is the wheel."""
    code = "import outbox, outbox.worker; print(outbox.__file__, outbox.worker.__file__)"
    printed = run(bin_folder / "python", "-c", code, cwd=strangers)

    assert all(str(bin_folder.parent) in path for path in printed.split())
