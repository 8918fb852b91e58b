"""A study that runs through all stages in seconds, and ways to look at what it leaves."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from usdn_nas._util.files import file_digest
from usdn_nas._util.progress import Reporter
from usdn_nas.pipeline import stages
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.pipeline.ledger import Ledger, Stage
from usdn_nas.pipeline.stages import Pipeline

SPACE = """
[network]
name = "resnet_cifar"
depth = 8
width = 4
input_shape = [1, 8, 8]
num_classes = 10

[bits]
choices = [[2, 2], [4, 3], [4, 4]]

[exits]
head = "linear"
"""

STUDY = """
space = "tiny_space"
seed = 3
threads = 1
batch_size = 100

[data]
name = "digits"
train_limit = 400
search = 100
test = 150

[supernet]
random_paths = 2
calibration_images = 50
pretrain = { epochs = 3, batch_size = 50 }
qat = { epochs = 2, batch_size = 50, lr = 0.05, max_steps = 6 }

[search]
configurations = 6
batch = 3
thresholds = 16
tr = 0.3

[retrain]
teacher = { epochs = 2, batch_size = 50, lr = 0.05, max_steps = 6 }
train = { epochs = 2, batch_size = 50, lr = 0.05, max_steps = 6 }

[evaluate]
sweep = 5
"""


class Heard(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def write_study(folder: Path) -> Path:
    """Writes the study and its search space as people have them; returns the study's file."""
    (folder / "studies").mkdir(parents=True)
    (folder / "search_spaces").mkdir()
    (folder / "search_spaces/tiny_space.toml").write_text(SPACE)
    study = folder / "studies/tiny.toml"
    study.write_text(STUDY.replace('"tiny_space"', '"../search_spaces/tiny_space.toml"'))
    return study


def context(study: Path, *overrides: str, out: Path | None = None) -> Context:
    return open_run(study, overrides, out)


def run(study: Path, *overrides: str, until: str = "report", repick: bool = True) -> list[str]:
    """Runs a study or a run folder again; returns the keys of the stages that ran."""
    with recorded() as ran:
        anything = Pipeline(context(study, *overrides)).run(until, repick=repick)
    assert anything == bool(ran)
    return ran


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The keys of the stages that run meanwhile; those that trained an architecture without its digest."""
    ran: list[str] = []
    ensure = Ledger.ensure

    def recording(self: Ledger, stage: Stage) -> bool:
        did = ensure(self, stage)
        if did:
            ran.append(short(stage.key))
        return did

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "ensure", recording)
        yield ran


def short(key: str) -> str:
    parts = key.split("/")
    return "/".join([parts[0], *parts[2:]])


def no_figures(patch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all other stages together, and has tests of its own."""

    def write(context: Context) -> None:
        (context.folder / "report.html").write_text("<p>drawn</p>")

    patch.setattr(stages, "write_all_figures", write)


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file with its digest and when it was written. The lock holds nothing."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(p.relative_to(folder)): (file_digest(p), p.stat().st_mtime_ns) for p in files}


def contents(folder: Path) -> dict[str, Any]:
    """What a run found, without what differs from run to run: times, provenance, what it was resumed from."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[name] = file_digest(path)
        elif path.suffix == ".csv":
            with path.open() as file:
                rows = list(csv.DictReader(file))
            found[name] = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
        elif path.suffix == ".json" and path.name not in ("stages.json", "study.json"):
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "provenance"}
    return found
