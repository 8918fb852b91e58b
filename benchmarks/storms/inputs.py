"""Inputs made by hand to hurt: bombs, loops, sizes beyond all reason."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storms.datasets import IDX_NAMES, idx_bytes
from storms.study import RUN

__all__ = ["CRAFTED", "Crafted"]

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Crafted:
    """An input made by hand.

    Attributes:
        room: Of `storms.rooms.prepare_rooms`.
        change: Puts the input there.
        arguments: The command that reads it; None: the library reads the data set.
        refused: It must be refused; else it may also be read, with the usual result.
    """

    name: str
    room: str
    change: Change
    arguments: tuple[str, ...] | None = None
    refused: bool = True


def _nothing(room: Path) -> None:
    """Leaves everything as it is: the input is on the command line."""


def _replace(name: str, content: bytes) -> Change:
    return lambda room: (room / name).write_bytes(content)


def _edit(name: str, before: str, after: str) -> Change:
    def change(room: Path) -> None:
        text = (room / name).read_text()
        if before not in text:
            raise ValueError(f"{name} has no {before!r}")
        (room / name).write_text(text.replace(before, after))

    return change


def _header(dimensions: int, *sizes: int) -> bytes:
    return bytes([0, 0, 8, dimensions]) + struct.pack(f">{len(sizes)}I", *sizes)


def _laughs() -> bytes:
    """A list of ten lists of ten lists ... which is small in a pickle, and 10^12 texts when it is spelled out."""
    value: Any = [b"ha"] * 10
    for _ in range(11):
        value = [value] * 10
    return pickle.dumps({b"label_names": value}, protocol=2)


def _fifo(room: Path) -> None:
    os.mkfifo(room / "data/train/class0/fifo.png")


def _link(name: str, target: str) -> Change:
    return lambda room: (room / name).symlink_to(target)


def _huge_picture(room: Path) -> None:
    from PIL import Image

    Image.new("1", (14_000, 14_000)).save(room / "data/train/class0/huge.png")


def _one_each(room: Path) -> None:
    """One image a class in the search split's place: batch statistics and strata of a single image."""
    _edit("studies/tiny.toml", "search = 50", "search = 1")(room)
    for place in (room / "data/train").iterdir():
        for path in sorted(place.iterdir())[1:]:
            path.unlink()


_FOLDER = "data/train/class0"
_STUDY, _SPACE = "studies/tiny.toml", "search_spaces/tiny_space.toml"
_RUN = ("run", _STUDY, "--quiet")


def _set(*settings: str) -> tuple[str, ...]:
    return (*_RUN, *(part for setting in settings for part in ("--set", setting)))


