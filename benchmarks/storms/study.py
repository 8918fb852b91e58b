"""The tiny study that the storms run, the ways to look at what it leaves, and the hooks in its processes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from usdn_nas._util.files import file_digest

__all__ = ["RUN", "SPACE", "STUDY", "contents", "differences", "hooks", "write_study"]

RUN = "runs/tiny"
"""The study's run folder."""

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
space = "../search_spaces/tiny_space.toml"
seed = 3
threads = 1
batch_size = 100

[data]
name = "digits"
train_limit = 200
search = 100
test = 150

[supernet]
random_paths = 2
calibration_images = 50
pretrain = { epochs = 2, batch_size = 50, max_steps = 6 }
qat = { epochs = 2, batch_size = 50, lr = 0.05, max_steps = 4 }

[search]
configurations = 6
batch = 3
thresholds = 16
tr = 0.3
backend = "float"

[retrain]
teacher = { epochs = 2, batch_size = 50, lr = 0.05, max_steps = 4 }
train = { epochs = 2, batch_size = 50, lr = 0.05, max_steps = 4 }

[evaluate]
sweep = 5
"""

_TIMES = ("seconds", "images_per_second")


def write_study(folder: Path, study: str = STUDY, space: str = SPACE) -> Path:
    """Writes the study and its search space as people have them; returns the study's file."""
    (folder / "studies").mkdir(parents=True, exist_ok=True)
    (folder / "search_spaces").mkdir(exist_ok=True)
    (folder / "search_spaces/tiny_space.toml").write_text(space)
    path = folder / "studies/tiny.toml"
    path.write_text(study)
    return path


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(one) for key, one in value.items() if key not in ("provenance", *_TIMES)}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, Any]:
    """Every result in a run folder, without what differs from run to run: times and provenance."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.endswith(".old") or part.startswith((".", "my ")) for part in path.relative_to(folder).parts):
            continue  # what was set aside, and files of a user
        if path.suffix == ".safetensors":
            found[name] = file_digest(path)
        elif path.suffix == ".csv":
            with path.open() as file:
                rows = list(csv.DictReader(file))
            found[name] = [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]
        elif path.suffix == ".json" and path.name not in ("stages.json", "study.json"):
            found[name] = _without_times(json.loads(path.read_text()))
            if name.startswith("retrain/"):
                found[name].pop("source", None)  # the first trial that led there, even if settings came between
    return found


def differences(folder: Path, expected: dict[str, Any]) -> list[str]:
    """Names of the expected results that a run folder lacks, or has otherwise."""
    found = contents(folder)
    return [name for name in expected if found.get(name) != expected[name]]


def hooks(*, pages: bool = False) -> None:
    """For a child: a checkpoint after every step, and a page of one line in place of the figures, unless ``pages``."""
    from usdn_nas.pipeline import stages
    from usdn_nas.training import loop

    loop.SECONDS_BETWEEN_CHECKPOINTS = -1

    def write(context: Any) -> None:
        (context.folder / "report.html").write_text("<p>drawn</p>")

    if not pages:
        stages.write_all_figures = write


Prepare = Callable[[], None]
