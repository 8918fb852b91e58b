"""The pages of docs/reference are what the config models and the commands say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


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
    for line in ("## `[supernet.qat]`", "## `[retrain.teacher]`", "| `lr` | number > 0 | `0.02` |"):
        assert line in study, "defaults are those of the place, not of the model"
    assert "| `space` | string | **required** |" in study
    assert '`"block"`, `"layer"`' in GENERATOR.pages()["search_space.md"]
