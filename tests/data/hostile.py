"""Mutations of small valid data sets, and what must hold of everything that is read. Seeded."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from usdn_nas._util.errors import UserError
from usdn_nas.config import DataConfig
from usdn_nas.data import DataSplits, load_data

Generator = np.random.Generator

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def _flip_bit(content: bytearray, generator: Generator) -> None:
    content[int(generator.integers(len(content)))] ^= 1 << int(generator.integers(8))


def _flip_many(content: bytearray, generator: Generator) -> None:
    for at in generator.integers(len(content), size=10):
        content[int(at)] = int(generator.integers(256))


def _cut(content: bytearray, generator: Generator) -> None:
    del content[int(generator.integers(len(content))) :]


def _cut_out(content: bytearray, generator: Generator) -> None:
    begin = int(generator.integers(len(content)))
    del content[begin : begin + int(generator.integers(1, 64))]


def _repeat(content: bytearray, generator: Generator) -> None:
    begin = int(generator.integers(len(content)))
    content[begin:begin] = content[begin : begin + int(generator.integers(1, 64))] * int(generator.integers(1, 9))


def _insert(content: bytearray, generator: Generator) -> None:
    begin = int(generator.integers(len(content) + 1))
    content[begin:begin] = generator.bytes(int(generator.integers(1, 32)))


def _number(content: bytearray, generator: Generator) -> None:
    """A number that overflows something, in either byte order, most often in a header."""
    end = 64 if generator.random() < 0.7 else len(content)
    begin = int(generator.integers(min(end, len(content))))
    number = NUMBERS[int(generator.integers(len(NUMBERS)))]
    content[begin : begin + 4] = struct.pack(">I" if generator.random() < 0.5 else "<I", number)


def _append(content: bytearray, generator: Generator) -> None:
    content += generator.bytes(int(generator.integers(1, 100)))


def _empty(content: bytearray, generator: Generator) -> None:
    content.clear()


def _noise(content: bytearray, generator: Generator) -> None:
    content[:] = generator.bytes(int(generator.integers(1, 200)))


BYTES: tuple[Callable[[bytearray, Generator], None], ...] = (
    *(_flip_bit, _flip_many, _cut, _cut_out, _repeat, _insert, _number, _number, _append, _empty, _noise),
)


def mutate_bytes(content: bytes, generator: Generator) -> bytes:
    """``content`` after one to three mutations."""
    changed = bytearray(content)
    for _ in range(int(generator.integers(1, 4))):
        if changed:
            BYTES[int(generator.integers(len(BYTES)))](changed, generator)
    return bytes(changed)


def mutate_file(path: Path, generator: Generator) -> None:
    """Mutates a file; a gzipped one either as it is or inside, with a checksum that is right again."""
    content = path.read_bytes()
    if path.suffix == ".gz" and generator.random() < 0.6:
        path.write_bytes(gzip.compress(mutate_bytes(gzip.decompress(content), generator)))
    else:
        path.write_bytes(mutate_bytes(content, generator))


def mutate_folder(root: Path, generator: Generator) -> None:
    """Mutates a folder of images: a file's bytes, or what lies where."""
    images = sorted(path for path in root.rglob("*") if path.suffix in (".png", ".jpg"))
    path = images[int(generator.integers(len(images)))]
    folder, split = path.parent, path.parent.parent
    change = int(generator.integers(20))
    if change < 8:
        mutate_file(path, generator)
    elif change == 8:
        path.unlink()
        path.symlink_to("nowhere")
    elif change == 9:
        path.unlink()
        path.symlink_to(path.name)
    elif change == 10:
        (folder / "up").symlink_to((folder, split, root, "..")[int(generator.integers(4))])
    elif change == 11:
        path.unlink()
        os.mkfifo(path)
    elif change == 12:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as unix:
            here = os.getcwd()
            os.chdir(folder)  # the name of a socket is at most 107 bytes long
            try:
                unix.bind(path.name)
            finally:
                os.chdir(here)
    elif change == 13:
        path.unlink()
        path.mkdir()
    elif change == 14:
        os.rename(path, os.fsencode(folder) + (b"/\xff\xfe.png", b"/a\nb\x1b[31m.png")[int(generator.integers(2))])
    elif change == 15:
        os.rename(folder, os.fsencode(split) + (b"/\xff\xfe", b"/a\nb", b"/[red]")[int(generator.integers(3))])
    elif change == 16:
        for image in folder.iterdir():
            image.unlink()
    elif change == 17:
        shutil.rmtree(folder)
        folder.write_bytes(b"a file")
    elif change == 18:
        shutil.move(path, split / path.name)
    else:
        shutil.rmtree(split)
        split.symlink_to((root, root / "train", "nowhere", split.name)[int(generator.integers(4))])


def read(config: DataConfig, shape: tuple[int, int, int]) -> DataSplits | None:
    """Reads a data set to the end. None: it was refused, in one line.

    Raises:
        AssertionError: It was accepted, but is not what `DataSplits` promises; or was refused in several lines.
    """
    try:
        splits = load_data(config, seed=0, input_shape=shape)
        for split in (splits.train, splits.search, splits.test):
            images, labels = zip(*split.batches(16), strict=True)
            stacked = torch.cat(images)
            assert stacked.shape == (len(split), *shape) and stacked.dtype == torch.float32
            assert torch.isfinite(stacked).all()
            assert torch.cat(labels).tolist() == split.labels.tolist()
            assert split.labels.min() >= 0 and split.labels.max() < splits.num_classes
    except UserError as error:
        line = str(error)
        assert line and "\n" not in line and len(line) < 3000
        return None
    assert len(splits.search) >= 2
    assert len(splits.class_names) == splits.num_classes <= len(splits.train) + len(splits.search) + len(splits.test)
    assert all(name.isprintable() for name in splits.class_names)
    assert np.isfinite([*splits.mean, *splits.std]).all() and min(splits.std) > 0
    return splits