CRAFTED = (
    *(
        Crafted(f"--set {one[:60]}", "new", _nothing, _set(one))
        for one in (
            "threads=100000",
            "supernet.qat.lr=1e308",
            "supernet.pretrain.lr=1e308",
            "retrain.train.lr=1e308",
            "search.memory_gb=1e-300",
            "search.thresholds=1000000000",
            "seed=" + "9" * 5000,
            "search.tr=nan",
            "search.tr=1e400",
            "evaluate.sweep=1000000000",
            "evaluate.bins=1000000000",
            "evaluate.fits=1000000000",
            "data.search=1",
            "seed=" + "[" * 2000 + "]" * 2000,
            "export.budget=1e-300",
            "device=\x1b[31mred",
            "supernet.random_paths=1000000000",
            "retrain.temperature=1e300",
            "search.storage=postgresql://u:p:w@127.0.0.1:1/x",
        )
    ),
    *(
        Crafted(f"--set {one}", "new", _nothing, _set(one), refused=False)
        for one in (
            "search.memory_gb=1e300",
            "supernet.pretrain.batch_size=1000000000000",
            "data.train_limit=1",
            "search.batch=1000000000000",
            "batch_size=1" + "0" * 30,
            "retrain.temperature=1e-300",
            "retrain.temperature=1e9",
            "search.study_name=\x00",
            "retrain.alpha=1",
        )
    ),
    *(
        Crafted(f"--out {name[:30]!r}", "new", _nothing, (*_RUN, "--out", name))
        for name in (
            "",
            "x" * 300,
            "studies/tiny.toml",
            "/proc/nowhere",
            "a/" * 3000,
        )
    ),
    Crafted("TOML nested 2,000 deep", "new", _edit(_STUDY, "seed = 3", "seed = " + "[" * 2000 + "]" * 2000), _RUN),
    Crafted(
        "a TOML table 2,000 deep", "new", _edit(_STUDY, "seed = 3", "seed = " + "{a=" * 2000 + "1" + "}" * 2000), _RUN
    ),
    Crafted("a dotted key 5,000 deep", "new", _edit(_STUDY, "seed = 3", ".".join(["a"] * 5000) + " = 1"), _RUN),
    Crafted("an integer of 5,000 digits", "new", _edit(_STUDY, "seed = 3", "seed = " + "9" * 5000), _RUN),
    Crafted(
        "input_shape of 1e9", "new", _edit(_SPACE, "[1, 8, 8]", "[1, 1000000000, 1000000000]"), ("inspect", _SPACE)
    ),
    Crafted("input_shape of 1e9, run", "new", _edit(_SPACE, "[1, 8, 8]", "[1, 1000000000, 8]"), _RUN),
    Crafted("width of 1e9", "new", _edit(_SPACE, "width = 4", "width = 1000000000"), ("inspect", _SPACE)),
    Crafted("depth of 1e9", "new", _edit(_SPACE, "depth = 8", "depth = 1000000002"), ("inspect", _SPACE)),
    Crafted("1e9 classes", "new", _edit(_SPACE, "num_classes = 10", "num_classes = 1000000000"), ("inspect", _SPACE)),
    Crafted("choices of 1e9 bits", "new", _edit(_SPACE, "[2, 2]", "[1000000000, 2]"), ("inspect", _SPACE)),
    Crafted(
        "stages.json without stages",
        "whole",
        _replace(f"{RUN}/stages.json", b'{"schema": "usdn-nas/stages/1"}'),
        ("run", RUN, "--quiet"),
    ),
    Crafted(
        "a stage without outputs",
        "whole",
        _edit(f"{RUN}/stages.json", '"outputs"', '"putouts"'),
        ("run", RUN, "--quiet"),
    ),
    Crafted(
        "chain.json without a chain",
        "whole",
        _replace(f"{RUN}/chain.json", b'{"schema": "usdn-nas/chain/1"}'),
        ("compare", RUN),
    ),
    Crafted(
        "trials.csv truncated",
        "whole",
        lambda room: os.truncate(room / RUN / "search/trials.csv", 100),
        ("plot", "history", RUN),
    ),
    Crafted("trials.csv empty", "whole", _replace(f"{RUN}/search/trials.csv", b""), ("plot", "front", RUN)),
    Crafted(
        "an unknown group",
        "network",
        _edit("architecture.json", '"layer1.0": [', '"layer9.9": ['),
        ("plot", "bits", "architecture.json"),
    ),
    Crafted(
        "std = 0",
        "network",
        _edit("architecture.json", '"std": [', '"std": [0.0, '),
        ("plot", "bits", "architecture.json"),
        refused=False,
    ),
    Crafted("IDX of 65 dimensions", "idx", _replace(f"data/{IDX_NAMES[0]}", _header(65, *[1] * 65) + b"x")),
    Crafted(
        "IDX of huge dimensions", "idx", _replace(f"data/{IDX_NAMES[0]}", _header(3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    ),
    Crafted("IDX of 0 x huge", "idx", _replace(f"data/{IDX_NAMES[0]}", _header(3, 0, 2**32 - 1, 2**32 - 1))),
    Crafted(
        "an IDX bomb",
        "idx-gz",
        lambda room: (room / f"data/{IDX_NAMES[0]}.gz").write_bytes(gzip.compress(bytes(1 << 30), 9) * 8),
    ),
    Crafted(
        "an IDX label of 2^31 - 1",
        "idx",
        _replace(f"data/{IDX_NAMES[1]}", idx_bytes(np.array([2**31 - 1] + [0] * 199, np.int32))),
    ),
    Crafted(
        "an IDX label of -1", "idx", _replace(f"data/{IDX_NAMES[1]}", idx_bytes(np.array([-1] + [0] * 199, np.int32)))
    ),
    Crafted("a billion laughs", "cifar", _replace("data/batches.meta", _laughs())),
    Crafted(
        "ragged CIFAR labels",
        "cifar",
        _replace(
            "data/data_batch_1",
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [[1], [1, 2]]}, protocol=2),
        ),
    ),
    Crafted(
        "a pickle that asks for os.system", "cifar", _replace("data/batches.meta", b"cos\nsystem\n(S'touch harm'\ntR.")
    ),
    Crafted("a FIFO named .png", "images", _fifo),
    Crafted("a dangling link", "images", _link(f"{_FOLDER}/gone.png", "nowhere.png")),
    Crafted("a link to itself", "images", _link(f"{_FOLDER}/self.png", "self.png")),
    Crafted("a link to its parent", "images", _link(f"{_FOLDER}/up", "..")),
    Crafted("a class that is a link to itself", "images", _link("data/train/class10", "class10")),
    Crafted(
        "a name that is not UTF-8",
        "images",
        lambda room: shutil.copy(room / _FOLDER / "0.png", os.fsencode(room / _FOLDER) + b"/\xff\xfe.png"),
        refused=False,
    ),
    Crafted("a picture of 14,000 x 14,000", "images", _huge_picture),
    Crafted("a picture of no bytes", "images", _replace(f"{_FOLDER}/0.png", b"")),
    Crafted("one image a class", "images", _one_each, _RUN),
    Crafted("a folder as study.toml", "new", lambda room: (room / "studies/x.toml").mkdir(), ("run", "studies/x.toml")),
    Crafted(
        "/dev/zero as a study",
        "new",
        lambda room: (room / "studies/x.toml").symlink_to("/dev/zero"),
        ("run", "studies/x.toml"),
    ),
    Crafted("a FIFO as a study", "new", lambda room: os.mkfifo(room / "studies/x.toml"), ("run", "studies/x.toml")),
    Crafted(
        "a FIFO as study.json",
        "whole",
        lambda room: ((room / RUN / "study.json").unlink(), os.mkfifo(room / RUN / "study.json")),
        ("front", RUN),
    ),
)
"""All of them."""
