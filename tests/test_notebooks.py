"""The notebooks: their code runs top to bottom beside a finished run, and what is committed was run that way too."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from usdn_nas.report import load_run

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MAKES_ITS_OWN = "03_your_own_model"
"""The notebook that needs no finished run."""
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def _run(path: Path) -> dict[str, Any]:
    """Runs the code cells in one namespace, without IPython's own lines (%matplotlib)."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(_cells(path), start=1):
        code = re.sub(r"^%.*$", "", "".join(cell["source"]), flags=re.MULTILINE)
        exec(compile(code, f"{path.name}, code cell {number}", "exec"), names)
    return names


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tree as a notebook sees it from its folder; no run there yet."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.sweep
@every_notebook
def test_code_runs_top_to_bottom(path: Path, tiny: Path, beside: Path) -> None:
    (beside / "runs/digits").symlink_to(tiny)
    names = _run(path)
    if path.stem == "02_bits_and_exits":
        _check_leaving_early(names, load_run(tiny).evaluation["models"]["kd"])
    if path.stem == MAKES_ITS_OWN:
        assert len(names["run"].trials) == 27 and names["run"].space.chain.network == "my_model:small_net"


def _check_leaving_early(names: dict[str, Any], kd: dict[str, Any]) -> None:
    """What left where, sample by sample, is what the evaluation computed from all exits' outputs."""
    assert names["counts"].tolist() == [round(row["exit_rate"] * len(names["test"])) for row in kd["exits"]]
    assert names["average"] == pytest.approx(kd["policy"]["average_bops"])
    assert (names["prediction"].labels == names["labels"]).double().mean().item() == kd["policy"]["accuracy"]


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != MAKES_ITS_OWN], ids=lambda path: path.stem)
def test_without_a_run_it_says_how_to_get_one(path: Path, beside: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no finished run in \.\./runs/digits: 'make demo'"):
        _run(path)


@every_notebook
def test_outputs_are_committed_and_name_no_machine(path: Path) -> None:
    cells = _cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["metadata"] == {} for cell in cells), "neither timings nor editors' marks"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"execute_result", "stream", "display_data"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = path.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"/(home|root|tmp|usr|Users|work)/|site-packages", text)
