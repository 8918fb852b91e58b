"""The command line follows habits: what people type by habit works, or the error says what to type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tests.cli.conftest import Command
from usdn_nas.cli.lookup import complete_any, complete_studies, find_study_or_run
from usdn_nas.config import StudyConfig, find_toml, load_study


@pytest.mark.parametrize(
    ("setting", "full"),
    [
        (
            "epochs=3",
            "supernet.pretrain.epochs, supernet.qat.epochs, retrain.train.epochs, retrain.teacher.epochs",
        ),
        ("train.epochs=3", "retrain.train.epochs"),
        ("supernet.epochs=3", "supernet.pretrain.epochs, supernet.qat.epochs, "),
        ("configurations=7", "search.configurations"),
    ],
)
def test_an_unknown_key_suggests_the_full_names_that_end_so(setting: str, full: str, command: Command) -> None:
    refused = command("run", "digits", "--dry-run", "--set", setting)
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
    assert f"; did you mean {full}" in refused.stderr


@pytest.mark.parametrize("name", ["x.onnx", "x", "x.json.gz"])
def test_export_writes_json_only_into_json_files(name: str, command: Command, tmp_path: Path) -> None:
    refused = command("export", "digits", "--to", name)
    assert refused.exit_code == 2
    assert refused.stderr == f"error: --to: expected a name that ends in .json, got '{name}'\n"
    assert list(tmp_path.iterdir()) == []


def test_a_name_finds_its_run(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    """After ``run elsewhere/tiny.toml`` no study is called "tiny", but its run is in ./runs."""
    (tmp_path / "studies/tiny.toml").rename(tmp_path / "elsewhere.toml")
    for arguments in (
        ("export", "tiny"),
        ("evaluate", "tiny"),
        ("front", "tiny"),
        ("compare", "tiny", "runs/tiny"),
        ("inspect", "tiny"),
        ("plot", "front", "tiny", "--to", "front.svg"),
    ):
        result = command(*arguments)
        assert result.exit_code == 0, result.stderr
    assert "tiny" in complete_studies("ti") and "tiny" in complete_any("ti")
    # A study of that name comes first, here one that has not been run.
    (tmp_path / "elsewhere.toml").rename(tmp_path / "studies/tiny.toml")
    assert find_study_or_run("tiny") == tmp_path / "studies/tiny.toml"
    assert find_study_or_run("runs/tiny") == Path("runs/tiny")
    (tmp_path / "study.json").write_text("{}")
    assert command("front", "..").exit_code == 2, "a name is no path"


def test_inspect_takes_a_study_a_space_and_a_run(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "on_digits.toml").write_text('base = "digits"\nseed = 5\n')
    expected = command("inspect", "resnet_digits", "--format", "json").stdout
    for study in ("digits", "on_digits.toml"):
        assert command("inspect", study, "--format", "json").stdout == expected
    of_run = [command("inspect", one, "--format", "json").stdout for one in (tiny_copy, "studies/tiny.toml")]
    assert of_run[0] == of_run[1] != expected


@pytest.mark.parametrize("name", ["resnet_digits", "mine.toml"])
def test_a_space_has_no_front(name: str, command: Command, tmp_path: Path) -> None:
    shipped = find_toml("resnet_digits", "search_spaces").read_text()
    (tmp_path / "mine.toml").write_text(shipped)
    assert command("inspect", name).exit_code == 0
    for verb in ("front", "run"):
        refused = command(verb, name)
        assert refused.exit_code == 2 and refused.stderr == (
            f"error: '{name}' is a search space, which has no search and no run; "
            "name a study or a run that uses it; 'usdn-nas list' shows studies\n"
        )


STAGES = ("pretrain", "supernet", "search", "export", "retrain", "evaluate", "report")


@pytest.mark.parametrize("stage", ["run", *STAGES])
def test_every_stage_shows_its_plan(
    stage: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All settings in force are shown, those of the search space too; nothing is written, no weights are made."""

    def fail(*_: object) -> NoReturn:
        raise AssertionError("a plan needs no weights")

    monkeypatch.setattr("usdn_nas.pipeline.context.build_network", fail)
    text = command(stage, "digits", "--dry-run", "--seed", 5, "--device", "cpu", "--set", "seed=4").stdout
    settings, end = json.JSONDecoder().raw_decode(text)
    study, space = load_study(find_toml("digits", "studies"), ["seed=5", "device=cpu"])
    assert {key: settings[key] for key in StudyConfig.model_fields} == study.model_dump(mode="json")
    assert settings["search_space"] == space.model_dump(mode="json")
    shown = [name for name in STAGES if f"│ {name} " in text[end:]]
    last = len(STAGES) if stage == "run" else STAGES.index(stage) + 1
    assert shown == [name for name in STAGES[:last] if name in ("pretrain", "supernet", "search", "retrain")]
    assert list(tmp_path.iterdir()) == []


def test_shortcuts_are_checked_as_settings(command: Command) -> None:
    assert "seed: expected a number >= 0, got -1" in command("search", "digits", "--seed", -1).stderr
    assert "device: no device 'warp'" in command("pretrain", "digits", "--device", "warp").stderr


def test_evaluate_is_short_unless_all_tables_are_asked_for(command: Command, tiny_copy: Path) -> None:
    models = json.loads((tiny_copy / "evaluation.json").read_text())["models"]
    short = command("evaluate", tiny_copy).stdout
    assert short.count("┏") == 1 and len(short.splitlines()) == len(models) + 6 and "--all" in short
    for content in models.values():
        assert content["label"] in short and f"{100 * content['policy']['accuracy']:.2f}" in short
    assert command("evaluate", tiny_copy, "--all").stdout.count("┏") > 6
    refused = command("evaluate", tiny_copy, "--all", "--format", "csv")
    assert refused.exit_code == 2 and "--format json" in refused.stderr


_WITHOUT_INSTALLATION = """
import runpy, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.modules |= dict.fromkeys(sys.argv[1:2])  # this import fails
sys.argv[1:] = ["list", "--format", "csv"]
runpy.run_module("usdn_nas", run_name="__main__")
"""


@pytest.mark.parametrize("missing", ["no_such_module", "typer"])
def test_a_source_checkout_runs_without_installation(missing: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", _WITHOUT_INSTALLATION, missing]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if missing == "typer":
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "error: the package 'typer' is missing; 'pip install .'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "study,digits," in done.stdout and "search space,resnet_digits," in done.stdout
