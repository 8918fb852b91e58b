"""The pages of docs/reference are what the config models and the commands say."""

import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PARTS = {"<stage>": "{pretrain,supernet,retrain/<digest>/teacher,retrain/<digest>/kd,retrain/<digest>/ce}"}


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()


@pytest.mark.parametrize("name", GENERATOR.pages())
def test_reference_is_up_to_date(name: str) -> None:
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert written == GENERATOR.pages()[name], "python docs/generate.py writes it anew"


def test_every_setting_is_there() -> None:
    study = GENERATOR.pages()["study.md"]
    for line in ("## `[supernet.qat]`", "## `[retrain.teacher]`", "| `lr` | number > 0 and ≤ 100 | `0.02` |"):
        assert line in study, "defaults are those of the place, not of the model"
    assert "| `space` | string | **required** |" in study
    assert '`"block"`, `"layer"`' in GENERATOR.pages()["search_space.md"]


def _patterns(cell: str) -> Iterator[str]:
    """Regular expressions of the files that a cell of docs/files.md names."""
    for name in re.findall(r"`([^`]+)`", cell):
        for part, meaning in PARTS.items():
            name = name.replace(part, meaning)
        choices = [piece.strip("{}").split(",") for piece in re.findall(r"{[^}]*}|[^{]+", name)]
        for pieces in itertools.product(*choices):
            escaped = re.escape("".join(pieces))
            yield escaped.replace("<digest>", "[0-9a-f]{12}").replace(r"\*", "[^/]+")


def test_every_file_of_a_run_is_listed_with_its_schema(tiny: Path) -> None:
    table = re.findall(
        r"^\| (`.*?`) \| (.*?) ?\| .* ?\|$", (DOCS / "files.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    schemas = {pattern: schema.strip("` ") for cell, schema in table for pattern in _patterns(cell)}
    assert len(schemas) > 20
    for path in (path for path in tiny.rglob("*") if path.is_file()):
        name = path.relative_to(tiny).as_posix()
        if name in (".lock", "search/study.journal.flock"):
            continue
        (schema,) = [schema for pattern, schema in schemas.items() if re.fullmatch(pattern, name)]
        if path.suffix == ".json":
            assert json.loads(path.read_text(encoding="utf-8"))["schema"] == schema, name


@pytest.mark.sweep
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "(WACV 2024)" in (tmp_path / "site/index.html").read_text(encoding="utf-8")
