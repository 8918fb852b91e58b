"""Mutated data sets are refused in one line or read as what they then are; nothing hangs or takes much memory."""

from __future__ import annotations

import gzip
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import IDX_NAMES, idx_bytes, python2_names, python2_pickle
from tests.data.hostile import mutate_file, mutate_folder, read
from usdn_nas.config import DataConfig

KINDS = ("idx", "idx gzipped", "cifar10", "cifar100", "imagefolder")
MOST_SECONDS = 20.0
MOST_MIB = 1500


def write(kind: str, root: Path) -> tuple[DataConfig, tuple[int, int, int]]:
    """Writes a small valid data set; returns its settings and the shape of its images."""
    generator = np.random.default_rng(0)
    if kind.startswith("idx"):
        for at, count in ((0, 16), (2, 6)):
            images = generator.integers(0, 256, (count, 4, 3), dtype=np.uint8)
            labels = (np.arange(count) % 2).astype(np.uint8)
            for name, array in zip(IDX_NAMES[at : at + 2], (images, labels), strict=True):
                content = idx_bytes(array)
                gzipped = "gzipped" in kind
                (root / (f"{name}.gz" if gzipped else name)).write_bytes(gzip.compress(content) if gzipped else content)
        return DataConfig(name="idx", root=str(root), search=4), (1, 4, 3)
    if kind.startswith("cifar"):
        ten = kind == "cifar10"
        names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"] if ten else ["train", "test"]
        key, of_names = (b"labels", b"label_names") if ten else (b"fine_labels", b"fine_label_names")
        for name in names:
            data = generator.integers(0, 256, (6, 3072), dtype=np.uint8)
            (root / name).write_bytes(python2_pickle(data, [0, 1, 0, 1, 0, 1], key))
        (root / ("batches.meta" if ten else "meta")).write_bytes(python2_names(["cat", "dog"], of_names))
        return DataConfig(name=kind, root=str(root), search=2), (3, 32, 32)
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = Image.fromarray(generator.integers(0, 256, (9, 8, 3), dtype=np.uint8))
                pixels.save(root / split / name / f"{number}.{('png', 'jpg')[number % 2]}")
    return DataConfig(name="imagefolder", root=str(root)), (3, 8, 8)


def storm(kind: str, folder: Path, seeds: range) -> dict[str, int]:
    """Reads one mutation for each seed; returns how many were refused and accepted."""
    counts = {"refused": 0, "accepted": 0}
    for seed in seeds:
        root = folder / "root"
        root.mkdir()
        config, shape = write(kind, root)
        generator = np.random.default_rng((KINDS.index(kind), seed))
        if kind == "imagefolder":
            mutate_folder(root, generator)
        else:
            files = sorted(root.iterdir())
            mutate_file(files[int(generator.integers(len(files)))], generator)
        begin = time.perf_counter()
        counts["refused" if read(config, shape) is None else "accepted"] += 1
        assert time.perf_counter() - begin < MOST_SECONDS, (kind, seed)
        shutil.rmtree(root)
    return counts


@pytest.fixture
def bounded_memory() -> Callable[[], None]:
    """Fails if the process needed much memory since the test began."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def check() -> None:
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MOST_MIB

    return check


@pytest.mark.parametrize("kind", KINDS)
def test_unchanged(kind: str, tmp_path: Path) -> None:
    config, shape = write(kind, tmp_path)
    assert read(config, shape) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_some_mutations(kind: str, tmp_path: Path, bounded_memory: Callable[[], None]) -> None:
    counts = storm(kind, tmp_path, range(40))
    assert counts["refused"] >= 10  # else it would not mutate
    bounded_memory()


@pytest.mark.sweep
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", [1])
def test_many_mutations(kind: str, base: int, tmp_path: Path, bounded_memory: Callable[[], None]) -> None:
    counts = storm(kind, tmp_path, range(base * 10_000, base * 10_000 + 1000))
    print(kind, base, counts)
    assert counts["refused"] >= 250
    bounded_memory()
