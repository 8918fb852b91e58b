"""Small data sets in the formats of the real ones."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: np.ndarray) -> bytes:
    codes = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    header = bytes([0, 0, codes[array.dtype.str[1:]], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def python2_pickle(data: np.ndarray, labels: list[int], key: bytes) -> bytes:
    """What Python 2's cPickle wrote (protocol 2): texts are byte strings, numpy's modules have their old names."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNN" + number(-1) * 2 + b"K\0tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    shape = b"(" + b"".join(map(number, data.shape)) + b"t"
    content = b"T" + struct.pack("<i", data.nbytes) + data.tobytes()
    array = empty + b"(K\1" + shape + dtype + b"\x89" + content + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\2}(" + text(b"data") + array + text(key) + listed + b"u."


def python2_names(names: list[str], key: bytes) -> bytes:
    listed = b"".join(b"U" + bytes([len(name)]) + name.encode() for name in names)
    return b"\x80\2}U" + bytes([len(key)]) + key + b"](" + listed + b"es."


@pytest.fixture
def to_idx() -> Callable[[np.ndarray], bytes]:
    return idx_bytes


@pytest.fixture
def to_python2_pickle() -> Callable[[np.ndarray, list[int], bytes], bytes]:
    return python2_pickle


@pytest.fixture
def idx_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes the four files of MNIST's format: 60 training and 20 test images of 6x5, 4 classes."""

    def write(folder: str = "idx", gzipped: bool = False, classes: int = 4) -> Path:
        target = tmp_path / folder
        target.mkdir(parents=True)
        generator = np.random.default_rng(0)
        for kind, count in ((0, 60), (2, 20)):
            images = generator.integers(0, 256, (count, 6, 5), dtype=np.uint8)
            labels = (np.arange(count) % classes).astype(np.uint8)
            for name, array in zip(IDX_NAMES[kind : kind + 2], (images, labels), strict=True):
                content = idx_bytes(array)
                (target / (f"{name}.gz" if gzipped else name)).write_bytes(
                    gzip.compress(content) if gzipped else content
                )
        return target

    return write


@pytest.fixture
def cifar_root(tmp_path: Path) -> Path:
    """CIFAR-10 and CIFAR-100 with 20 images a file, of 10 classes."""
    generator = np.random.default_rng(1)
    layouts = {
        "cifar-10-batches-py": ([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"], 10, b"labels"),
        "cifar-100-python": (["train", "test"], 10, b"fine_labels"),
    }
    for folder, (names, classes, key) in layouts.items():
        (tmp_path / folder).mkdir()
        for name in names:
            data = generator.integers(0, 256, (20, 3072), dtype=np.uint8)
            (tmp_path / folder / name).write_bytes(python2_pickle(data, [k % classes for k in range(20)], key))
    names = [f"class {k}" for k in range(10)]
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(python2_names(names, b"label_names"))
    (tmp_path / "cifar-100-python" / "meta").write_bytes(python2_names(names, b"fine_label_names"))
    return tmp_path


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes JPEG files: ``{"train": 6}`` puts six into each of three classes."""

    def write(counts: dict[str, int], classes: tuple[str, ...] = ("ant", "bee", "cat")) -> Path:
        root = tmp_path / "images"
        generator = np.random.default_rng(2)
        for kind, count in counts.items():
            for name in classes:
                folder = root / kind / name
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = generator.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number}.jpg")
        return root

    return write
