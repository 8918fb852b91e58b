"""Every file that a run promises, with what it promises, and its figures measured again."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import usdn_nas
from tests.pipeline.tiny import context
from usdn_nas._util.files import file_digest
from usdn_nas.engine.engine import Engine, EngineSettings
from usdn_nas.engine.outputs import SupernetEvaluator
from usdn_nas.exits.apply import apply
from usdn_nas.export.document import ArchitectureFile, read_architecture
from usdn_nas.pipeline import study
from usdn_nas.pipeline.context import Context
from usdn_nas.pipeline.search import load_retrained
from usdn_nas.pipeline.stages import retrain_folder
from usdn_nas.space.cost import exit_costs, reference_bops

EXITS = ("layer1.0", "layer2.0")
GROUPS = ["layer1.0", "layer2.0", "layer3.0"]


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def opened(tiny: Path) -> Context:
    return context(tiny)


@pytest.fixture(scope="module")
def exported(tiny: Path) -> ArchitectureFile:
    return read_architecture(tiny / "export/architecture.json")


@pytest.fixture(scope="module")
def retrained(tiny: Path, exported: ArchitectureFile) -> Path:
    return tiny / retrain_folder(exported.architecture)


def test_everything_promised_is_there_and_nothing_is_left_over(tiny: Path, retrained: Path) -> None:
    names = {str(path.relative_to(tiny)) for path in tiny.rglob("*") if path.is_file()}
    parts = [retrained.relative_to(tiny) / part for part in ("teacher", "kd", "ce")]
    figures = {name for name in names if name.startswith("figures/")}
    assert names - figures - {".lock", "search/study.journal.flock"} == {
        "study.json",
        "chain.json",
        "stages.json",
        *(f"{part}/weights.safetensors" for part in ("pretrain", "supernet", *parts)),
        *(f"{part}/history.csv" for part in ("pretrain", "supernet", *parts)),
        "supernet/ladder.json",
        "supernet/diagnostics.json",
        "search/study.journal",
        "search/front.csv",
        "search/trials.csv",
        "search/seconds.csv",
        "search/engine.json",
        "search/sensitivity.json",
        "export/architecture.json",
        *(f"{part}/architecture.json" for part in parts[1:]),
        "evaluation.json",
        "report.html",
    }  # fmt: skip
    stems = {Path(name).stem for name in figures}
    assert figures == {f"figures/{stem}{suffix}" for stem in stems for suffix in (".png", ".svg", ".pdf")}
    assert {"bits", "front", "exits", "reliability", "training"} <= stems


def test_schemas_and_provenance(tiny: Path, retrained: Path) -> None:
    kinds = {"study.json": "study", "chain.json": "chain", "stages.json": "stages", "evaluation.json": "evaluation"}
    kinds |= {"ladder.json": "ladder", "architecture.json": "architecture", "sensitivity.json": "sensitivity"}
    kinds |= {"diagnostics.json": "diagnostics", "engine.json": "engine"}
    for path in tiny.rglob("*.json"):
        found = document(path)
        version = 2 if path.name == "evaluation.json" else 1
        assert found["schema"] == f"usdn-nas/{kinds[path.name]}/{version}"
        if path.name not in ("chain.json", "stages.json"):
            assert found["provenance"]["seed"] == 3
            assert {"device", "threads", "python", "platform"} <= set(found["provenance"])


def test_histories_have_a_row_an_epoch(tiny: Path, retrained: Path) -> None:
    plain = ["epoch", "step", "loss", "lr", "seconds", "images_per_second"]
    accuracies = {
        tiny / "pretrain": [f"accuracy_{name}" for name in (*EXITS, "final")],
        tiny / "supernet": [f"accuracy_{name}@{end}" for end in ("min", "max") for name in (*EXITS, "final")],
    }
    placed = document(tiny / "export/architecture.json")["exits"]
    accuracies |= {retrained / part: [f"accuracy_{n}" for n in (*placed, "final")] for part in ("teacher", "kd", "ce")}
    for folder, columns in accuracies.items():
        table = rows(folder / "history.csv")
        assert list(table[0]) == plain + columns
        steps = ["8", "16", "24"] if folder.name == "pretrain" else ["6"]
        assert [row["step"] for row in table] == steps
        assert [row["epoch"] for row in table] == [str(number) for number in range(1, len(steps) + 1)]
        assert all(0 <= float(row[name]) <= 1 for row in table for name in columns)


def test_stages_hold_the_digests_of_their_files(tiny: Path) -> None:
    for record in document(tiny / "stages.json")["stages"].values():
        assert record["status"] == "done" and record["outputs"]
        assert all(file_digest(tiny / name) == digest for name, digest in record["outputs"].items())


def test_the_front_rises(tiny: Path) -> None:
    front = rows(tiny / "search/front.csv")
    assert list(front[0]) == ["trial", "accuracy", "bops", "relative_bops", "exits", "thresholds", *GROUPS]
    assert len(front) > 1
    for before, after in pairwise(front):
        assert float(before["bops"]) < float(after["bops"]) and float(before["accuracy"]) < float(after["accuracy"])
    for row in front:
        assert len(json.loads(row["thresholds"])) == len(list(filter(None, row["exits"].split("+"))))
        assert all(row[group] in ("2/2", "4/3", "4/4") for group in GROUPS)


def test_trials_are_numbered_and_the_front_is_theirs(tiny: Path) -> None:
    trials = rows(tiny / "search/trials.csv")
    assert list(trials[0]) == ["trial", "state", *GROUPS, "accuracy", "bops", "front_size", "front"]
    assert [row["trial"] for row in trials] == [str(number) for number in range(6)]
    assert {row["state"] for row in trials} == {"complete"}
    assert len({tuple(row[group] for group in GROUPS) for row in trials}) == 6
    for row in rows(tiny / "search/front.csv"):
        number, policy = map(int, row["trial"].split("."))
        own = json.loads(trials[number]["front"])
        assert len(own) == int(trials[number]["front_size"])
        assert own[policy] == [float(row["accuracy"]), float(row["bops"])]
        assert [row[group] for group in GROUPS] == [trials[number][group] for group in GROUPS]


def test_every_point_of_the_front_measures_as_it_says(tiny: Path, opened: Context) -> None:
    run = usdn_nas.load_run(tiny)
    settings = study.read(opened).user_attrs["engine"]["settings"]
    engine = Engine(opened.supernet(), opened.search_batches, EngineSettings(**settings))
    plain = SupernetEvaluator(opened.supernet(), opened.search_batches)
    for row in run.front.to_dict("records"):
        point = run.point(row["trial"])
        costs = exit_costs(opened.space, point.bits).placed(point.exits)
        result = apply(engine(dict(point.bits)).placed(point.exits), costs, point.thresholds)
        assert result.accuracy == pytest.approx(row["accuracy"], abs=1e-12)
        assert result.average_bops == pytest.approx(row["bops"], rel=1e-12)
        beside = apply(plain(dict(point.bits)).placed(point.exits), costs, point.thresholds)
        # Of 100 images, some are at a rounding tie of this barely trained network.
        assert beside.accuracy == pytest.approx(result.accuracy, abs=0.03)
        assert beside.average_bops == pytest.approx(result.average_bops, rel=0.03)
        assert row["relative_bops"] == pytest.approx(row["bops"] / reference_bops(opened.space))


def test_the_exported_point_is_the_best_by_tr(tiny: Path) -> None:
    front, found = usdn_nas.load_run(tiny).front, document(tiny / "export/architecture.json")
    best = front.loc[(front["accuracy"] - 0.3 * front["relative_bops"]).idxmax()]
    assert found["source"]["trial"] == best["trial"]
    assert tuple(found["exits"]) == best["exits"] and tuple(found["thresholds"]) == best["thresholds"]
    assert found["objective"] == {"mode": "tr", "tr": 0.3, "budget_bops": None}
    metrics = found["metrics"]
    assert (metrics["split"], metrics["selected_on_this_split"], metrics["n"]) == ("search", True, 100)
    assert metrics["accuracy"] == best["accuracy"]
    assert metrics["average_bops"] == pytest.approx(best["bops"], rel=1e-12) == found["cost"]["average_bops"]
    assert found["cost"]["relative_bops"] == pytest.approx(best["relative_bops"], rel=1e-12)
    assert sum(metrics["exit_rates"].values()) == pytest.approx(1)
    average = sum(metrics["exit_rates"][e["exit"]] * e["cumulative_bops"] for e in found["cost"]["exits"])
    assert average == pytest.approx(metrics["average_bops"], rel=1e-12)


def test_ladder(tiny: Path) -> None:
    ladder = document(tiny / "supernet/ladder.json")
    assert (ladder["split"], ladder["n"]) == ("search", 100)
    low, high = ladder["rows"]  # 4/3 is no uniform width
    assert (low["bits"], high["bits"]) == ([2, 2], [4, 4]) and low["bops"] < high["bops"]
    assert low["difference"] is None and high["difference"] == pytest.approx(high["accuracy"] - low["accuracy"])
    assert ladder["monotone"] == (high["difference"] >= -2 * high["standard_error"])


def test_diagnostics(tiny: Path, opened: Context) -> None:
    found = document(tiny / "supernet/diagnostics.json")
    supernet = opened.supernet()
    for record in found["quantizers"]:
        layer = supernet.layers[record["layer"]]
        quantizer = layer.weight_quantizer if record["tensor"] == "weights" else layer.input_quantizer
        last = quantizer.at(record["bits"]).step.abs().item()
        assert record["step"] == [last] != [record["start"]] or not record["start"]
        assert ("oscillating" in record) == (record["tensor"] == "weights")
    assert len(found["quantizers"]) == sum(name.endswith(".step") for name in supernet.state_dict())
    assert found["collapsed"] == []
    counts = {name: value for name, value in supernet.state_dict().items() if name.endswith("num_batches_tracked")}
    assert len(set(counts.values())) > 1 and found["stale"] == []


def test_retrained_networks(tiny: Path, exported: ArchitectureFile, retrained: Path) -> None:
    assert [path.name for path in (tiny / "retrain").iterdir()] == [retrained.name]
    for part in ("kd", "ce"):
        found = read_architecture(retrained / part / "architecture.json", within=exported.space)
        assert found.architecture.bits == exported.architecture.bits
        assert found.architecture.exits == exported.architecture.exits
        assert found.objective == exported.objective
        assert found.source is not None and found.source["retrained"] == exported.architecture.digest
        assert found.metrics is not None and found.metrics["thresholds_exact"] is True
        assert found.metrics["thresholds_fitted"].startswith("at least the best combination of")
    assert file_digest(retrained / "kd/weights.safetensors") != file_digest(retrained / "ce/weights.safetensors")


def test_refitted_metrics_and_the_evaluation_measured_again(
    tiny: Path, opened: Context, exported: ArchitectureFile, retrained: Path
) -> None:
    evaluation = document(tiny / "evaluation.json")
    assert (evaluation["split"], evaluation["n"], evaluation["search_n"]) == ("test", 150, 100)
    assert evaluation["architecture_digest"] == exported.architecture.digest
    assert list(evaluation["models"]) == ["kd", "ce", "ce-temperature", "supernet", "teacher", "pretrained"]
    for part in ("kd", "ce"):
        file = read_architecture(retrained / part / "architecture.json")
        model = usdn_nas.load_model(retrained / part / "architecture.json", retrained / part / "weights.safetensors")
        summary = evaluation["models"][part]
        for split, metrics in ((opened.data.search, file.metrics), (opened.data.test, summary["policy"])):
            assert metrics is not None
            labels, answers, bops = [], [], []
            for images, truth in split.batches(50):
                prediction = model.predict(images)
                labels.append(truth), answers.append(prediction.labels), bops.append(prediction.bops)
            right = np.concatenate(labels) == np.concatenate(answers)
            assert right.mean() == pytest.approx(metrics["accuracy"], abs=1e-12)
            assert np.concatenate(bops).mean() == pytest.approx(metrics["average_bops"], rel=1e-12)
        assert summary["thresholds"] == list(file.architecture.thresholds)
        assert summary["search_policy"]["accuracy"] == pytest.approx(file.metrics["accuracy"], abs=1e-12)


def test_temperatures_are_those_of_least_loss_on_the_search_split(
    tiny: Path, opened: Context, exported: ArchitectureFile, retrained: Path
) -> None:
    models = document(tiny / "evaluation.json")["models"]
    plain, scaled = models["ce"], models["ce-temperature"]
    assert plain["temperatures"] is None and len(scaled["temperatures"]) == len(scaled["exits"])
    assert [row["accuracy"] for row in scaled["exits"]] == [row["accuracy"] for row in plain["exits"]]
    network = load_retrained(opened, exported, retrained / "ce").eval()
    outputs = {}
    for name, split in (("search", opened.data.search), ("test", opened.data.test)):
        with torch.no_grad():
            pairs = [(torch.stack(network(images)), labels) for images, labels in split.batches(50)]
        outputs[name] = torch.cat([z for z, _ in pairs], dim=1).double(), torch.cat([labels for _, labels in pairs])
    for exit_, temperature in enumerate(scaled["temperatures"]):
        logits, labels = outputs["search"]
        losses = [
            torch.nn.functional.cross_entropy(logits[exit_] / t, labels).item()
            for t in (temperature, 0.97 * temperature, 1.03 * temperature)
        ]
        assert losses[0] == min(losses)
    logits, labels = outputs["test"]
    confidence, answers = (logits / torch.tensor(scaled["temperatures"])[:, None, None]).softmax(-1).max(-1)
    leaves = [
        next(e for e, t in enumerate([*scaled["thresholds"], 0]) if confidence[e, n] >= t) for n in range(len(labels))
    ]
    right = answers[leaves, range(len(labels))] == labels
    # confidences here are in float64: one that lies on a threshold may fall to either side
    assert right.double().mean().item() == pytest.approx(scaled["policy"]["accuracy"], abs=0.02)


def test_curves_and_the_table_at_one_threshold(tiny: Path) -> None:
    evaluation = document(tiny / "evaluation.json")
    assert evaluation["bits"]["all"]["mac_weighted_weight_bits"] > 0
    for name, model in evaluation["models"].items():
        if len(model["exits"]) == 1:
            assert model["shared"] is None and model["fitted"] == []
            continue
        shared = model["shared"]
        assert shared["threshold"] == 0.7
        assert sum(row["cost_share_bops"] for row in shared["exits"]) == pytest.approx(shared["policy"]["average_bops"])
        assert len(model["fitted"]) == (13 if name in ("kd", "ce", "ce-temperature") else 0)
        for row in (*model["sweep"], *model["fitted"]):
            assert (row["n"], row["search"]["n"]) == (150, 100)


def test_table_1_adds_up(tiny: Path) -> None:
    evaluation = document(tiny / "evaluation.json")
    for model in evaluation["models"].values():
        shares = [row["cost_share_bops"] for row in model["exits"]]
        assert sum(shares) == pytest.approx(model["policy"]["average_bops"], rel=1e-12)
        assert sum(row["exit_rate"] for row in model["exits"]) == pytest.approx(1)
        for row in model["exits"]:
            assert row["cost_share_bops"] == pytest.approx(row["exit_rate"] * row["cumulative_bops"], rel=1e-12)
            assert row["error"] == pytest.approx(1 - row["accuracy"])
            assert row["n"] == sum(bin["count"] for bin in row["bins"]) == 150 and len(row["bins"]) == 15
        assert len(model["sweep"]) == (5 if len(model["exits"]) > 1 else 0)
        assert model["policy"]["relative_bops"] == pytest.approx(
            model["policy"]["average_bops"] / evaluation["reference_bops"]
        )


def test_table_2_is_of_the_models(tiny: Path) -> None:
    evaluation = document(tiny / "evaluation.json")
    by_exit = {name: {row["exit"]: row for row in evaluation["models"][name]["exits"]} for name in ("kd", "ce")}
    assert len(evaluation["table2"]) == 3 * len(by_exit["kd"])
    for row in evaluation["table2"]:
        ce, kd = (by_exit[name][row["exit"]][row["metric"]] for name in ("ce", "kd"))
        assert (row["ce"], row["kd"]) == (ce, kd)
        assert row["change_percent"] == pytest.approx(100 * (kd - ce) / ce)


def test_in_python(tiny: Path, opened: Context, retrained: Path) -> None:
    run = usdn_nas.load_run(tiny)
    assert run.name == "tiny" and len(run.trials) == 6 and run.config == opened.study
    assert run.retrained_folder == retrained
    for stage in ("pretrain", "supernet", "teacher", "retrain", "retrain-ce"):
        assert len(run.history(stage)) == (3 if stage == "pretrain" else 1)
    file = read_architecture(retrained / "kd/architecture.json", within=opened.space)
    network = load_retrained(opened, file, retrained / "kd")
    model = usdn_nas.load_model(retrained / "kd/architecture.json", retrained / "kd/weights.safetensors")
    images, _ = next(iter(opened.data.test.batches(20)))
    assert all((a == b).all() for a, b in zip(network.eval()(images), model(images), strict=True))
