"""Folders of image files, ``<split>/<class>/<image>``: ImageNet and one's own; decoded as they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
from torchvision.transforms import v2

from usdn_nas.config import DataConfig
from usdn_nas.data.places import find_files
from usdn_nas.data.splits import Batches, DataSplits, Split, generator_for
from usdn_nas.data.stratify import partition
from usdn_nas.errors import UserError
from usdn_nas.files import digest

__all__ = ["FolderSplit", "load_folders"]

IMAGENET_SHAPE = (3, 224, 224)
IMAGENET_SEARCH = 50_000
# ImageNet's statistics, and their means for grey images; pixels from 0 to 255.
_MEANS = {3: (0.485 * 255, 0.456 * 255, 0.406 * 255), 1: (0.449 * 255,)}
_STDS = {3: (0.229 * 255, 0.224 * 255, 0.225 * 255), 1: (0.226 * 255,)}
_MODES = {3: "RGB", 1: "L"}
_AUGMENTATION = 1


def _transform(shape: tuple[int, int, int], augment: bool) -> v2.Compose:
    """Training: a random resized crop and flip. Else: 256/224 of the longer side, then the center."""
    channels, *size = shape
    crop = (
        [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
        if augment
        else [v2.Resize(round(max(size) * 256 / 224)), v2.CenterCrop(size)]
    )
    normalize = v2.Normalize(mean=_MEANS[channels], std=_STDS[channels])
    return v2.Compose([*crop, v2.PILToTensor(), v2.ToDtype(torch.float32), normalize])


class _Decoded(Dataset[tuple[Any, int]]):
    """Images of a split by index, transformed. With a seed, an image's augmentation depends on (seed, index) alone."""

    def __init__(self, split: FolderSplit, seed: tuple[int, ...] | None) -> None:
        self.paths, self.labels, self.mode = split.paths, split.labels, _MODES[split.shape[0]]
        self.transform = _transform(split.shape, augment=seed is not None)
        self.seed = seed

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path = self.paths[index].decode()
        try:
            with Image.open(path) as file:
                image = file.convert(self.mode)
        except (OSError, ValueError, SyntaxError) as error:
            # Returned: raised in a worker it would come with that worker's traceback in its text.
            return UserError(f"no image can be read from it: {error}", where=path), -1
        if self.seed is None:
            return self.transform(image), int(self.labels[index])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator_for(self.seed, _AUGMENTATION, int(index)).integers(2**63)))
            return self.transform(image), int(self.labels[index])


def _collate(items: list[tuple[Any, int]]) -> tuple[Tensor, Tensor] | UserError:
    for image, _ in items:
        if isinstance(image, UserError):
            return image
    return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])


class FolderSplit(Split):
    """Image files.

    Args:
        paths: (N,) absolute paths as bytes: an array, since worker processes would copy a list piece by piece.
        labels: (N,) int64.
        shape: (C, H, W) of the images that `batches` yields; C is 3 or 1.
        workers: Processes that decode; 0: this one.
    """

    def __init__(
        self, paths: NDArray[np.bytes_], labels: NDArray[np.int64], shape: tuple[int, int, int], workers: int
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.shape = shape
        self._workers = workers

    def take(self, indices: NDArray[np.int64]) -> FolderSplit:
        """A split of those images alone."""
        return FolderSplit(self.paths[indices], self.labels[indices], self.shape, self._workers)

    def _load(
        self, chunks: Sequence[NDArray[np.int64]], numbers: Sequence[int], seed: tuple[int, ...] | None
    ) -> Batches:
        loader = DataLoader(
            _Decoded(self, seed),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=self._workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # else a pass would advance torch's global generator
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def load_folders(config: DataConfig, seed: int, input_shape: tuple[int, int, int] | None) -> DataSplits:
    """Splits a data set of image files.

    ``train/`` must be there. Test split: ``test/``, else ``val/``, else a part of ``train/``. Search split: ``val/``
    where both are there, else a part of ``train/``. ImageNet's test split is its ``val/``.

    Raises:
        UserError: Files are missing, a folder's classes are not those of ``train/``, or a split cannot be made.
    """
    shape = input_shape or IMAGENET_SHAPE
    if shape[0] not in _MODES:
        raise UserError(f"image files have 1 or 3 channels, the network takes {shape[0]}", where=config.name)
    folder = find_files(config)[0].parent
    classes = _classes(folder / "train")
    kinds = {name: _read(folder / name, classes, shape, config.workers) for name in _kinds(folder, config.name)}
    train = kinds["train"]
    test = kinds.get("test", kinds.get("val"))
    search = kinds.get("val") if "test" in kinds else None
    parts = partition(
        train.labels,
        config,
        seed,
        own_test=test is not None,
        own_search=search is not None,
        search=IMAGENET_SEARCH if config.name == "imagenet" else None,
    )
    return DataSplits(
        train=train.take(parts.train),
        search=train.take(parts.search) if parts.search is not None else _given(search),
        test=train.take(parts.test) if parts.test is not None else _given(test),
        num_classes=len(classes),
        input_shape=shape,
        class_names=classes,
        mean=_MEANS[shape[0]],
        std=_STDS[shape[0]],
        digest=digest([config.name, {kind: _content(files, folder) for kind, files in kinds.items()}, parts.digest]),
    )


def _kinds(folder: Path, name: str) -> list[str]:
    kinds = ("train", "val") if name == "imagenet" else ("train", "val", "test")
    return [kind for kind in kinds if (folder / kind).is_dir()]


def _given(split: FolderSplit | None) -> FolderSplit:
    assert split is not None, "partition takes a split only where there is none"
    return split


def _classes(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(find_classes(folder)[0])
    except FileNotFoundError:
        raise UserError("expected one folder for each class", where=folder) from None


def _read(folder: Path, classes: tuple[str, ...], shape: tuple[int, int, int], workers: int) -> FolderSplit:
    """All images below ``folder``, labelled by the position of their folder's name in ``classes``."""
    if unknown := set(_classes(folder)) - set(classes):
        raise UserError(f"class '{min(unknown)}' is not among those of train", where=folder)
    try:
        samples = make_dataset(
            folder, {name: label for label, name in enumerate(classes)}, IMG_EXTENSIONS, allow_empty=True
        )
    except OSError as error:
        raise UserError(f"cannot be read: {error}", where=folder) from None
    labels = np.array([label for _, label in samples], dtype=np.int64)
    empty = np.setdiff1d(np.arange(len(classes)), labels)
    if (empty.size and folder.name == "train") or not samples:
        raise UserError(f"class '{classes[empty[0]]}' has no images ({', '.join(IMG_EXTENSIONS)})", where=folder)
    paths = np.array([str(Path(path).absolute()).encode() for path, _ in samples])
    return FolderSplit(paths, labels, shape, workers)


def _content(split: FolderSplit, folder: Path) -> str:
    """SHA-256 over relative paths and sizes of the files; a path tells the label."""
    state = hashlib.sha256()
    for encoded in split.paths:
        path = Path(encoded.decode())
        state.update(f"{path.relative_to(folder.absolute()).as_posix()} {path.stat().st_size}\n".encode())
    return state.hexdigest()
