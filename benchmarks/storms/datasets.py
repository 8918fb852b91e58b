"""Small data sets in the formats of the real ones."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["IDX_NAMES", "idx_bytes", "write_cifar", "write_idx", "write_images"]

IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: NDArray[Any]) -> bytes:
    """An array as MNIST's format has it."""
    codes = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    header = bytes([0, 0, codes[array.dtype.str[1:]], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(folder: Path, *, zipped: bool) -> None:
    """Four files: 200 training and 50 test images of 8x8, 10 classes; the labels are of 32 bits where not zipped."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for kind, count in ((0, 200), (2, 50)):
        images = generator.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8 if zipped else np.int32)
        for name, array in zip(IDX_NAMES[kind : kind + 2], (images, labels), strict=True):
            content = idx_bytes(array)
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)


def write_cifar(folder: Path) -> None:
    """CIFAR-10 with 40 images a file, as Python 3 pickles it."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        batch = {
            b"data": generator.integers(0, 256, (40, 3072), dtype=np.uint8),
            b"labels": [k % 10 for k in range(40)],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {b"label_names": [f"class {number}".encode() for number in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))


def write_images(folder: Path) -> None:
    """PNG files and a JPEG: 24 in each of ten classes, for training, and 4 for the test."""
    from PIL import Image

    generator = np.random.default_rng(2)
    for kind, count in (("train", 24), ("test", 4)):
        for label in range(10):
            place = folder / kind / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (10, 11, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.{'jpg' if number == 3 else 'png'}")
