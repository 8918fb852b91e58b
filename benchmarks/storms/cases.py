"""What is mutated, which command reads it then, and what the command must give if it takes the file."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storms.children import Ended, command, library
from storms.mutate import Mutation, mutate_bytes, mutate_json, mutate_table, mutate_toml
from storms.study import RUN, contents

__all__ = ["CASES", "Case", "Reader", "read_data"]

Mutate = Callable[[bytes, random.Random], Mutation]
Observe = Callable[[Path, Ended], object]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def read_data() -> str:
    """Reads the data set of the study here, every image of every split."""
    import numpy as np

    from usdn_nas.pipeline.context import open_run

    data = open_run(Path("studies/tiny.toml")).data
    parts: list[Any] = []
    for split in (data.train, data.search, data.test):
        for images, labels in split.batches(64):
            parts += [images.numpy(), labels.numpy()]
    return f"{_digest(*parts)} {np.asarray(data.mean)} {np.asarray(data.std)} {data.class_names}"


def _predict() -> str:
    """Loads the retrained winner and predicts a few images."""
    import torch

    from usdn_nas.export.runtime import load_model

    network = load_model("architecture.json", "weights.safetensors")
    broken = [n for n, t in network.state_dict().items() if t.is_floating_point() and not torch.isfinite(t).all()]
    broken += [n for n, t in network.state_dict().items() if n.endswith("running_var") and (t < 0).any()]
    pixels = torch.randint(
        0, 17, (16, *network.space.spec.network.input_shape), generator=torch.Generator().manual_seed(0)
    )
    images = network.normalize(pixels)
    if not torch.isfinite(images).all():
        broken.append("normalized images")
    answer = network.predict(images)
    if not torch.isfinite(answer.logits).all():
        broken.append("logits")
    if broken:
        return f"BROKEN {broken}"
    return _digest(answer.labels.numpy(), answer.exit_index.numpy(), answer.bops.numpy(), answer.logits.numpy())


def _start() -> str:
    """Makes the network that pre-training starts from."""
    from usdn_nas.pipeline.context import open_run

    state = open_run(Path("studies/tiny.toml")).starting_network().state_dict()
    return _digest(*(tensor.numpy() for tensor in state.values()))


def _stdout(folder: Path, ended: Ended) -> object:
    return ended.stdout


def _results(folder: Path, ended: Ended) -> object:
    return contents(folder / RUN)


def _part(name: str) -> Observe:
    return lambda folder, ended: {k: v for k, v in contents(folder / RUN).items() if k.startswith(name)}


def _picture(folder: Path, ended: Ended) -> object:
    return hashlib.sha256((folder / "picture.png").read_bytes()).hexdigest()


@dataclass(frozen=True)
class Reader:
    """A command, or a call of the library, and what is looked at when it succeeds."""

    name: str
    work: Callable[[], None]
    observe: Observe = _stdout
    weight: float = 1.0


def _cli(*arguments: str, observe: Observe = _stdout, weight: float = 1.0) -> Reader:
    return Reader(f"usdn-nas {' '.join(arguments)}", command(*arguments), observe, weight)


def _plot(figure: str, weight: float = 0.4) -> Reader:
    return _cli("plot", figure, RUN, "--to", "picture.png", observe=_picture, weight=weight)


_AGAIN = _cli("run", RUN, "--quiet", observe=_results, weight=0.5)
_FRONT = _cli("front", RUN, "--format", "csv")
_COMPARE = _cli("compare", RUN, "--format", "json")
_DATA = Reader("the library reads the data set", library(read_data))
_PREDICT = Reader("load_model(...).predict(...)", library(_predict))


@dataclass(frozen=True)
class Case:
    """A kind of file.

    Attributes:
        room: Folder with everything that the commands need; see `prepare_rooms`.
        files: Pattern of the files, one of which is mutated.
        readers: One of them is run.
        theirs: The content is the user's own to choose, with nothing to check it by: another result is right if the
            file says something else. Else every result but the usual one is wrong.
        weight: How often, beside the other kinds.
    """

    kind: str
    room: str
    files: str
    mutate: Mutate
    readers: tuple[Reader, ...]
    theirs: bool = False
    weight: float = 1.0


CASES = (
    Case(
        "study",
        "new",
        "studies/tiny.toml",
        mutate_toml,
        (_cli("run", "studies/tiny.toml", "--quiet", observe=_results), _cli("run", "studies/tiny.toml", "--dry-run")),
        theirs=True,
        weight=3,
    ),
    Case(
        "search space",
        "new",
        "search_spaces/tiny_space.toml",
        mutate_toml,
        (
            _cli("inspect", "search_spaces/tiny_space.toml", "--format", "json"),
            _cli("run", "studies/tiny.toml", "--dry-run"),
            _cli("pretrain", "studies/tiny.toml", "--quiet", observe=_part("pretrain"), weight=0.5),
        ),
        theirs=True,
        weight=2,
    ),
    Case(
        "architecture",
        "network",
        "architecture.json",
        mutate_json,
        (_PREDICT, _cli("plot", "bits", "architecture.json", "--to", "picture.png", observe=_picture, weight=0.2)),
        theirs=True,
        weight=2,
    ),
    Case("network's weights", "network", "weights.safetensors", mutate_bytes, (_PREDICT,), theirs=True, weight=2),
    Case("run: study.json", "whole", f"{RUN}/study.json", mutate_json, (_FRONT, _AGAIN, _COMPARE), theirs=True),
    Case("run: stages.json", "whole", f"{RUN}/stages.json", mutate_json, (_FRONT, _AGAIN, _COMPARE), weight=2),
    Case("run: chain.json", "whole", f"{RUN}/chain.json", mutate_json, (_FRONT, _AGAIN, _COMPARE, _plot("bits"))),
    Case(
        "run: trials.csv", "whole", f"{RUN}/search/trials.csv", mutate_table, (_AGAIN, _plot("history"), _plot("front"))
    ),
    Case("run: front.csv", "whole", f"{RUN}/search/front.csv", mutate_table, (_FRONT, _FRONT, _AGAIN, _plot("front"))),
    Case(
        "run: evaluation.json",
        "whole",
        f"{RUN}/evaluation.json",
        mutate_json,
        (_COMPARE, _COMPARE, _AGAIN, _plot("exits")),
    ),
    Case("run: ladder.json", "whole", f"{RUN}/supernet/ladder.json", mutate_json, (_AGAIN, _plot("ladder"))),
    Case(
        "run: sensitivity.json", "whole", f"{RUN}/search/sensitivity.json", mutate_json, (_AGAIN, _plot("sensitivity"))
    ),
    Case(
        "run: diagnostics.json", "whole", f"{RUN}/supernet/diagnostics.json", mutate_json, (_AGAIN, _plot("quantizers"))
    ),
    Case("run: history.csv", "whole", f"{RUN}/pretrain/history.csv", mutate_table, (_AGAIN, _plot("training"))),
    Case(
        "run: architecture.json",
        "whole",
        f"{RUN}/export/architecture.json",
        mutate_json,
        (_AGAIN, _COMPARE, _cli("retrain", RUN, "--quiet", observe=_results)),
    ),
    Case("run: weights", "whole", f"{RUN}/*/weights.safetensors", mutate_bytes, (_AGAIN, _FRONT)),
    Case(
        "checkpoint",
        "interrupted",
        f"{RUN}/pretrain/checkpoint.pt",
        mutate_bytes,
        (_cli("pretrain", RUN, "--quiet", observe=_part("pretrain/weights")),),
        weight=2,
    ),
    Case(
        "pretrained weights",
        "pretrained",
        "start.pt",
        mutate_bytes,
        (Reader("the library starts from them", library(_start)),),
    ),
    Case("IDX", "idx", "data/*", mutate_bytes, (_DATA,), theirs=True, weight=2),
    Case("IDX, zipped", "idx-gz", "data/*", mutate_bytes, (_DATA,)),
    Case("CIFAR's pickles", "cifar", "data/*", mutate_bytes, (_DATA,), theirs=True, weight=2),
    Case("image files", "images", "data/*/*/*", mutate_bytes, (_DATA,), theirs=True, weight=2),
    Case(
        "journal",
        "whole",
        f"{RUN}/search/study.journal",
        mutate_bytes,
        (
            _cli("search", RUN, "--quiet", "--set", "search.configurations=8", observe=_part("search/trials")),
            _cli("export", RUN, "--trial", "0.0", "--to", "other.json", observe=lambda folder, ended: None),
        ),
        theirs=True,
        weight=2,
    ),
    Case(
        "SQLite",
        "sqlite",
        "study.db",
        mutate_bytes,
        (_cli("search", RUN, "--quiet", "--set", "search.configurations=8", observe=_part("search/trials")),),
        theirs=True,
        weight=2,
    ),
)
"""All kinds."""
