"""What the commands do and print: data on stdout, clean; progress on stderr."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.pipeline.tiny import TR, contents, recorded, snapshot
from usdn_nas.config import find_toml, list_toml, load_study
from usdn_nas.export.document import read_architecture
from usdn_nas.pipeline.context import open_run
from usdn_nas.pipeline.stages import retrain_folder
from usdn_nas.pipeline.study import read
from usdn_nas.space.cost import reference_bops
from usdn_nas.study.points import find_point, smoothed_front


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_run_again_says_so_in_one_sentence(command: Command, tiny_copy: Path) -> None:
    before = snapshot(tiny_copy)
    result = command("run", tiny_copy)
    assert result.exit_code == 0
    assert f"{tiny_copy}: every stage is done, nothing to do" in result.stdout
    assert "Table I" in result.stdout and "Table II" in result.stdout and "report.html" in result.stdout
    assert result.stderr.count("nothing to do") == 11
    assert command("run", "tiny", "--quiet").stderr == ""  # by its name, in ./runs/tiny
    assert snapshot(tiny_copy) == before


@pytest.mark.parametrize("name", ["pretrain", "supernet", "search", "retrain", "report"])
def test_a_stage_says_where_its_files_are(name: str, command: Command, tiny_copy: Path) -> None:
    result = command(name, tiny_copy)
    assert result.exit_code == 0
    assert Path(result.stdout.removesuffix("\n")).exists() and result.stdout.startswith(str(tiny_copy))
    assert "nothing to do" in result.stderr


def test_progress_goes_to_stderr(command: Command, tiny_copy: Path) -> None:
    result = command("search", tiny_copy, "--set", "search.configurations=7")
    assert result.stdout == f"{tiny_copy / 'search'}\n"
    assert "search: 6 before, goes on to 7" in result.stderr and "7/7" in result.stderr


def test_verbose(command: Command, tiny_copy: Path) -> None:
    result = command("search", tiny_copy, "--set", "search.configurations=8", "--verbose")
    for trial in (6, 7):
        assert f"trial {trial}: 0." in result.stderr
    assert result.stdout == f"{tiny_copy / 'search'}\n"
    again = command("pretrain", tiny_copy, "--set", "supernet.pretrain.epochs=2", "-v")
    assert "epoch 1, " in again.stderr and "epoch 2, " in again.stderr and "accuracy_final" in again.stderr
    wrong = command("search", tiny_copy, "--set", "search.mode=fast", "-v")
    assert wrong.exit_code == 2 and "Traceback" in wrong.stderr and wrong.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in command("search", tiny_copy, "--set", "search.mode=fast").stderr


def test_front(command: Command, tiny_copy: Path) -> None:
    expected = rows((tiny_copy / "search/front.csv").read_text())
    as_csv = command("front", tiny_copy, "--format", "csv")
    assert as_csv.stderr == "" and [row["trial"] for row in rows(as_csv.stdout)] == [row["trial"] for row in expected]
    as_json = json.loads(command("front", tiny_copy, "--format", "json").stdout)
    found = as_json if isinstance(as_json, list) else as_json["rows"]
    assert [row["trial"] for row in found] == [row["trial"] for row in expected]
    assert [row["bops"] for row in found] == [float(row["bops"]) for row in expected]
    table = command("front", tiny_copy).stdout
    assert "on the search split" in table and all(f" {row['trial']} " in table for row in expected)


def test_evaluate(command: Command, tiny_copy: Path) -> None:
    before = (tiny_copy / "evaluation.json").read_text()
    as_json = command("evaluate", tiny_copy, "--format", "json")
    assert as_json.stdout == before and "nothing to do" in as_json.stderr
    table = rows(command("evaluate", tiny_copy, "--format", "csv").stdout)
    assert table and "exit" in table[0]
    text = command("evaluate", tiny_copy, "--all").stdout
    assert "Anytime prediction" in text and "Overthinking" in text
    assert "Table I" in text and "Table II" in text and "n = 100" in text and "n = 150" in text
    assert "AUROC" in text and "By MACs" in text and "for all exits, 0.7" in text and "Accuracy within a budget" in text
    with recorded() as ran:
        text = command("evaluate", tiny_copy, "--threshold", "0.35").stdout
    assert ran == ["evaluate"] and "for all exits, 0.35" in text
    assert document(tiny_copy / "evaluation.json")["models"]["kd"]["shared"]["threshold"] == 0.35
    budgeted = rows(command("evaluate", tiny_copy, "--budgeted", "--format", "csv").stdout)
    assert "relative_bops" in budgeted[0]
    both = command("evaluate", tiny_copy, "--budgeted", "--overthinking").stdout
    assert "Anytime prediction" in both and "Budgeted batches" in both and "Overthinking" in both


def test_compare(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "compared.svg"
    as_csv = rows(command("compare", tiny_copy, tiny_copy, "--format", "csv", "--to", drawn).stdout)
    policy = document(tiny_copy / "evaluation.json")["models"]["kd"]["policy"]
    assert len(as_csv) == 2 and as_csv[0]["run"] != as_csv[1]["run"]
    assert {float(row["accuracy"]) for row in as_csv} == {policy["accuracy"]}
    assert {float(row["gbops"]) for row in as_csv} == {policy["average_bops"] / 1e9}
    assert drawn.read_text().startswith("<?xml")
    text = command("compare", tiny_copy, "--model", "ce").stdout
    assert "ce, test split (n = 150)" in text and "ECE" in text and "By MACs" in text
    for arguments, message in (
        ((tiny_copy, "--model", "kdd"), "did you mean 'kd'"),
        ((tiny_copy, "--to", tmp_path / "x.jpg"), "expected a name that ends in"),
        ((tmp_path / "nothing",), "no such study"),
    ):
        refused = command("compare", *arguments)
        assert refused.exit_code == 2 and message in refused.stderr and refused.stderr.count("\n") == 1


def test_export(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    front = rows((tiny_copy / "search/front.csv").read_text())
    path = tiny_copy / "export/architecture.json"
    result = command("export", tiny_copy, "--trial", front[0]["trial"])
    assert result.stdout == f"{path}\n" and document(path)["source"]["trial"] == front[0]["trial"]
    before = snapshot(tiny_copy)
    mine = tmp_path / "mine.json"
    assert command("export", tiny_copy, "--tr", 0, "--to", mine).stdout == f"{mine}\n"
    assert document(mine)["source"]["trial"] == front[-1]["trial"]  # the most accurate
    budget = (float(front[1]["bops"]) + float(front[2]["bops"])) / 2e9
    command("export", tiny_copy, "--budget", budget, "--to", mine)
    assert document(mine)["source"]["trial"] == front[1]["trial"]
    result = command("export", tiny_copy, "--front", tmp_path / "all")
    assert [Path(line).stem for line in result.stdout.splitlines()] == [row["trial"] for row in front]
    assert sorted(p.stem for p in (tmp_path / "all").iterdir()) == sorted(row["trial"] for row in front)
    assert snapshot(tiny_copy) == before
    # Back to the study's own choice; by hand or not, the next stages take what is exported.
    command("export", tiny_copy, "--best")
    best = max(front, key=lambda row: float(row["accuracy"]) - TR * float(row["relative_bops"]))
    assert document(path)["source"]["trial"] == best["trial"]


def test_export_by_smoothed_accuracy(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    mine, path = tmp_path / "mine.json", tiny_copy / "export/architecture.json"
    context = open_run(tiny_copy)
    reference = reference_bops(context.space)
    points = smoothed_front(read(context), context.space, reference)
    best = max(points, key=lambda point: point.accuracy - 0.02 * point.bops / reference)
    result = command("export", tiny_copy, "--tr", 0.02, "--smoothed", "--to", mine)
    assert f"{best.name}, accuracy {best.accuracy:.4f} smoothed" in result.stderr
    source = document(mine)["source"]
    assert (source["trial"], source["score"]) == (best.name, "smoothed")
    assert document(mine)["metrics"]["accuracy"] == find_point(read(context), context.space, best.name).accuracy
    command("export", tiny_copy, "--best", "--smoothed")
    assert document(path)["source"]["score"] == "smoothed"
    command("export", tiny_copy, "--best", "--measured")
    assert "score" not in document(path)["source"]


def test_a_handwritten_architecture(command: Command, tiny_copy: Path, tmp_path: Path) -> None:
    winner = document(tiny_copy / "export/architecture.json")
    mine = tmp_path / "mine.json"
    bits = {"layer1.0": [2, 2], "layer2.0": [4, 3], "layer3.0": [4, 4]}
    needed = {"bits": bits, "exits": ["layer2.0"], "thresholds": [0.5]}
    mine.write_text(json.dumps({"schema": winner["schema"], "space": winner["space"], **needed}))
    before = snapshot(tiny_copy)
    fast = ("--set", "retrain.train.max_steps=2", "--set", "retrain.teacher.max_steps=2")
    with recorded() as ran:
        result = command("retrain", tiny_copy, "--architecture", mine, *fast)
    parts = ["teacher", "kd", "kd thresholds", "ce", "ce thresholds"]
    assert ran == [f"retrain/{part}" for part in parts]
    folder = Path(result.stdout.removesuffix("\n"))
    assert folder == tiny_copy / retrain_folder(read_architecture(mine).architecture)
    found = document(folder / "kd/architecture.json")
    assert found["bits"] == bits and found["exits"] == ["layer2.0"] and found["objective"]["tr"] == TR
    with recorded() as ran:
        result = command("evaluate", tiny_copy, "--architecture", mine, "--format", "json", *fast)
    assert ran == ["retrain/evaluate"]
    evaluation = json.loads(result.stdout)
    assert evaluation == document(folder / "evaluation.json")
    assert evaluation["architecture_digest"] == read_architecture(mine).architecture.digest != winner["digest"]
    assert [row["exit"] for row in evaluation["models"]["kd"]["exits"]] == ["layer2.0", "final"]
    # Nothing of the run itself has changed but its settings and the ledger.
    after = snapshot(tiny_copy)
    new = {name for name in after if after[name] != before.get(name)}
    assert {name for name in new if not name.startswith(f"retrain/{folder.name}/")} == {"study.json", "stages.json"}


def test_inspect_resnet18(command: Command) -> None:
    """The figures that README and issue name; their derivation is tested where they are computed."""
    result = command("inspect", "resnet18_imagenet", "--format", "json")
    found = json.loads(result.stdout)
    assert result.stderr == ""
    assert found["macs"] == 1_814_073_344 and isinstance(found["macs"], int)
    assert len(found["segments"]) == 9
    gigabops = {width: round(bops / 1e9, 2) for width, bops in found["uniform_bops"].items()}
    assert (gigabops["2"], gigabops["3"]) == (14.37, 22.85)
    assert (gigabops["4"], gigabops["8"]) == (34.71, 116.1)
    assert all(isinstance(bops, int) for bops in found["uniform_bops"].values())
    assert round(found["uniform_bops_all_layers"]["4"] / 1e9, 2) == 29.03
    assert found["size"]["bit_configurations"] == 4**8
    layers = rows(command("inspect", "resnet18_imagenet", "--format", "csv").stdout)
    assert sum(int(row["macs"]) for row in layers if row["exit"] == "False" or row["part"] == "final") == found["macs"]
    table = command("inspect", "resnet18_imagenet").stdout
    assert "1,814.07 M" in table and "14.37" in table and "Not counted" in table


@pytest.mark.parametrize("name", list_toml("search_spaces"))
def test_every_shipped_space_is_inspected(name: str, command: Command) -> None:
    found = json.loads(command("inspect", name, "--format", "json").stdout)
    assert found["macs"] > 0 and found["segments"] and found["uniform_bops"]


@pytest.mark.parametrize("name", list_toml("studies"))
def test_every_shipped_study_is_planned_without_data(name: str, command: Command, tmp_path: Path) -> None:
    result = command("run", name, "--dry-run", "--set", "data.root=nowhere")
    assert result.exit_code == 0 and result.stderr == ""
    assert "Planned work" in result.stdout and "bit configurations" in result.stdout
    settings, _ = json.JSONDecoder().raw_decode(result.stdout)
    assert settings["study"] == name and settings["folder"] == f"runs/{name}"
    written, _ = load_study(find_toml(name, "studies"))
    assert settings["search"] == written.search.model_dump(mode="json")
    assert settings["data"] == written.data.model_dump(mode="json") | {"root": "nowhere"}
    assert list(tmp_path.iterdir()) == []


def test_dry_run_takes_overrides(command: Command, tmp_path: Path) -> None:
    result = command("run", "digits", "--dry-run", "--set", "search.configurations=3", "--out", "elsewhere")
    settings, _ = json.JSONDecoder().raw_decode(result.stdout)
    assert settings["folder"] == "elsewhere" and settings["search"]["configurations"] == 3
    assert "3 of 4,096 bit configurations" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_list_for_programs(command: Command) -> None:
    found = rows(command("list", "--format", "csv").stdout)
    assert {(row["kind"], row["name"]) for row in found} >= {("study", "digits"), ("search space", "resnet_digits")}
    assert json.loads(command("list", "--format", "json").stdout) == found


def test_list(command: Command, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/mine.toml").write_text("# What I am after.\nspace = 'x'\n")
    text = command("list").stdout
    for folder in ("studies", "search_spaces"):
        for name in list_toml(folder):  # type: ignore[arg-type]
            assert name in text
    assert "mine" in text and "What I am after." in text


def test_init(command: Command, tmp_path: Path) -> None:
    result = command("init", "digits", "--as", "mine")
    study, space = tmp_path / "studies/mine.toml", tmp_path / "search_spaces/mine.toml"
    assert result.stdout.split() == ["studies/mine.toml", "search_spaces/mine.toml"]
    for copy, shipped, name in ((study, "studies", "digits"), (space, "search_spaces", "resnet_digits")):
        there = (resources.files(f"usdn_nas.{shipped}") / f"{name}.toml").read_text(encoding="utf-8")
        assert tomllib.loads(copy.read_text()) == tomllib.loads(there) | ({"space": "mine"} if copy is study else {})
        assert copy.read_text().splitlines()[0] == there.splitlines()[0], "comments are kept"
    # The copies are what runs, and nothing else does.
    study.write_text(study.read_text().replace("seed = 0", "seed = 77"))
    space.write_text(space.read_text().replace("depth = 14", "depth = 8"))
    settings, _ = json.JSONDecoder().raw_decode(command("run", "mine", "--dry-run").stdout)
    assert settings["seed"] == 77 and settings["folder"] == "runs/mine"
    assert "64 of 64 bit configurations" in command("run", "mine", "--dry-run").stdout
    assert "128 of 4,096 bit configurations" in command("run", "digits", "--dry-run").stdout
    # Nothing is overwritten, and no file is its own copy.
    for arguments, finding in {
        ("digits", "--as", "mine"): "studies/mine.toml: is there already; --force replaces it",
        ("mine",): "studies/mine.toml: is the study itself; --as NAME names the copy",
        ("mine", "--force"): "studies/mine.toml: is the study itself",
    }.items():
        before = snapshot(tmp_path)
        result = command("init", *arguments)
        assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
        assert finding in result.stderr and snapshot(tmp_path) == before
    assert command("init", "digits", "--as", "mine", "--force").exit_code == 0
    assert "seed = 0" in study.read_text() and "depth = 14" in space.read_text()


def test_init_under_its_own_name(command: Command, tmp_path: Path) -> None:
    assert command("init", "digits").stdout.split() == ["studies/digits.toml", "search_spaces/resnet_digits.toml"]
    study, space = tmp_path / "studies/digits.toml", tmp_path / "search_spaces/resnet_digits.toml"
    space.write_text(space.read_text().replace("depth = 14", "depth = 8"))
    # A space of that name in ./search_spaces is the one that the study would use: it stays.
    study.rename(tmp_path / "elsewhere.toml")
    assert command("init", "elsewhere.toml").exit_code == 0 and "depth = 8" in space.read_text()
    # That beside a study elsewhere is another one.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "yours.toml").write_text((tmp_path / "elsewhere.toml").read_text())
    (elsewhere / "resnet_digits.toml").write_text(space.read_text().replace("width = 8", "width = 6"))
    result = command("init", "elsewhere/yours.toml")
    assert result.exit_code == 2 and "search_spaces/resnet_digits.toml: is there already" in result.stderr
    assert not (tmp_path / "studies/yours.toml").exists()
    assert command("init", "elsewhere/yours.toml", "--force").exit_code == 0 and "width = 6" in space.read_text()


def test_data(command: Command, tmp_path: Path) -> None:
    result = command("data", "digits")
    assert result.exit_code == 0 and "digits: present" in result.stdout
    (tmp_path / "empty").mkdir()
    result = command("data", "cifar10", "--root", "empty")
    assert result.exit_code == 1 and "cifar10: not there" in result.stdout and "cifar-10-python.tar.gz" in result.stdout
    result = command("data", "fashion-mnist", "--root", "empty", "--format", "json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1 and found["present"] is False and len(found["files"]) == 4
    assert any(place.endswith("empty") for place in found["looked_in"]) and "apt-get" in found["how_to_get"]
    assert len(command("data", "fashion-mnist", "--root", "empty", "--format", "csv").stdout.splitlines()) >= 4


def test_interrupted(command: Command, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from usdn_nas.pipeline import train

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = contents(tiny_copy)
    with monkeypatch.context() as patch:
        patch.setattr(train, "pretrain", interrupt)
        result = command("pretrain", tiny_copy, "--set", "seed=8")
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted; the same command goes on from here\n") and result.stdout == ""
    assert "pretrain: was interrupted, goes on" in command("pretrain", tiny_copy).stderr
    assert contents(tiny_copy)["pretrain/weights.safetensors"] != before["pretrain/weights.safetensors"]
