"""Synthetic runs: real layer shapes, invented measurements (random, seeded), written as the stages write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from usdn_nas._util.files import write_json
from usdn_nas.config import StudyConfig
from usdn_nas.report import Run, load_run
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import exit_costs, full_bops, layer_table, mean_bits, reference_bops
from usdn_nas.space.records import ChainRecord, ExitRecord, LayerRecord, SegmentRecord
from usdn_nas.space.search_space import SearchSpace, SpaceSpec

N = 2_000


def _layer(name: str, macs: int, kind: str = "conv") -> LayerRecord:
    return LayerRecord(name, kind, macs, 1, "x", False, 1)


def _head(segment: str, channels: int, size: int) -> tuple[LayerRecord, ...]:
    """conv3: three stride-2 3x3 convolutions, pooling, linear."""
    convs = []
    for i in range(3):
        size = (size + 1) // 2
        convs.append(_layer(f"exit:{segment}.conv{i}", size * size * 9 * channels * channels))
    return (*convs, _layer(f"exit:{segment}.fc", channels * 1000, "linear"))


def _chain(network: str, segments: Sequence[SegmentRecord], heads: dict[int, tuple[int, int]], fc: int) -> ChainRecord:
    exits = [ExitRecord(segments[i].name, i, _head(segments[i].name, *shape)) for i, shape in heads.items()]
    exits.append(ExitRecord("final", len(segments) - 1, (_layer("exit:final.fc", fc, "linear"),)))
    return ChainRecord(network, (3, 224, 224), 1000, tuple(segments), tuple(exits), {"add": 8, "max_pool2d": 1})


def resnet18_chain() -> ChainRecord:
    """ResNet-18 at 224x224, candidate exits after every block but the last."""
    segments = [SegmentRecord("stem", (_layer("stem.conv1", 112 * 112 * 49 * 3 * 64),))]
    heads = {}
    before = 64
    for stage, (channels, size) in enumerate([(64, 56), (128, 28), (256, 14), (512, 7)], start=1):
        for block in range(2):
            name, area = f"layer{stage}.{block}", size * size
            layers = [
                _layer(f"{name}.conv1", area * 9 * before * channels),
                _layer(f"{name}.conv2", area * 9 * channels * channels),
            ]
            if before != channels:
                layers.append(_layer(f"{name}.downsample.0", area * before * channels))
            segments.append(SegmentRecord(name, tuple(layers)))
            heads[len(segments) - 1] = (channels, size)
            before = channels
    heads.popitem()
    return _chain("torchvision:resnet18", segments, heads, 512_000)


def plain_chain(blocks: int, layers: int) -> ChainRecord:
    """A stem, ``blocks`` blocks of ``layers`` layers and a classifier."""
    segments = [SegmentRecord("stem", (_layer("stem.conv", 3_000_000),))]
    for i in range(blocks):
        names = ("expand", "depthwise", "project")[:layers]
        segments.append(SegmentRecord(f"block{i}", tuple(_layer(f"block{i}.{n}", 2_000_000) for n in names)))
    heads = {i: (16, 28) for i in range(1, blocks) if blocks < 8 or i % 2}
    return _chain(f"plain{blocks * layers + 2}", segments, heads, 10_000)


def make_space(chain: ChainRecord, granularity: str = "block") -> SearchSpace:
    spec = SpaceSpec.model_validate(
        {
            "network": {"name": chain.network, "input_shape": [3, 224, 224], "num_classes": 1000},
            "bits": {"granularity": granularity, "choices": [[2, 2], [3, 3], [4, 4], [5, 5]]},
        }
    )
    return SearchSpace(spec, chain)


class Samples:
    """Invented outputs of E exits for N samples: later exits are right more often and surer of it."""

    def __init__(self, exits: int, seed: int, skill: float) -> None:
        generator = np.random.default_rng(seed)
        ease = generator.normal(size=N)
        depth = np.linspace(-0.6, 1.4, exits)[:, None] + skill
        logit = depth + ease + 0.5 * generator.normal(size=(exits, N))
        probability = 1 / (1 + np.exp(-2.2 * (logit + 0.9)))
        self.correct = generator.random((exits, N)) < probability
        self.confidence = np.clip(probability - 0.05 * (1 - skill), 0.01, 1.0)

    def policy(self, thresholds: Sequence[float], costs: np.ndarray) -> dict[str, Any]:
        """Exit rates, accuracy and average cost by definition, sample by sample."""
        leaves = np.full(N, len(self.correct) - 1)
        for e in reversed(range(len(thresholds))):
            leaves[self.confidence[e] >= thresholds[e]] = e
        right = self.correct[leaves, np.arange(N)]
        return {
            "leaves": leaves,
            "right": right,
            "accuracy": float(right.mean()),
            "average_bops": float(costs[leaves].mean()),
        }


def _bins(confidence: np.ndarray, correct: np.ndarray, count: int = 15) -> list[dict[str, Any]]:
    which = np.clip(np.ceil(confidence * count).astype(int) - 1, 0, count - 1)
    rows = []
    for b in range(count):
        inside = which == b
        here = int(inside.sum())
        rows.append(
            {
                "lo": b / count,
                "hi": (b + 1) / count,
                "count": here,
                "confidence": float(confidence[inside].mean()) if here else None,
                "accuracy": float(correct[inside].mean()) if here else None,
            }
        )
    return rows


def _model(label: str, names: Sequence[str], costs: np.ndarray, thresholds: Sequence[float], seed: int, skill: float,
           reference: int) -> dict[str, Any]:  # fmt: skip
    test, search = Samples(len(names), seed, skill), Samples(len(names), seed + 100, skill + 0.03)
    result = test.policy(thresholds, costs)
    exits = []
    for e, name in enumerate(names):
        leaving = result["leaves"] == e
        bins = _bins(test.confidence[e], test.correct[e])
        gaps = [(b["count"], abs(b["confidence"] - b["accuracy"])) for b in bins if b["count"]]
        accuracy = float(test.correct[e].mean())
        exits.append(
            {
                "exit": name,
                "threshold": thresholds[e] if e < len(thresholds) else None,
                "exit_rate": float(leaving.mean()),
                "accuracy": accuracy,
                "error": 1 - accuracy,
                "accuracy_leaving": float(result["right"][leaving].mean()) if leaving.any() else None,
                "cumulative_bops": int(costs[e]),
                "cost_share_bops": float(leaving.mean() * costs[e]),
                "ece": sum(c * g for c, g in gaps) / N,
                "mce": max(g for _, g in gaps),
                "signed_gap": float(test.confidence[e].mean()) - accuracy,
                "auroc": None,
                "n": N,
                "bins": bins,
                "leaving": None,
            }
        )

    def summary(samples: Samples, used: Sequence[float]) -> dict[str, Any]:
        outcome = samples.policy(used, costs)
        average = outcome["average_bops"]
        return {"accuracy": outcome["accuracy"], "average_bops": average, "relative_bops": average / reference, "n": N}

    def measured(used: Sequence[float]) -> dict[str, Any]:
        return {**summary(test, used), "search": summary(search, used)}

    early = len(names) - 1
    sweep = [{"threshold": float(t), **measured([t] * early)} for t in np.linspace(0.2, 1, 25)]
    fitted = [{"tr": 0.1, "thresholds": used, **measured(used)} for used in _spread(early)]
    shared = [0.7] * early
    answered = test.policy(thresholds, costs)["leaves"], np.arange(N)
    gap = float(test.confidence[answered].mean() - test.correct[answered].mean())
    return {
        "label": label,
        "precision": "quantized",
        "thresholds": list(thresholds),
        "exits": exits,
        "policy": summary(test, thresholds),
        "search_policy": summary(search, thresholds),
        "temperatures": [1.5 + 0.1 * e for e in range(len(names))] if "temperature" in label else None,
        "answers": {"ece": abs(gap), "mce": 2 * abs(gap), "signed_gap": gap, "auroc": 0.85},
        "shared": {"threshold": 0.7, "exits": _leaving(names, costs, shared, test), "policy": summary(test, shared)},
        "sweep": sweep,
        "fitted": fitted,
        "budgeted": [
            {
                "ratio": ratio,
                "thresholds": used,
                "exit_rates": [float((test.policy(used, costs)["leaves"] == e).mean()) for e in range(len(names))],
                **measured(used),
            }
            for ratio, used in zip(np.linspace(0.2, 1.8, 9).tolist(), _spread(early), strict=True)
        ],
        "overthinking": {
            "wasteful": 0.6, "destructive": 0.05, "oracle_accuracy": 0.9, "oracle_bops": float(costs[0]),
            "first_right": [0.9] + [0.0] * early, "confusion_right": -0.4, "confusion_wrong": 1.2,
            "confusion_auroc": None,
        },
    }  # fmt: skip


def _spread(count: int) -> list[list[float]]:
    """Thresholds that fall along the chain, less and less."""
    return [[float(t) * (1 - 0.02 * e) for e in range(count)] for t in np.linspace(0.3, 1, 9)]


def _leaving(names: Sequence[str], costs: np.ndarray, used: Sequence[float], samples: Samples) -> list[dict[str, Any]]:
    result, rows = samples.policy(used, costs), []
    for e, name in enumerate(names):
        here = result["leaves"] == e
        rows.append(
            {
                "exit": name,
                "threshold": used[e] if e < len(used) else None,
                "exit_rate": float(here.mean()),
                "accuracy_leaving": float(result["right"][here].mean()) if here.any() else None,
                "cumulative_bops": int(costs[e]),
                "cost_share_bops": float(here.mean() * costs[e]),
            }
        )
    return rows


def _table2(ce: dict[str, Any], kd: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"exit": a["exit"], "metric": m, "ce": a[m], "kd": b[m], "change_percent": 100 * (b[m] - a[m]) / a[m]}
        for a, b in zip(ce["exits"], kd["exits"], strict=True)
        for m in ("error", "ece", "mce")
    ]


PROVENANCE = {
    "seed": 0,
    "device": "cpu (<2 cores> & more)",
    "versions": {"usdn-nas": "0.1.0", "python": "3.11.2"},
    "commit": "0123456789abcdef",
}


def write_study(folder: Path, space: SearchSpace, name: str = "synthetic") -> None:
    study = {"name": name, "config": StudyConfig(space="x").model_dump(mode="json")}
    spec = space.spec.model_dump(mode="json")
    write_json(folder / "study.json", {"schema": "usdn-nas/study/1", **study, "space": spec, "provenance": PROVENANCE})
    write_json(folder / "chain.json", {"schema": "usdn-nas/chain/1", "chain": space.chain.to_dict()})


def write_search(folder: Path, space: SearchSpace, trials: int = 128) -> tuple[dict[str, Any], Architecture]:
    """trials.csv and front.csv; returns the row of a point with many exits, and the point."""
    generator = np.random.default_rng(1)
    reference = reference_bops(space)
    rows, points = [], []
    for number in range(trials):
        bits = space.sample(generator)
        relative = full_bops(space, bits) / reference
        cells = {group: f"{w}/{a}" for group, (w, a) in bits.items()}
        mean = np.mean([w for w, _ in bits.values()])
        rows.append({"trial": number, "state": "complete", **cells, "front_size": 3})
        for policy in range(3):
            share = (0.55, 0.75, 1.0)[policy]
            accuracy = 0.93 - 0.25 * np.exp(-1.1 * mean * share) - 0.02 * generator.random()
            count = min(3 - policy, (len(space.candidates) + 1) // 2)
            exits = space.candidates[: 2 * count : 2]
            point = {"trial": f"{number}.{policy}", "accuracy": accuracy, "bops": relative * share * reference}
            point |= {"relative_bops": relative * share, "exits": "+".join(exits)}
            points.append(point | {"thresholds": json.dumps([0.7, 0.82, 0.9][: len(exits)]), **cells})
        rows[-1] |= {"accuracy": points[-2]["accuracy"], "bops": points[-2]["bops"]}
    rows[-1] |= {"state": "fail", "accuracy": None, "bops": None}
    best, front = -1.0, []
    for point in sorted(points, key=lambda p: p["bops"]):
        if point["accuracy"] > best:
            best = point["accuracy"]
            front.append(point)
    (folder / "search").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "search/trials.csv", index=False)
    pd.DataFrame({"trial": range(len(rows)), "seconds": 0.2}).to_csv(folder / "search/seconds.csv", index=False)
    (folder / "search/engine.json").write_text(
        '{"schema": "usdn-nas/engine/1", "backend": "float", "images": 64, "channels_last": true, "threads": 1}'
    )
    pd.DataFrame(front).to_csv(folder / "search/front.csv", index=False)
    chosen = max(front[: len(front) * 2 // 3], key=lambda p: len(p["thresholds"]))
    bits = {group.name: tuple(map(int, chosen[group.name].split("/"))) for group in space.groups}
    exits = tuple(chosen["exits"].split("+"))
    return chosen, Architecture(bits, exits, tuple(json.loads(chosen["thresholds"])))  # type: ignore[arg-type]


def write_sensitivity(folder: Path, space: SearchSpace) -> None:
    """Additive effects that shrink along the chain; shares of variance as they follow from these."""
    generator = np.random.default_rng(2)
    trade_offs = [0.0, 0.01, 0.1, 1.0]
    groups, variances = [], []
    for i, group in enumerate(space.groups):
        scale = 0.03 * np.exp(-2 * i / len(space.groups)) * generator.uniform(0.3, 1)
        bits = np.array([np.sqrt(w * a) for w, a in group.choices])
        accuracy = scale * (1 - np.exp(1 - bits))
        cost = bits**2 / 16 / len(space.groups)
        value = (accuracy - accuracy.mean())[:, None] - np.outer(cost - cost.mean(), trade_offs)
        variances.append([float((accuracy - accuracy.mean()).var()), *value.var(axis=0)])
        entry = {"name": group.name, "choices": [list(pair) for pair in group.choices]}
        groups.append(entry | {"accuracy": list(accuracy - accuracy.mean()), "value": value.tolist()})
    shares = np.array(variances) / (np.sum(variances, axis=0) + 1e-18)
    for entry, row in zip(groups, shares, strict=True):
        entry["importance"] = row[1:].tolist()
    payload = {
        "trials": 127,
        "trade_offs": trade_offs,
        "groups": groups,
        "importance_of_accuracy": shares[:, 0].tolist(),
    }
    write_json(folder / "search/sensitivity.json", {"schema": "usdn-nas/sensitivity/1", **payload})


def write_architecture(path: Path, space: SearchSpace, architecture: Architecture, row: dict[str, Any]) -> None:
    rows = layer_table(space, architecture)
    costs = exit_costs(space, architecture.bits).placed(architecture.exits)
    samples = Samples(len(costs.names), 100, 0.3).policy(architecture.thresholds, costs.cumulative)
    rates = {name: float((samples["leaves"] == e).mean()) for e, name in enumerate(costs.names)}
    keys = ("exit", "chain_bops", "head_bops", "cumulative_bops")
    exits = zip(costs.names, map(int, costs.chain), map(int, costs.heads), map(int, costs.cumulative), strict=True)
    average, reference = row["bops"], reference_bops(space)
    metrics = {"split": "search", "selected_on_this_split": True, "n": N, "accuracy": row["accuracy"]}
    payload = {
        "schema": "usdn-nas/architecture/1",
        "space": space.spec.model_dump(mode="json"),
        "space_digest": space.digest,
        **architecture.to_dict(),
        "digest": architecture.digest,
        "layers": rows,
        "cost": {
            "exits": [dict(zip(keys, row, strict=True)) for row in exits],
            "full_bops": full_bops(space, architecture.bits),
            "reference_bops": reference,
            "average_bops": average,
            "relative_bops": average / reference,
            "bits": {"searched": mean_bits([r for r in rows if r["group"]]), "all": mean_bits(rows)},
        },
        "metrics": metrics | {"average_bops": average, "exit_rates": rates},
        "objective": {"mode": "scalar", "tr": 0.1, "budget_bops": None},
        "source": {"trial": row["trial"]},
        "provenance": PROVENANCE,
    }
    write_json(path, payload)


def write_ladder(folder: Path, space: SearchSpace) -> None:
    names = [exit_.name for exit_ in space.chain.exits]
    rows = []
    for i, bits in enumerate(space.ladder()):
        exits = {n: 0.93 - 0.12 * 0.5**i - 0.04 * (len(names) - 1 - e) / len(names) for e, n in enumerate(names)}
        step = {"difference": None, "standard_error": None} if i == 0 else {"difference": 0.02, "standard_error": 0.003}
        width = list(next(iter(bits.values())))
        rows.append({"bits": width, "bops": full_bops(space, bits), "accuracy": exits["final"], "accuracy_exits": exits} | step)  # fmt: skip  # noqa: E501
    payload = {"schema": "usdn-nas/ladder/1", "split": "search", "n": N, "rows": rows, "monotone": True}
    write_json(folder / "supernet/ladder.json", payload)


def write_diagnostics(folder: Path, space: SearchSpace, epochs: int = 5) -> None:
    quantizers = []
    for number, layer in enumerate(space.chain.layers()):
        group = space.group_of.get(layer.name)
        pairs = next(g.choices for g in space.groups if g.name == group) if group else (space.fixed[layer.name],)
        for bits in sorted({w for w, _ in pairs if w < 32}):
            steps = [0.1 * (1 - 0.02 * e * (number % 3)) for e in range(1, epochs + 1)]
            record = {"layer": layer.name, "bits": bits, "start": 0.1, "step": steps}
            quantizers.append(record | {"tensor": "weights", "oscillating": [0.01 * bits * e for e in range(epochs)]})
            quantizers.append(record | {"tensor": "inputs"})
    found = {"quantizers": quantizers, "collapsed": ["stem <conv>: weights at 2 bits"], "stale": []}
    payload = {"schema": "usdn-nas/diagnostics/1", **found, "provenance": PROVENANCE}
    write_json(folder / "supernet/diagnostics.json", payload)


def write_history(folder: Path, stage: str, exits: Sequence[str], epochs: int = 20) -> None:
    paths = ("@max", "@min") if stage == "supernet" else ("",)
    rows = []
    for epoch in range(1, epochs + 1):
        row: dict[str, Any] = {"epoch": epoch, "step": 100 * epoch, "loss": 2.3 * np.exp(-epoch / 6) + 0.2, "lr": 0.1}
        row |= {"seconds": 2.0, "images_per_second": 1000.0}
        for e, name in enumerate(exits):
            for path in paths:
                gap = 0.05 * (path == "@min") + 0.03 * (len(exits) - e) / len(exits)
                row[f"accuracy_{name}{path}"] = 0.93 - gap - 0.5 * np.exp(-epoch / 4)
        rows.append(row)
    (folder / stage).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / stage / "history.csv", index=False)


def write_evaluation(folder: Path, space: SearchSpace, architecture: Architecture, digest: str) -> None:
    costs = exit_costs(space, architecture.bits).placed(architecture.exits)
    reference = reference_bops(space)

    def model(label: str, seed: int, skill: float, thresholds: Sequence[float]) -> dict[str, Any]:
        return _model(label, costs.names, costs.cumulative, thresholds, seed, skill, reference)

    kd = model("retrained with KD", 1, 0.35, architecture.thresholds)
    ce = model("retrained with cross-entropy alone", 2, 0.2, [t + 0.03 for t in architecture.thresholds])
    scaled = model("retrained with CE alone, a temperature", 2, 0.22, [t - 0.05 for t in architecture.thresholds])
    rows = layer_table(space, architecture)
    bits = {"searched": mean_bits([r for r in rows if r["group"]]), "all": mean_bits(rows)}
    teacher = model("full-precision teacher", 3, 0.5, architecture.thresholds) | {"precision": "full"}
    payload = {
        "schema": "usdn-nas/evaluation/2",
        "split": "test",
        "n": N,
        "search_n": N,
        "architecture_digest": digest,
        "rule": "threshold",
        "reference_bops": reference,
        "bits": bits,
        "models": {"kd": kd, "ce": ce, "ce-temperature": scaled, "teacher": teacher},
        "table2": _table2(ce, kd),
        "provenance": PROVENANCE,
    }
    write_json(folder / "evaluation.json", payload)


def write_run(folder: Path, space: SearchSpace, name: str = "synthetic") -> Run:
    """A finished run."""
    write_study(folder, space, name)
    names = [exit_.name for exit_ in space.chain.exits]
    row, architecture = write_search(folder, space)
    write_sensitivity(folder, space)
    write_architecture(folder / "export/architecture.json", space, architecture, row)
    retrained = folder / f"retrain/{architecture.network_digest[:12]}"
    refitted = architecture.with_thresholds([t - 0.05 for t in architecture.thresholds])
    write_architecture(retrained / "kd/architecture.json", space, refitted, row)
    write_ladder(folder, space)
    write_diagnostics(folder, space)
    for stage in ("pretrain", "supernet"):
        write_history(folder, stage, names)
    for stage in ("teacher", "kd", "ce"):
        write_history(retrained, stage, [*architecture.exits, "final"])
    write_evaluation(folder, space, refitted, architecture.digest)
    done = {"status": "done", "seconds": 12.5, "finished": "2026-01-01T00:00:00", "inputs": {}, "outputs": {}}
    done["fingerprint"] = "0"
    stages = dict.fromkeys(("pretrain", "supernet", "search", "export", "teacher", "retrain", "evaluate"), done)
    write_json(folder / "stages.json", {"schema": "usdn-nas/stages/1", "stages": stages})
    return load_run(folder)


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("resnet18"), make_space(resnet18_chain()), "resnet18 <&> co")


@pytest.fixture(scope="session")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """60 layers, bits chosen layer by layer, 10 exit candidates."""
    return write_run(tmp_path_factory.mktemp("long"), make_space(plain_chain(20, 3), "layer"))


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("short"), make_space(plain_chain(3, 2)))


@pytest.fixture
def started(tmp_path: Path) -> Callable[[], Run]:
    """A run of which only the study is written."""

    def make() -> Run:
        write_study(tmp_path, make_space(resnet18_chain()))
        return load_run(tmp_path)

    return make
