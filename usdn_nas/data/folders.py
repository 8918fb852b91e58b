"""Data sets of image files, ``<split>/<class>/<image>``: ImageNet or the user's own. Images are decoded on use."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from usdn_nas._util.errors import UserError
from usdn_nas._util.files import digest
from usdn_nas.config import DataConfig
from usdn_nas.data.decode import check_header, decode
from usdn_nas.data.places import find_files
from usdn_nas.data.reading import path_status
from usdn_nas.data.scan import EXTENSIONS, find_classes, find_images
from usdn_nas.data.splits import LEAST_SEARCH, Batches, DataSplits, Split, generator_for
from usdn_nas.data.stratify import partition

__all__ = ["FolderSplit", "load_folders"]

IMAGENET_SHAPE = (3, 224, 224)
IMAGENET_SEARCH = 50_000
# ImageNet's statistics for pixels from 0 to 255. Those for grey images are the means over the colours.
_MEANS = {3: (0.485 * 255, 0.456 * 255, 0.406 * 255), 1: (0.449 * 255,)}
_STDS = {3: (0.229 * 255, 0.224 * 255, 0.225 * 255), 1: (0.226 * 255,)}
_MODES = {3: "RGB", 1: "L"}
_MOST_HEADERS = 20_000
"""The headers of a split with at most this many files are checked at the start, which takes 2 seconds."""
_MOST_DECODED = 50_000_000
"""The images of a split with at most this many pixels are decoded at the start, which takes about a second."""
MOST_WORKERS = 256
_AUGMENTATION = 1


def _smaller_side(shape: tuple[int, int, int]) -> int:
    """Returns the length to which the smaller side of an image is resized before its center is cropped."""
    return round(max(shape[1:]) * 256 / 224)


def _transform(shape: tuple[int, int, int], augment: bool) -> v2.Compose:
    """Returns the transform of images: with ``augment``, a random resized crop and flip, otherwise a center crop.

    Before the center is cropped, the smaller side of the image is resized to 256/224 of the longer side of ``shape``.
    """
    channels, *size = shape
    crop = (
        [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
        if augment
        else [v2.Resize(_smaller_side(shape)), v2.CenterCrop(size)]
    )
    normalize = v2.Normalize(mean=_MEANS[channels], std=_STDS[channels])
    return v2.Compose([*crop, v2.PILToTensor(), v2.ToDtype(torch.float32), normalize])


class _Decoded(Dataset[tuple[Any, int]]):
    """The transformed images of a split by index. With a seed, (seed, index) determine the augmentation of an image."""

    def __init__(self, split: FolderSplit, seed: tuple[int, ...] | None) -> None:
        self.paths, self.labels, self.mode = split.paths, split.labels, _MODES[split.shape[0]]
        self.transform = _transform(split.shape, augment=seed is not None)
        self.smaller_side = _smaller_side(split.shape)
        self.seed = seed

    def __getitem__(self, index: int) -> tuple[Any, int]:
        try:
            image = decode(os.fsdecode(self.paths[index]), self.mode, self.smaller_side)
        except UserError as error:
            return error, -1  # An error raised in a worker would carry the worker's traceback in its text.
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
    """A split of image files.

    Args:
        paths: (N,) absolute paths as bytes, in an array, because worker processes would copy a list item by item.
        labels: (N,) int64.
        shape: (C, H, W) of the images that `batches` yields; C is 3 or 1.
        workers: Number of processes that decode images; 0: this process decodes them.
    """

    def __init__(
        self, paths: NDArray[np.bytes_], labels: NDArray[np.int64], shape: tuple[int, int, int], workers: int
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.shape = shape
        self._workers = workers

    def take(self, indices: NDArray[np.int64]) -> FolderSplit:
        """Returns a split with only the images at these indices."""
        return FolderSplit(self.paths[indices], self.labels[indices], self.shape, self._workers)

    def _load(
        self, chunks: Sequence[NDArray[np.int64]], numbers: Sequence[int], seed: tuple[int, ...] | None
    ) -> Batches:
        loader = DataLoader(
            _Decoded(self, seed),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=self._workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # so that a pass does not advance torch's global generator
        )
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def load_folders(config: DataConfig, seed: int, input_shape: tuple[int, int, int] | None) -> DataSplits:
    """Splits a data set of image files.

    ``train/`` is required. The test split is ``test/`` if it exists, otherwise ``val/``, otherwise a part of
    ``train/``. The search split is ``val/`` if ``test/`` exists too, otherwise a part of ``train/``. The test split of
    ImageNet is its ``val/``.

    Raises:
        UserError: Files are missing or are not images, a folder has a class that ``train/`` does not have, or a split
            cannot be made.
    """
    shape = input_shape or IMAGENET_SHAPE
    if shape[0] not in _MODES:
        raise UserError(f"image files have 1 or 3 channels, the network takes {shape[0]}", where=config.name)
    if config.workers > MOST_WORKERS:
        raise UserError(f"expected at most {MOST_WORKERS} processes, got {config.workers}", where="data.workers")
    folder = find_files(config)[0].parent
    kinds = _kinds(folder, config.name)
    _check_separate([folder / kind for kind in kinds])
    classes = find_classes(folder / "train")
    files = {kind: find_images(folder / kind, classes, folder) for kind in kinds}
    if (empty := np.setdiff1d(np.arange(len(classes)), files["train"].labels)).size:
        extensions = ", ".join(EXTENSIONS)
        raise UserError(f"class '{classes[empty[0]]}' has no images ({extensions})", where=folder / "train")
    splits = {kind: FolderSplit(found.paths, found.labels, shape, config.workers) for kind, found in files.items()}
    train = splits["train"]
    test = splits.get("test", splits.get("val"))
    search = splits.get("val") if "test" in splits else None
    if search is not None and len(search) < LEAST_SEARCH:
        raise UserError(
            f"expected at least {LEAST_SEARCH} images for the search, got {len(search)}", where=folder / "val"
        )
    parts = partition(
        train.labels,
        config,
        seed,
        own_test=test is not None,
        own_search=search is not None,
        search=IMAGENET_SEARCH if config.name == "imagenet" else None,
    )
    for split in splits.values():
        _check_images(split)
    return DataSplits(
        train=train.take(parts.train),
        search=train.take(parts.search) if parts.search is not None else _given(search),
        test=train.take(parts.test) if parts.test is not None else _given(test),
        num_classes=len(classes),
        input_shape=shape,
        class_names=classes,
        mean=_MEANS[shape[0]],
        std=_STDS[shape[0]],
        digest=digest([config.name, {kind: found.digest for kind, found in files.items()}, parts.digest]),
    )


def _kinds(folder: Path, name: str) -> list[str]:
    """Returns the names of the splits that the folder has."""
    kinds = ("train", "val") if name == "imagenet" else ("train", "val", "test")
    there = [kind for kind in kinds if os.path.lexists(folder / kind)]
    for kind in there:
        status = path_status(folder / kind)
        if status is None or not stat.S_ISDIR(status.st_mode):
            raise UserError("expected a folder, or a link to one, got something else", where=folder / kind)
    return there


def _check_separate(folders: Sequence[Path]) -> None:
    """Refuses splits that share images because a link makes two folders the same or puts one inside the other.

    Otherwise the network could be trained on test images.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, real in zip(folders, resolved, strict=True):
        for other in resolved:
            if real in other.parents or (real == other and resolved.count(real) > 1):
                raise UserError(f"this folder and another split's are one, or in one another ({other})", where=folder)


def _given(split: FolderSplit | None) -> FolderSplit:
    assert split is not None, "partition takes a split only where there is none"
    return split


def _check_images(split: FolderSplit) -> None:
    """Finds unusable images before anything is trained.

    Headers are read unless there are very many files, and images are decoded if they have few pixels in all, so that
    the check takes seconds. Damaged images in larger data sets are found when they are decoded.
    """
    if len(split) > _MOST_HEADERS:
        return
    side = _smaller_side(split.shape)
    paths = [os.fsdecode(path) for path in split.paths]
    if sum(check_header(path, side) for path in paths) <= _MOST_DECODED:
        for path in paths:
            decode(path, _MODES[split.shape[0]], side)
