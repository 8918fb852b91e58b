"""Input that cannot be used: one line that names the offender, status 2, nothing written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.cli.conftest import Command
from tests.pipeline.tiny import snapshot
from usdn_nas.cli import app
from usdn_nas.engine.backends import BACKENDS
from usdn_nas.pipeline.ledger import locked


def refused(command: Command, folder: Path, *arguments: object) -> str:
    """The one line of a command that is refused and leaves everything in ``folder`` as it was."""
    before = snapshot(folder) | {"folders": sorted(path for path in folder.rglob("*") if path.is_dir())}
    result = command(*arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
    assert snapshot(folder) | {"folders": sorted(path for path in folder.rglob("*") if path.is_dir())} == before
    return result.stderr


SETTINGS = {
    "search.configuration=7": "search.configuration: unknown key 'configuration'; did you mean 'configurations'?",
    "supernet.pretrain.epoch=7": "supernet.pretrain.epoch: unknown key 'epoch'; did you mean 'epochs'?",
    "searching.mode=scalar": "searching: unknown key 'searching'; did you mean 'search'?",
    "supernet.qat.epochs=many": "supernet.qat.epochs: expected a whole number",
    "search.mode=paretto": "search.mode: expected 'scalar', 'pareto' or 'budget', got 'paretto'",
    "seed=-1": "seed: expected a number >= 0, got -1",
    "retrain.alpha=1.5": "retrain.alpha:",
    "threads": "--set: expected key=value, got 'threads'",
    "=3": "--set: expected key=value, got '=3'",
    "seed.x=3": "--set seed.x=3: 'seed' is a value, not a table",
    "search.mode=budget": "search: mode 'budget' needs 'gbops'",
    "device=tpux": "device: no device 'tpux'",
    "device=cuda:7": "device: no device 'cuda:7'",
    "device=meta": "device: ",
    "data.name=digit": "data.name: unknown data set 'digit'; did you mean 'digits'?",
    "data.name=fashion-mnist": "",
    "data.name=nosuchpackage:load": "nosuchpackage",
    "data.search=100000": "100000",
    "data.search=1": "data.search: 1 images cannot be set aside",
    "export.budget=1e-9": "export.budget: no configuration has at most 1 BOPs on average; the least that this",
    "search.workers=many": "search.workers: expected a whole number",
    "search.storage=nonsense": "search.storage: expected a storage URL",
    "search.storage=foo://bar/baz": "search.storage: cannot open 'foo://bar/baz'",
    "search.storage=sqlite:////no/such/folder/x.db": "search.storage: cannot open",
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(setting: str, command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    study = tmp_path / "studies/tiny.toml"
    more = ["--set", "data.root=nowhere"] if "fashion" in setting else []
    # In the folder of a finished run, changed besides so that all stages would run again; and in one that is new.
    line = refused(command, tiny_copy, "run", tiny_copy, "--set", "seed=9", "--set", setting, *more)
    assert SETTINGS[setting] in line
    line = refused(command, tmp_path, "supernet", study, "--out", tmp_path / "new", "--set", setting, *more)
    assert SETTINGS[setting] in line
    assert not (tmp_path / "new").exists()


def test_a_budget_that_nothing_meets(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    budget = ("--set", "search.mode=budget", "--set", "search.gbops=1e-7")
    line = refused(command, tmp_path, "run", "studies/tiny.toml", "--out", "new", *budget)
    assert "search.gbops: no configuration has at most 100 BOPs on average; the least that this search space" in line
    assert not (tmp_path / "new").exists()
    line = refused(command, tiny_copy, "export", tiny_copy, "--budget", "0.0000001")
    assert "no configuration has at most 100 BOPs on average" in line


def test_an_enumeration_where_another_sampler_was(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    line = refused(command, tiny_copy, "search", tiny_copy, "--exhaustive")
    assert "search/study.journal: the study here was started with the sampler 'surrogate', which 'brute'" in line
    assert "give another folder (--out), or another name" in line
    sampled = ("--exhaustive", "--set", "search.exits=sampled")
    line = refused(command, tmp_path, "search", "studies/tiny.toml", "--out", "new", *sampled)
    assert "search.sampler: brute enumerates bit configurations and cannot take sampled exits" in line


def test_workers(command: Command, tiny_copy: Path) -> None:
    line = refused(command, tiny_copy, "search", tiny_copy, "--workers", "0")
    assert "search.workers: expected a number >= 1, got 0" in line


def test_a_back_end_that_is_not_here(
    command: Command, tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = dataclasses.replace(BACKENDS["integer"], unavailable=lambda device: "no such operators")
    monkeypatch.setitem(BACKENDS, "integer", without)
    wanted = ("--set", "search.backend=integer")
    line = refused(command, tmp_path, "supernet", "studies/tiny.toml", "--out", "new", *wanted)
    assert "search.backend: the integer back end cannot run here: no such operators; 'auto' or 'float'" in line
    assert command("search", tiny_copy, *wanted).exit_code == 0  # it is done: nothing is run


EXPORTS = {
    ("--trial", "999"): "no complete trial 999; 6 are complete, the last is 5",
    ("--trial", "0.999"): "trial 0 has no policy 999; it has 0.0 to 0.",
    ("--trial", "x"): "expected a trial (12) or a trial and a policy (12.3), got 'x'",
    ("--trial", "-1"): "got '-1'",
    ("--best", "--tr", "0.1"): "give one of --best and --tr",
    ("--trial", "0.0", "--smoothed"): "--smoothed is for choosing a point, --trial names it",
    ("--smoothed", "--set", "search.exits=sampled"): "export.score = 'smoothed' needs trials that differ in bits alone",
}


@pytest.mark.parametrize("arguments", EXPORTS)
def test_exports(arguments: tuple[str, ...], command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    assert EXPORTS[arguments] in refused(command, tiny_copy, "export", tiny_copy, *arguments)
    elsewhere = tmp_path / "elsewhere.json"
    assert EXPORTS[arguments] in refused(command, tmp_path, "export", tiny_copy, *arguments, "--to", elsewhere)


def test_nothing_searched_yet(command: Command, tmp_path: Path, tiny_copy: Path) -> None:
    line = refused(command, tmp_path, "export", "studies/tiny.toml", "--out", "new")
    assert "new: no 'search' yet; run 'usdn-nas search" in line
    line = refused(command, tmp_path, "front", "studies/tiny.toml", "--out", "new")
    assert "new: no such run folder; usdn-nas run STUDY --out new makes one" in line
    assert not (tmp_path / "new").exists()
    line = refused(command, tiny_copy, "export", tiny_copy, "--set", "search.thresholds=3")
    assert "stage 'search' is not finished with these settings; run 'usdn-nas search" in line


ALL = ("run", "pretrain", "supernet", "search", "export", "retrain", "evaluate", "report", "front")


@pytest.mark.parametrize("name", ALL)
def test_no_such_study(name: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "runs/empty").mkdir(parents=True)
    assert "no such study: 'digit'; did you mean 'digits'?" in refused(command, tmp_path, name, "digit")
    # A folder without study.json is no run folder.
    assert "no such study: 'runs/empty'" in refused(command, tmp_path, name, "runs/empty")
    assert list((tmp_path / "runs/empty").iterdir()) == []


def test_damaged_run_folders(command: Command, tiny_copy: Path) -> None:
    for file in ("study.json", "stages.json"):
        path = tiny_copy / file
        whole = path.read_text()
        for damaged in (whole[:100], "[]", whole.replace("/1", "/9")):
            path.write_text(damaged)
            assert f"{path}: expected" in refused(command, tiny_copy, "run", tiny_copy)
        path.write_text(whole)
    path = tiny_copy / "study.json"
    path.write_text(path.read_text().replace('"configurations"', '"konfigurations"'))
    assert "unknown key 'konfigurations'; did you mean 'configurations'?" in refused(
        command, tiny_copy, "run", tiny_copy
    )


def test_damaged_studies_and_spaces(command: Command, tmp_path: Path, tiny: Path) -> None:
    study, space = tmp_path / "studies/mine.toml", tmp_path / "search_spaces/mine.toml"
    for path in (study, space):
        path.parent.mkdir()
    text = (tiny.parents[1] / "studies/tiny.toml").read_text().replace("tiny_space.toml", "mine.toml")
    whole = (tiny.parents[1] / "search_spaces/tiny_space.toml").read_text()

    def line(study_text: str, space_text: str) -> str:
        study.write_text(study_text)
        space.write_text(space_text)
        return refused(command, tmp_path, "run", study)

    assert f"{study}: expected TOML" in line(text + "\n[", whole)
    assert "no such search space: '../search_spaces/your.toml'" in line(text.replace("/mine.toml", "/your.toml"), whole)
    assert "mine.toml: expected TOML" in line(text, whole + "\n[")
    assert "unknown key 'dept'; did you mean 'depth'?" in line(text, whole.replace("depth", "dept"))
    assert "bits.choices" in line(text, whole.replace("[2, 2]", "[1, 2]"))
    assert "data set 'digits' has 10 classes, the network 11" in line(text, whole.replace("= 10", "= 11"))
    assert not (tmp_path / "runs").exists()


Change = Callable[[dict[str, Any]], object]
ARCHITECTURES: dict[str, tuple[Change, str]] = {
    "another space": (
        lambda d: d["space"]["network"].update(width=6),
        "architecture of another search space: network.width is 6 there, 4 here",
    ),
    "another depth": (lambda d: d["space"]["network"].update(depth=14), "network.depth is 14 there, 8 here"),
    "bits that are no choice": (
        lambda d: d["bits"].update({"layer2.0": [3, 3]}),
        "bits.layer2.0: [3, 3] is not among the choices",
    ),
    "an unknown group": (lambda d: d["bits"].update({"layer9.0": [2, 2]}), "unknown group 'layer9.0'"),
    "a group missing": (lambda d: d["bits"].pop("layer2.0"), "no bits given for group 'layer2.0'"),
    "an unknown exit": (lambda d: d.update(exits=["layer7.0"], thresholds=[0.5]), "unknown exit 'layer7.0'"),
    "no thresholds": (lambda d: d.update(exits=["layer1.0"], thresholds=[]), "1 exits need as many thresholds, got 0"),
    "a threshold above 1": (
        lambda d: d.update(exits=["layer1.0"], thresholds=[1.5]),
        "expected thresholds in [0, 1], got 1.5",
    ),
    "an unknown key": (lambda d: d.update(exit=["layer1.0"]), "unknown key 'exit'; did you mean 'exits'?"),
    "a key missing": (lambda d: d.pop("bits"), "bits: this key is missing"),
    "another schema": (
        lambda d: d.update(schema="usdn-nas/architecture/7"),
        "expected schema 'usdn-nas/architecture/1'",
    ),
    "an objective without figure": (
        lambda d: d.update(objective={"mode": "budget"}),
        "objective: mode 'tr' needs 'tr' alone, mode 'budget' needs 'budget_bops' alone",
    ),
    "a budget below everything": (
        lambda d: d.update(objective={"mode": "budget", "budget_bops": 7}),
        "objective.budget_bops: no thresholds meet 7 BOPs on average",
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str, command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    change, expected = ARCHITECTURES[name]
    found = json.loads((tiny_copy / "export/architecture.json").read_text())
    document = {key: found[key] for key in ("schema", "space", "bits", "exits", "thresholds")}
    change(document)
    path = tmp_path / "given.json"
    path.write_text(json.dumps(document))
    for stage in ("retrain", "evaluate"):
        line = refused(command, tiny_copy, stage, tiny_copy, "--architecture", path)
        assert expected in line and str(path) in line
    refused(command, tmp_path, "retrain", "studies/tiny.toml", "--out", "new", "--architecture", path)
    assert not (tmp_path / "new").exists()


def test_truncated_architectures(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    whole, path = (tiny_copy / "export/architecture.json").read_bytes(), tmp_path / "given.json"
    for size in (0, 1, 50, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        line = refused(command, tiny_copy, "retrain", tiny_copy, "--architecture", path)
        assert f"{path}: expected JSON, but it ends too early, at line" in line
    path.unlink()
    assert f"{path}: no such file" in refused(command, tiny_copy, "retrain", tiny_copy, "--architecture", path)


def test_a_truncated_checkpoint(command: Command, tiny_copy: Path) -> None:
    checkpoint = tiny_copy / "pretrain/checkpoint.pt"
    ledger = tiny_copy / "stages.json"
    ledger.write_text(ledger.read_text().replace('"done"', '"running"'))
    checkpoint.write_bytes(b"PK\x03\x04" + bytes(100))
    before = {name: digest for name, (digest, _) in snapshot(tiny_copy).items()}
    result = command("pretrain", tiny_copy, "--quiet")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert {name: digest for name, (digest, _) in snapshot(tiny_copy).items()} == before
    line = result.stderr
    assert f"{checkpoint}: expected a whole checkpoint, got a damaged or foreign file; delete it to train" in line


def test_another_process_has_the_folder(command: Command, tiny_copy: Path) -> None:
    with locked(tiny_copy):
        for name in ("run", "search", "export", "retrain", "evaluate", "report"):
            line = refused(command, tiny_copy, name, tiny_copy)
            assert f"{tiny_copy}: another process works in this run folder" in line
        assert command("front", tiny_copy).exit_code == 0  # looking is free


def test_data_sets_and_spaces_of_no_such_name(command: Command, tmp_path: Path) -> None:
    assert "unknown data set 'digit'; did you mean 'digits'?" in refused(command, tmp_path, "data", "digit")
    line = refused(command, tmp_path, "inspect", "resnet_digit")
    assert "no such search space: 'resnet_digit'; did you mean 'resnet_digits'?" in line
    assert "no such study: 'digit'" in refused(command, tmp_path, "init", "digit")


OPTIONS: dict[tuple[str, ...], str] = {
    ("run", "digits", "--out", "x" * 300): "--out: expected names of at most 255 bytes, got one of 300",
    ("run", "digits", "--out", "\x1b[31m"): "--out: expected a name without control characters, in UTF-8",
    ("run", "x" * 300): "expected names of at most 255 bytes, got one of 300",
    ("run", "digits", "--set", "space=" + "x" * 300): "expected names of at most 255 bytes, got one of 300",
    ("run", "digits", "--set", "seed=" + "9" * 5000): "--set seed: expected integers of at most 64 bits",
    ("run", "digits", "--set", "seed=" + "[" * 3000): "--set seed: cannot be read: it is nested too deeply",
    ("run", "digits", "--set", "threads=100000"): "threads: expected a number <= 1,024, got 100000",
    ("run", "digits", "--set", "supernet.qat.lr=1e308"): "supernet.qat.lr: expected a number <= 100, got 1e+308",
    ("run", "digits", "--set", "search.memory_gb=1e300"): "search.memory_gb: expected a number <= 100000, got 1e+300",
    ("run", "digits", "--set", "search.thresholds=1000000000"): "search.thresholds: expected a number <= 10,000",
    ("run", "digits", "--nonsense"): "No such option: --nonsense",
    ("run",): "Missing argument",
    ("nonsense",): "No such command 'nonsense'",
    ("search", "digits", "--workers", "many"): "Invalid value for '--workers'",
    ("inspect", "torchvision:resnet18", "--input", "3x1000000000x8"): "--input: expected CxHxW such as 3x224x224",
    ("inspect", "torchvision:resnet18", "--input", "3x99999x8"): "input_shape.1: expected a number <= 16,384",
    ("init", "digits", "--as", "../mine"): "--as: expected letters, digits, '.', '-' and '_', got '../mine'",
}  # fmt: skip


@pytest.mark.parametrize("arguments", OPTIONS, ids=range(len(OPTIONS)))
def test_options(arguments: tuple[str, ...], command: Command, tmp_path: Path) -> None:
    assert OPTIONS[arguments] in refused(command, tmp_path, *arguments)


def test_nothing_but_a_file_is_replaced(command: Command, tiny_copy: Path) -> None:
    (tiny_copy / "link.svg").symlink_to("/dev/null")
    (tiny_copy / "folder.svg").mkdir()
    for name in ("link.svg", "folder.svg"):
        line = refused(command, tiny_copy, "plot", "front", tiny_copy, "--to", tiny_copy / name)
        assert "--to: expected the name of a file, got a folder or a device" in line


def test_what_nobody_foresaw_is_one_line_that_asks_for_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("usdn_nas.config.list_toml", lambda folder: {}["no\nsuch"])
    for more, lines in (((), 1), (("--verbose",), 5)):
        result = CliRunner().invoke(app, ["list", *more], prog_name="usdn-nas")
        assert (
            result.exit_code == 1 and result.stderr.count("\n") >= lines and (lines > 1 or "Trace" not in result.stderr)
        )
        assert result.stderr.splitlines()[-1].startswith("internal error: KeyError at list.py:")
