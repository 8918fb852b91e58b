"""The built wheel holds what the tree holds, and works away from the tree."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.sweep
FOLDERS = {"usdn_nas": "usdn_nas", "search_spaces": "usdn_nas/search_spaces", "studies": "usdn_nas/studies"}


def _run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _pip(*arguments: object, cwd: Path) -> None:
    _run("-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel is installed. Built from a copy: a build leaves files in its source tree."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", base, source, cwd=base)
    _pip("install", "--no-deps", "--target", base / "installed", next(base.glob("*.whl")), cwd=base)
    return base / "installed"


def _files(folder: Path, prefix: str) -> set[str]:
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_files_are_those_of_the_tree(installed):
    expected = set().union(*(_files(ROOT / folder, inside) for folder, inside in FOLDERS.items()))
    assert _files(installed / "usdn_nas", "usdn_nas") == expected
    assert "usdn_nas/py.typed" in expected


def test_shipped_toml_is_found_anywhere(installed, tmp_path):
    program = (
        "import json, usdn_nas; from usdn_nas.config import list_toml\n"
        "print(json.dumps([usdn_nas.__file__, *({name: str(path) for name, path in list_toml(folder).items()}"
        " for folder in ('search_spaces', 'studies'))]))"
    )
    module, *found = json.loads(_run("-c", program, cwd=tmp_path, PYTHONPATH=str(installed)))
    assert Path(module).is_relative_to(installed)
    for folder, files in zip(("search_spaces", "studies"), found, strict=True):
        assert set(files) == {path.stem for path in (ROOT / folder).glob("*.toml")}
        assert all(Path(path).is_relative_to(installed / "usdn_nas" / folder) for path in files.values())


def test_entry_point_is_declared(installed):
    text = next(installed.glob("usdn_nas-*.dist-info/entry_points.txt")).read_text(encoding="utf-8")
    assert "usdn-nas = usdn_nas.cli:main" in text
