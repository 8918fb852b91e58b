"""A run folder run again: nothing, or exactly what depends on what changed."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline.tiny import contents, context, no_figures, recorded, run, snapshot
from usdn_nas._util.errors import UserError
from usdn_nas.pipeline.ledger import Ledger
from usdn_nas.pipeline.stages import Pipeline

RETRAIN = ["retrain/teacher", "retrain/kd", "retrain/kd thresholds", "retrain/ce", "retrain/ce thresholds"]
END = ["evaluate", "report"]
ALL = ["pretrain", "supernet", "search", "export", *RETRAIN, *END]


@pytest.fixture(autouse=True)
def _quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_figures(monkeypatch)
    monkeypatch.chdir(tmp_path)


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "search/trials.csv").open() as file:
        return list(csv.DictReader(file))


def exported(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "export/architecture.json").read_text())
    return found


def other_point(folder: Path) -> str:
    """A point of the front that is not exported and has other bits or exits."""
    with (folder / "search/front.csv").open() as file:
        front = list(csv.DictReader(file))
    now = next(row for row in front if row["trial"] == exported(folder)["source"]["trial"])
    groups = list(exported(folder)["bits"])
    return next(row["trial"] for row in front if row["exits"] != now["exits"] or any(row[g] != now[g] for g in groups))


def aside(folder: Path) -> Path:
    """The one folder of the stage pretrain that is set aside."""
    (found,) = folder.glob("pretrain.*")
    assert re.fullmatch(r"pretrain\.[0-9a-f]{12}", found.name)
    return found


def test_nothing_to_do(tiny_copy: Path) -> None:
    before = snapshot(tiny_copy)
    assert run(tiny_copy) == []
    assert run(tiny_copy.parents[1] / "studies/tiny.toml") == []
    assert snapshot(tiny_copy) == before


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("evaluate.bins=7", END),
        ("retrain.alpha=0.9", ["retrain/kd", "retrain/kd thresholds", *END]),
        ("retrain.compare_ce=false", END),
        ("retrain.teacher.lr=0.04", [*RETRAIN, *END]),
        ("supernet.random_paths=0", ALL[1:]),
        ("seed=4", ALL),
    ],
)
def test_a_setting_runs_again_what_depends_on_it(setting: str, expected: list[str], tiny_copy: Path) -> None:
    before = snapshot(tiny_copy)
    assert run(tiny_copy, setting) == expected
    after = snapshot(tiny_copy)
    folders = {"supernet": "supernet/", "pretrain": "pretrain/", "search": "search/", "export": "export/"}
    for stage, prefix in folders.items():
        if stage not in expected:
            assert [after[name] for name in after if name.startswith(prefix)] == [
                before[name] for name in before if name.startswith(prefix)
            ]
    assert run(tiny_copy) == []  # the run folder keeps the setting


@pytest.mark.parametrize(
    "setting",
    ["supernet.smallest=true", "supernet.refresh_images=64", "supernet.paths=uniform", "supernet.teacher=largest"],
)
def test_another_recipe_is_another_supernet(setting: str, tiny_copy: Path) -> None:
    before = load_file(tiny_copy / "supernet/weights.safetensors")
    ran = run(tiny_copy, setting)
    assert ran[:3] == ALL[1:4] == ["supernet", "search", "export"]
    assert ran[3:] in ([*RETRAIN, *END], END)  # the same network may win
    after = load_file(tiny_copy / "supernet/weights.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("running_" in name for name in changed)
    learned = {name for name in changed if "running_" not in name}
    assert bool(learned) == ("refresh_images" not in setting)


def test_settings_that_no_result_depends_on(tiny_copy: Path) -> None:
    # The number of trials is reached, and where it runs is no input; but the page shows the settings.
    assert run(tiny_copy, "search.configurations=5", "device=cpu", "threads=2", until="evaluate") == []


@pytest.mark.parametrize("setting", ["temperature=4.0", "alpha_weighs=ce", "teacher_exit=final"])
def test_settings_of_distillation_alone(setting: str, tiny_copy: Path) -> None:
    pipeline = Pipeline(context(tiny_copy, f"retrain.{setting}"))
    file = pipeline.architecture()
    done = {stage.key.split("/")[-1]: pipeline.ledger.is_done(stage) for stage in pipeline.retrain(file)}
    assert done == {"teacher": True, "kd": False, "kd thresholds": True, "ce": True, "ce thresholds": True}
    assert pipeline.ledger.is_done(pipeline.search()) and pipeline.ledger.is_done(pipeline.export())


def test_tr_of_a_pareto_search_picks_another_point(tiny_copy: Path) -> None:
    before = exported(tiny_copy)
    ran = run(tiny_copy, "search.tr=0.3000001")  # the same point: what was trained for it stays
    assert ran == ["export", "retrain/kd thresholds", "retrain/ce thresholds", *END]
    assert exported(tiny_copy)["digest"] == before["digest"]
    assert json.loads((tiny_copy / "evaluation.json").read_text())["architecture_digest"] == before["digest"]
    assert run(tiny_copy, "search.tr=5.0", until="export") == ["export"]
    assert exported(tiny_copy)["bits"] == {name: [2, 2] for name in before["bits"]}  # the cheapest
    ran = run(tiny_copy, "search.tr=0.3", until="retrain")  # back again: the thresholds were of another tr
    assert ran == ["export", "retrain/kd thresholds", "retrain/ce thresholds"]


@pytest.mark.parametrize("override", ["search.mode=budget", "search.sampler=brute"])
def test_what_cannot_work_is_refused_before_anything_is_written(tiny: Path, tmp_path: Path, override: str) -> None:
    """Also for those who call `Pipeline.run` themselves rather than the command, which looks before it locks."""
    impossible = {"search.mode=budget": "search.gbops=1e-7", "search.sampler=brute": 'search.exits="sampled"'}
    made = context(tiny, override, impossible[override], out=tmp_path / "new")
    with pytest.raises(UserError):
        Pipeline(made).run(until="pretrain")
    assert not (tmp_path / "new").exists()


def test_a_budget_for_the_export(tiny_copy: Path) -> None:
    bops = exported(tiny_copy)["metrics"]["average_bops"]
    assert run(tiny_copy, f"export.budget={bops / 1e9 * 0.9}", until="export") == ["export"]
    found = exported(tiny_copy)
    assert found["metrics"]["average_bops"] <= bops * 0.9
    assert found["objective"] == {"mode": "budget", "tr": None, "budget_bops": pytest.approx(bops * 0.9)}


def test_a_smoothed_score_for_the_export(tiny_copy: Path) -> None:
    assert run(tiny_copy, "export.score=smoothed", until="export") == ["export"]
    assert exported(tiny_copy)["source"]["score"] == "smoothed"
    assert run(tiny_copy, "export.score=smoothed", until="export") == []
    assert run(tiny_copy, "export.score=measured", until="export", repick=False) == []
    assert exported(tiny_copy)["source"]["score"] == "smoothed"  # as one picked by hand
    assert run(tiny_copy, "export.score=measured", until="export") == []  # what was there before is taken back
    assert "score" not in exported(tiny_copy)["source"]


def test_more_configurations_extend_the_search(tiny_copy: Path) -> None:
    before = trials(tiny_copy)
    journal = (tiny_copy / "search/study.journal").read_bytes()
    ran = run(tiny_copy, "search.configurations=8", until="export")
    assert ran in (["search", "export"], ["search"])  # the front may be the same, seconds in trials.csv are not
    after = trials(tiny_copy)
    assert len(after) == 8 and after[:6] == before
    assert (tiny_copy / "search/study.journal").read_bytes().startswith(journal)


def test_an_objective_alone_refits_thresholds(tiny_copy: Path, tmp_path: Path) -> None:
    found = exported(tiny_copy)
    given = tmp_path / "given.json"
    given.write_text(json.dumps(found | {"objective": {"mode": "tr", "tr": 0.5}}))
    before = snapshot(tiny_copy)
    with recorded() as ran:
        Pipeline(context(tiny_copy)).retrain_all(given)
    assert ran == ["retrain/kd thresholds", "retrain/ce thresholds"]
    after = snapshot(tiny_copy)
    changed = {name for name in after if after[name] != before.get(name)}
    (folder,) = (str(path.relative_to(tiny_copy)) for path in (tiny_copy / "retrain").iterdir())
    assert changed == {f"{folder}/kd/architecture.json", f"{folder}/ce/architecture.json", "stages.json"}


def test_a_point_picked_by_hand_stays_until_run(tiny_copy: Path) -> None:
    winner, point = exported(tiny_copy)["source"]["trial"], other_point(tiny_copy)
    with recorded() as ran:
        pipeline = Pipeline(context(tiny_copy, f'export.trial="{point}"'))
        pipeline.ledger.ensure(pipeline.export())
    assert ran == ["export"]
    for until, expected in (("retrain", RETRAIN[:3]), ("evaluate", ["evaluate"]), ("report", ["report"])):
        assert run(tiny_copy, "retrain.compare_ce=false", until=until, repick=False) == expected
        assert exported(tiny_copy)["source"]["trial"] == point
    evaluation = json.loads((tiny_copy / "evaluation.json").read_text())
    assert evaluation["architecture_digest"] == exported(tiny_copy)["digest"]
    # The winner's file and networks are still there: only what reads them is done anew.
    assert run(tiny_copy) == END
    assert exported(tiny_copy)["source"]["trial"] == winner
    # A new search has another front, to which a point picked by hand no longer belongs.
    pipeline = Pipeline(context(tiny_copy, f'export.trial="{point}"'))
    pipeline.ledger.ensure(pipeline.export())
    assert "export" in run(tiny_copy, "search.thresholds=8", until="export", repick=False)


@pytest.mark.parametrize(
    ("name", "stage", "until"),
    [
        ("pretrain/weights.safetensors", "pretrain", "pretrain"),
        ("retrain/*/kd/weights.safetensors", "retrain/kd", "retrain"),
        ("retrain/*/kd/architecture.json", "retrain/kd thresholds", "retrain"),
        ("export/architecture.json", "export", "export"),
        ("evaluation.json", "evaluate", "evaluate"),
        ("search/front.csv", "search", "search"),
    ],
)
def test_a_truncated_result_is_made_again(name: str, stage: str, until: str, tiny_copy: Path) -> None:
    before = contents(tiny_copy)
    (path,) = tiny_copy.glob(name)
    path.write_bytes(path.read_bytes()[:-200])
    ran = run(tiny_copy, until=until)
    assert ran[0] == stage and set(ran) <= {stage, "retrain/kd thresholds"}
    assert contents(tiny_copy) == before


def test_a_refused_stage_leaves_what_was_there(tiny_copy: Path) -> None:
    before = snapshot(tiny_copy)
    pipeline = Pipeline(context(tiny_copy, 'export.trial="999"'))
    with pytest.raises(UserError, match="no complete trial 999"):
        pipeline.ledger.ensure(pipeline.export())
    after = snapshot(tiny_copy)
    assert {name: digest for name, (digest, _) in after.items()} == {n: digest for n, (digest, _) in before.items()}
    assert run(tiny_copy) == []


def test_results_set_aside_are_kept_once(tiny_copy: Path) -> None:
    weights = (tiny_copy / "pretrain/weights.safetensors").read_bytes()
    run(tiny_copy, "seed=4", until="pretrain")
    assert (aside(tiny_copy) / "weights.safetensors").read_bytes() == weights
    others = (tiny_copy / "pretrain/weights.safetensors").read_bytes()
    assert others != weights
    run(tiny_copy, "seed=5", until="pretrain")
    assert (aside(tiny_copy) / "weights.safetensors").read_bytes() == others


def test_results_set_aside_are_taken_back(tiny_copy: Path) -> None:
    weights = (tiny_copy / "pretrain/weights.safetensors").read_bytes()
    run(tiny_copy, "seed=4", until="pretrain")
    others = (tiny_copy / "pretrain/weights.safetensors").read_bytes()
    for seed, expected in ((3, weights), (4, others), (3, weights)):
        assert run(tiny_copy, f"seed={seed}", until="pretrain") == []
        assert (tiny_copy / "pretrain/weights.safetensors").read_bytes() == expected
    # All that came after it is as it was, so nothing runs; what was damaged meanwhile is not taken back.
    assert run(tiny_copy) == []
    (aside(tiny_copy) / "weights.safetensors").write_bytes(others[:-9])
    assert run(tiny_copy, "seed=4", until="pretrain") == ["pretrain"]
    assert (tiny_copy / "pretrain/weights.safetensors").read_bytes() == others
    assert (aside(tiny_copy) / "weights.safetensors").read_bytes() == weights


def test_thresholds_go_with_the_network_they_are_of(tiny_copy: Path) -> None:
    """They lie in its folder: set aside and taken back together, neither is made again."""
    setting = "retrain.compare_ce=false"
    assert "retrain/kd thresholds" in run(tiny_copy, setting, "retrain.alpha=0.9", until="retrain")
    assert run(tiny_copy, setting, "retrain.alpha=0.3", until="retrain") == []


def test_a_foreign_ledger_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "stages.json").write_text('{"schema": "usdn-nas/stages/2", "stages": {}}')
    with pytest.raises(UserError, match="expected schema 'usdn-nas/stages/1'"):
        Ledger(tiny_copy, context(tiny_copy).reporter)


def test_a_study_moved_elsewhere_goes_on(tiny_copy: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere/renamed"
    shutil.move(tiny_copy, elsewhere)
    assert run(elsewhere) == []


def test_tensorboard_changes_no_result(tiny_copy: Path, tiny: Path) -> None:
    """Switched on in a finished run, nothing runs; a training that does run leaves curves beside the same weights."""
    assert run(tiny_copy, "tensorboard=true") == []
    (tiny_copy / "pretrain/weights.safetensors").unlink()
    assert run(tiny_copy, "tensorboard=true", until="pretrain") == ["pretrain"]
    assert list((tiny_copy / "pretrain").glob("events.out.tfevents.*"))
    assert contents(tiny_copy) == contents(tiny)
