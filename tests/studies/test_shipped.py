"""Every shipped study from pretraining to report, on a few images in the real formats on disk, a step each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.conftest import python2_names, python2_pickle
from tests.pipeline.tiny import recorded
from usdn_nas.config import find_toml, list_toml
from usdn_nas.networks.build import build_network
from usdn_nas.networks.msdnet_weights import official
from usdn_nas.pipeline.context import open_run
from usdn_nas.pipeline.stages import Pipeline
from usdn_nas.space import load_space

RUN_ELSEWHERE = {"digits", "fashion_mnist"}
"""The demo and its larger sister: tests of the README, of commands and of data sets run them."""
STUDIES = sorted(set(list_toml("studies")) - RUN_ELSEWHERE)
TRAININGS = ("supernet.pretrain", "supernet.qat", "retrain.teacher", "retrain.train")
CHECKPOINT = "msdnet-step=4-block=5.pth.tar"


def write_cifar(root: Path) -> None:
    """CIFAR-10 and CIFAR-100 as they are unpacked, with 8 images in a file, 100 in CIFAR-100's first."""
    generator = np.random.default_rng(1)
    ten = ([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"], 10, b"labels", "batches.meta", b"label_names")
    hundred = (["train", "test"], 100, b"fine_labels", "meta", b"fine_label_names")
    for folder, (names, classes, key, meta, of_names) in {
        "cifar-10-batches-py": ten,
        "cifar-100-python": hundred,
    }.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            count = 100 if name == "train" else 8
            data = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
            (root / folder / name).write_bytes(python2_pickle(data, [k % classes for k in range(count)], key))
        (root / folder / meta).write_bytes(python2_names([f"class {k}" for k in range(classes)], of_names))


def write_imagenet(root: Path) -> None:
    """ILSVRC2012's layout: a folder for each of the 1,000 classes in train, JPEGs of 224 and 256 pixels."""
    generator = np.random.default_rng(2)
    for number in range(1000):
        folder = root / "train" / f"n{number:08d}"
        folder.mkdir(parents=True)
        if number < 8:
            pixels = np.kron(generator.integers(0, 256, (7, 8, 3), dtype=np.uint8), np.ones((32, 32, 1), dtype=np.uint8))
            Image.fromarray(pixels).save(root / f"{number}.jpg")
        shutil.copy(root / f"{number % 8}.jpg", folder / f"{folder.name}_{number}.JPEG")
        if number < 4:
            (root / "val" / folder.name).mkdir(parents=True)
            shutil.copy(root / f"{number}.jpg", root / "val" / folder.name / f"ILSVRC2012_val_{number:08d}.JPEG")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_cifar(root)
    write_imagenet(root / "imagenet")
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that kalviny/MSDNet-PyTorch publishes, of random weights."""
    torch.manual_seed(0)
    chain = build_network(load_space(find_toml("msdnet_imagenet", "search_spaces")))
    segments = dict(zip(chain.segment_names, chain.segments, strict=True))
    state = official(segments, dict(zip(chain.exit_names, chain.heads, strict=True))).state_dict()
    path = tmp_path_factory.mktemp("weights") / CHECKPOINT
    torch.save({"epoch": 89, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    return path


def limits(name: str, data: Path) -> list[str]:
    """What makes a study short; all else is as it ships."""
    large = name.startswith("imagenet")
    search, train, batch = (2, 4, 2) if large else (8, 8, 4)
    trainings = [f"{table}.{limit}" for table in TRAININGS for limit in ("max_steps=1", "lr=0.001", f"batch_size={batch}")]
    settings = [*trainings, f"supernet.calibration_images={batch}", "search.configurations=2", "evaluate.sweep=3"]
    splits = [f"data.root='{data}'", f"data.search={search}", f"data.train_limit={train}", "data.workers=0"]
    return [*settings, *splits, f"batch_size={batch}", "threads=1", "search.backend='float'"]


@pytest.mark.parametrize("name", STUDIES)
def test_runs_from_pretraining_to_report(
    name: str, data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    context = open_run(find_toml(name, "studies"), tuple(limits(name, data)), tmp_path)
    with recorded() as ran:
        Pipeline(context).run()
    assert ran[0] == "pretrain" and ran[-1] == "report"
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert 0 < evaluation["models"]["kd"]["policy"]["relative_bops"]
    assert (tmp_path / "report.html").stat().st_size > 10_000
