import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from usdn_nas._util.errors import UserError
from usdn_nas.report import MissingPartError, Run, load_run
from usdn_nas.report.run import HISTORIES, as_architecture, parse_bits


def test_a_finished_run_is_read_whole(resnet18: Run) -> None:
    assert resnet18.space.chain.macs == 1_814_073_344
    assert resnet18.config.seed == 0
    assert len(resnet18.trials) == 128
    assert resnet18.trials["accuracy"].isna().sum() == 1
    assert resnet18.history("supernet")["accuracy_final@max"].iloc[-1] > 0.9
    assert [len(resnet18.history(stage)) for stage in HISTORIES] == 5 * [20]
    assert next(iter(resnet18.stages)) == "pretrain"


def test_front_is_typed(resnet18: Run) -> None:
    front = resnet18.front
    assert all(isinstance(name, str) and "." in name for name in front["trial"])
    assert front["bops"].is_monotonic_increasing and front["accuracy"].is_monotonic_increasing
    for exits, thresholds in zip(front["exits"], front["thresholds"], strict=True):
        assert isinstance(exits, tuple) and isinstance(thresholds, tuple) and len(exits) == len(thresholds)
        assert all(isinstance(value, float) for value in thresholds)
    assert set(front["layer1.0"]) <= {"2/2", "3/3", "4/4", "5/5"}


def test_a_point_is_an_architecture_of_the_space(resnet18: Run) -> None:
    for name in resnet18.front["trial"]:
        resnet18.space.check(resnet18.point(name))
    with pytest.raises(UserError, match="no point '999.9'"):
        resnet18.point("999.9")


def test_the_winner_has_the_refitted_thresholds(resnet18: Run) -> None:
    assert resnet18.winner.exits == tuple(resnet18.architecture["exits"])
    assert list(resnet18.winner.thresholds) == resnet18.retrained["thresholds"] != resnet18.architecture["thresholds"]


def test_the_retrained_folder_is_that_of_the_exported_architecture(resnet18: Run) -> None:
    assert (resnet18.retrained_folder / "kd/architecture.json").is_file()
    assert resnet18.retrained_folder.parent == resnet18.path / "retrain"
    assert as_architecture(resnet18.architecture).network_digest.startswith(resnet18.retrained_folder.name)
    assert len(resnet18.retrained_folder.name) == 12


@pytest.mark.parametrize(
    "part",
    ["trials", "front", "architecture", "retrained_folder", "winner", "evaluation", "ladder", "diagnostics", "stages"],
)
def test_a_missing_part_names_its_file_and_stage(started: Callable[[], Run], part: str) -> None:
    with pytest.raises(MissingPartError, match=r"not written yet; stage '\w+' writes it: usdn-nas"):
        getattr(started(), part)


def test_a_missing_history(started: Callable[[], Run]) -> None:
    with pytest.raises(MissingPartError, match="usdn-nas supernet"):
        started().history("supernet")
    with pytest.raises(UserError, match="did you mean 'teacher'"):
        started().history("techer")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        load_run(tmp_path / "none")
    with pytest.raises(UserError, match="not a run folder"):
        load_run(tmp_path)


def test_another_schema_is_refused(started: Callable[[], Run]) -> None:
    run = started()
    path = run.path / "evaluation.json"
    path.write_text(json.dumps({"schema": "usdn-nas/evaluation/3"}))
    with pytest.raises(UserError, match="expected schema 'usdn-nas/evaluation/2', got 'usdn-nas/evaluation/3'"):
        run.evaluation  # noqa: B018


def test_an_evaluation_of_another_architecture_is_not_taken_for_the_winners(
    started: Callable[[], Run], resnet18: Run
) -> None:
    run = started()
    (run.path / "export").mkdir()
    for name in ("export/architecture.json", "evaluation.json"):
        (run.path / name).write_text((resnet18.path / name).read_text())
    digest = resnet18.architecture["digest"]
    changed = (run.path / "evaluation.json").read_text().replace(digest, "0" * 64)
    (run.path / "evaluation.json").write_text(changed)
    with pytest.raises(MissingPartError, match=f"is of architecture 000000000000, but {digest[:12]} is exported now"):
        run.evaluation  # noqa: B018


def test_a_broken_front_is_refused(started: Callable[[], Run]) -> None:
    run = started()
    (run.path / "search").mkdir()
    (run.path / "search/front.csv").write_text("trial,accuracy,bops\n1.0,high,3\n")
    with pytest.raises(UserError, match=r"front\.csv: expected a column 'relative_bops'"):
        run.front  # noqa: B018


@pytest.mark.parametrize("text", ["3", "3/", "a/b", ""])
def test_bits_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="expected bits as W/A"):
        parse_bits(text)


def test_the_room_is_light() -> None:
    code = (
        "import sys, usdn_nas.report as r; assert not {'matplotlib', 'pandas'} & set(sys.modules);"
        "from usdn_nas.report import *; assert set(r.__all__) <= set(dir());"
        "assert not {'torch', 'optuna', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_unknown_names_of_the_room() -> None:
    with pytest.raises(ImportError):
        from usdn_nas.report import plot_nothing  # type: ignore[attr-defined]  # noqa: F401
