"""Every shipped study from pretraining to report, on a few images in the real formats on disk, a step each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import usdn_nas
from tests.data.conftest import python2_names, python2_pickle
from tests.pipeline.tiny import recorded
from tests.shared import made_once
from usdn_nas._util.errors import UserError
from usdn_nas.config import find_toml, list_toml, load_study
from usdn_nas.networks import build, graph
from usdn_nas.networks.build import build_network
from usdn_nas.networks.foreign import read_tensors
from usdn_nas.networks.msdnet_weights import official
from usdn_nas.pipeline.context import open_run
from usdn_nas.pipeline.stages import Pipeline
from usdn_nas.space.search_space import load_space

STUDIES = [
    name
    for name, path in sorted(list_toml("studies").items())
    if load_study(path)[0].data.name in ("cifar10", "cifar100", "imagenet")
]
"""Those meant for GPUs; the others are small enough to be run as they are."""
GO_ON = {name: f"{name[:-1]}1" for name in STUDIES if name.endswith(("_tr02", "_tr03"))}
"""Those that differ in their trade-off alone from another study -> that study."""
QUICK = {"cifar10_sdn_own_scheme", "cifar100_msdnet_own_scheme"}
"""Those that stand for all in ``make test``; ``make sweep`` runs the others."""
DRAWN = {"cifar10_resnet18_tr01", "cifar10_sdn_own_scheme", "imagenet_msdnet_own_scheme"}
"""Those whose figures are drawn too, one of each kind."""
TRAININGS = ("supernet.pretrain", "supernet.qat", "retrain.teacher", "retrain.train")
CHECKPOINT = "msdnet-step=4-block=5.pth.tar"


def write_cifar(root: Path) -> None:
    """CIFAR-10 and CIFAR-100 as they are unpacked, with 4 images in a file, 100 in CIFAR-100's first."""
    generator = np.random.default_rng(1)
    ten = ([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"], 10, b"labels", "batches.meta", b"label_names")
    hundred = (["train", "test"], 100, b"fine_labels", "meta", b"fine_label_names")
    for folder, (names, classes, key, meta, of_names) in {
        "cifar-10-batches-py": ten,
        "cifar-100-python": hundred,
    }.items():
        (root / folder).mkdir(parents=True)
        for number, name in enumerate(names):
            count = 100 if name == "train" else 4
            data = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
            (root / folder / name).write_bytes(
                python2_pickle(data, [(4 * number + k) % classes for k in range(count)], key)
            )
        (root / folder / meta).write_bytes(python2_names([f"class {k}" for k in range(classes)], of_names))


def write_imagenet(root: Path) -> None:
    """ILSVRC2012's layout: a folder for each of the 1,000 classes in train, JPEGs of 224 and 256 pixels."""
    generator = np.random.default_rng(2)
    for number in range(1000):
        folder = root / "train" / f"n{number:08d}"
        folder.mkdir(parents=True)
        if number < 8:
            pixels = np.kron(
                generator.integers(0, 256, (7, 8, 3), dtype=np.uint8), np.ones((32, 32, 1), dtype=np.uint8)
            )
            Image.fromarray(pixels).save(root / f"{number}.jpg")
        shutil.copy(root / f"{number % 8}.jpg", folder / f"{folder.name}_{number}.JPEG")
        if number < 4:
            (root / "val" / folder.name).mkdir(parents=True)
            shutil.copy(root / f"{number}.jpg", root / "val" / folder.name / f"ILSVRC2012_val_{number:08d}.JPEG")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def write(root: Path) -> None:
        write_cifar(root)
        write_imagenet(root / "imagenet")

    return made_once(tmp_path_factory, "data", write)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that kalviny/MSDNet-PyTorch publishes, with random weights."""
    return made_once(tmp_path_factory, "weights", write_checkpoint) / CHECKPOINT


def write_checkpoint(folder: Path) -> None:
    torch.manual_seed(0)
    chain = build_network(load_space(find_toml("msdnet_imagenet", "search_spaces")))
    for module in chain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # statistics as of a trained network, so that activations do not overflow
    with torch.no_grad():
        chain.train()(torch.randn(2, 3, 224, 224))
    segments = dict(zip(chain.segment_names, chain.segments, strict=True))
    state = official(segments, dict(zip(chain.exit_names, chain.heads, strict=True))).state_dict()
    torch.save(
        {"epoch": 89, "state_dict": {f"module.{key}": value for key, value in state.items()}}, folder / CHECKPOINT
    )


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of a network is traced once: a run builds its network twenty times, and tracing takes half its time."""
    monkeypatch.setattr(build, "analyze", GRAPHS.analyze)


class Graphs:
    """Graphs of parts that were traced before. Parts of shipped networks that print alike have the same graph."""

    def __init__(self) -> None:
        self.found: dict[object, graph.PartGraph] = {}

    def analyze(
        self, module: nn.Module, prefix: str, state: Sequence[Tensor], signs: Sequence[bool]
    ) -> graph.PartGraph:
        key = (repr(module), prefix, tuple(part.shape for part in state), tuple(signs))
        if key not in self.found:
            self.found[key] = graph.analyze(module, prefix, state, signs)
        return self.found[key]


GRAPHS = Graphs()


def limits(name: str, data: Path) -> list[str]:
    """Settings that make a study short; all others are as it ships."""
    search, train, batch = (2, 4, 2) if name.startswith("imagenet") else (4, 4, 4)
    small = ("max_steps=1", "lr=0.001", f"batch_size={batch}")
    trainings = [f"{table}.{limit}" for table in TRAININGS for limit in small]
    # Where BatchNorms' statistics are a step old, activations grow from layer to layer until they overflow.
    trainings.append("supernet.pretrain.max_steps=8")
    settings = [*trainings, f"supernet.calibration_images={batch}", "search.configurations=2", "evaluate.sweep=3"]
    splits = [f"data.root='{data}'", f"data.search={search}", f"data.train_limit={train}", "data.workers=0"]
    return [*settings, *splits, f"batch_size={batch}", "threads=1", "search.backend='float'"]


def run(name: str, data: Path, folder: Path, until: str = "evaluate") -> list[str]:
    """Runs a study, short, in ``folder``; returns the stages that ran."""
    context = open_run(find_toml(name, "studies"), tuple(limits(name, data)), folder)
    with recorded() as ran:
        Pipeline(context).run(until, repick=True)  # as ``usdn-nas run`` does
    return ran


def evaluation(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


def test_every_study_is_run() -> None:
    assert len(STUDIES) >= 19 and set(STUDIES) > set(GO_ON) | QUICK | DRAWN
    assert set(GO_ON.values()) == {name for name in STUDIES if name.endswith("_tr01")}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.sweep) for name in STUDIES if name not in GO_ON],
)
def test_runs_from_pretraining_to_its_end(
    name: str, data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    folder = tmp_path / "run"
    ran = run(name, data, folder, until="report" if name in DRAWN else "evaluate")
    assert {"pretrain", "supernet", "search"} < set(ran)
    found = evaluation(folder)
    assert (found["n"], found["rule"]) == (4, "most-confident" if "_sdn" in name else "threshold")
    if name in DRAWN:
        assert ran[-1] == "report" and (folder / "report.html").stat().st_size > 10_000
    if "sdn" in name:
        check_baseline(name, found["models"])
    if name == "imagenet_msdnet_own_scheme":
        check_published_weights(folder, checkpoint)
    for other, first in GO_ON.items():
        if first == name:
            check_other_trade_off(other, folder)


def check_other_trade_off(name: str, folder: Path) -> None:
    """The study is another one but for its trade-off, and a finished run of that one goes on with it at its export."""
    other = load_study(find_toml(name, "studies"))
    trade_off = f"search.tr={other[0].search.tr}"
    assert load_study(find_toml(GO_ON[name], "studies"), [trade_off]) == other
    with recorded() as ran:
        Pipeline(open_run(folder, (trade_off,))).run("evaluate", repick=True)
    assert {"pretrain", "supernet", "search"}.isdisjoint(ran) and {"export", "evaluate"} <= set(ran)
    assert evaluation(folder)["n"] == 4


def check_baseline(name: str, models: dict[str, Any]) -> None:
    """A baseline keeps all its exits, and its own scheme is quantization-aware training alone."""
    assert len(models["kd"]["exits"]) == (7 if "_sdn" in name else 5)
    assert ("ce" in models) != name.endswith("_own_scheme")
    if name.endswith("_own_scheme"):
        accuracies = [[row["accuracy"] for row in models[model]["exits"]] for model in ("kd", "supernet")]
        assert accuracies[0] == accuracies[1]


def check_published_weights(folder: Path, checkpoint: Path) -> None:
    """Training starts from the published weights, and a finished run needs their file no more."""
    kept = read_tensors(folder / "pretrain/weights.safetensors")
    given = read_tensors(checkpoint)
    assert len(kept) == len(given) == 1127
    assert torch.equal(kept["segments.0.conv0.weight"], given["blocks.0.0.layers.0.0.weight"])
    assert torch.equal(kept["heads.4.linear.bias"], given["classifier.4.linear.bias"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert not Path(CHECKPOINT).exists() and not Pipeline(open_run(folder)).run(until="supernet")
    (retrained,) = (folder / "retrain").glob("*/kd")
    network = usdn_nas.load_model(retrained / "architecture.json", retrained / "weights.safetensors")
    assert network.exit_names == ("block0.3", "block1.3", "block2.3", "block3.3", "final")


@pytest.mark.parametrize("name", [name for name in STUDIES if name.endswith("_tr01")])
def test_recipe_of_appendix_a(name: str) -> None:
    for tr in (1, 2, 3):
        study, space = load_study(find_toml(f"{name[:-1]}{tr}", "studies"))
        assert study.search.tr == pytest.approx(tr / 10)
        trainings = [study.supernet.pretrain, study.supernet.qat, study.retrain.teacher, study.retrain.train]
        batch = 1024 if name.startswith("imagenet") else 64
        recipe = [(t.epochs, t.lr, t.schedule, t.batch_size) for t in trainings]
        assert recipe == [(300, 0.1, "cosine", batch)] * 4
        assert [t.weight_decay for t in trainings] == [1e-4, 1e-4, 1e-4, 5e-4]
        assert (study.retrain.temperature, study.retrain.alpha, study.retrain.alpha_weighs) == (2.0, 0.3, "kd")
        assert space.bits.choices == ((2, 2), (3, 3), (4, 4), (5, 5)) and space.bits.granularity == "block"


@pytest.mark.parametrize("given", [None, b"", b"other"])
def test_weights_that_are_not_there_or_wrong_are_one_line(given: bytes | None, data: Path, tmp_path: Path) -> None:
    weights = tmp_path / CHECKPOINT
    if given is not None:
        weights.write_bytes(given)
    settings = (*limits("cifar10_msdnet", data), f"supernet.weights={weights}")
    context = open_run(find_toml("cifar10_msdnet", "studies"), settings, tmp_path / "run")
    with pytest.raises(UserError, match=str(weights)) as caught:
        Pipeline(context).run(until="pretrain")
    assert "\n" not in str(caught.value)
