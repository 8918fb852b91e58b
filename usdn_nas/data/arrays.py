"""Data sets that fit in memory. Images keep their stored form; each batch is augmented and normalized on its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from usdn_nas._util.errors import UserError
from usdn_nas._util.files import digest
from usdn_nas.config import DataConfig
from usdn_nas.data.augment import CropFlip
from usdn_nas.data.images import ImageSet, check_classes, check_labels
from usdn_nas.data.splits import Batches, DataSplits, Split, generator_for
from usdn_nas.data.stratify import partition

__all__ = ["ArrayData", "ArraySplit", "split_arrays"]

_AUGMENTATION = 1
_STATISTICS_CHUNK = 10_000


@dataclass(frozen=True)
class ArrayData:
    """A data set in memory before it is split.

    Attributes:
        train: Its training images.
        test: Its own test images, or None.
        class_names: Name of each class.
        augmentation: The usual augmentation of its training images.
        search: Default size of the search split; None: a fraction of the training images.
    """

    train: ImageSet
    test: ImageSet | None
    class_names: tuple[str, ...]
    augmentation: CropFlip
    search: int | None = None


class ArraySplit(Split):
    """A split whose images are in memory.

    Args:
        data: The split's images and labels.
        augmentation: Augmentation, applied if `batches` is called with ``augment=True``.
        mean, std: (C,) each; images are normalized to (pixels - mean) / std.
    """

    def __init__(
        self, data: ImageSet, augmentation: CropFlip, mean: NDArray[np.float64], std: NDArray[np.float64]
    ) -> None:
        self.labels = data.labels
        self._images = torch.from_numpy(data.images)
        self._targets = torch.from_numpy(data.labels)
        self._augmentation = augmentation
        self._mean = torch.from_numpy(mean.astype(np.float32)).view(1, -1, 1, 1)
        self._std = torch.from_numpy(std.astype(np.float32)).view(1, -1, 1, 1)

    def _load(
        self, chunks: Sequence[NDArray[np.int64]], numbers: Sequence[int], seed: tuple[int, ...] | None
    ) -> Batches:
        for number, chunk in zip(numbers, chunks, strict=True):
            index = torch.from_numpy(chunk)
            images = self._images[index]
            if seed is not None:
                images = self._augmentation(images, generator_for(seed, _AUGMENTATION, number))
            yield images.to(torch.float32).sub_(self._mean).div_(self._std), self._targets[index]


def split_arrays(
    data: ArrayData, config: DataConfig, seed: int, input_shape: tuple[int, int, int] | None
) -> DataSplits:
    """Checks ``data`` and splits it. Images are normalized by mean and standard deviation of the training images.

    Raises:
        UserError: A shape differs from ``input_shape``, a label is out of range, or a split cannot be made.
    """
    _check(data, config.name, input_shape)
    parts = partition(data.train.labels, config, seed, own_test=data.test is not None, search=data.search)
    mean, std = _statistics(data.train.take(parts.train).images)

    def split(images: ImageSet) -> ArraySplit:
        return ArraySplit(images, data.augmentation, mean, std)

    chosen = [indices for indices in (parts.train, parts.search, parts.test) if indices is not None]
    train, search, *held_out = (split(data.train.take(indices)) for indices in chosen)
    return DataSplits(
        train=train,
        search=search,
        test=held_out[0] if data.test is None else split(data.test),
        num_classes=len(data.class_names),
        input_shape=data.train.shape,
        class_names=data.class_names,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        digest=digest([config.name, _content(data.train), _content(data.test), parts.digest]),
    )


def _check(data: ArrayData, name: str, input_shape: tuple[int, int, int] | None) -> None:
    expected = tuple(input_shape or data.train.shape)
    for kind, images in (("training", data.train), ("test", data.test)):
        if images is None:
            continue
        check_labels(images.labels, len(data.class_names), f"{name}: {kind} images")
        if images.shape != expected:
            raise UserError(
                f"expected images of shape {expected}, got {images.shape}",
                where=f"{name}: {kind} images",
                remedy="network.input_shape in the search space must be the images' shape; they are not resized",
            )
    check_classes(data.train.labels, len(data.class_names), f"{name}: training images")


def _statistics(images: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns mean and standard deviation (C,) of the pixels. The deviation of a constant channel is set to 1.

    Because of rounding errors, the computed deviation of a constant channel is not 0, but it is far below the mean.
    """
    sums = squares = np.zeros(images.shape[1])
    for begin in range(0, len(images), _STATISTICS_CHUNK):
        chunk = images[begin : begin + _STATISTICS_CHUNK].astype(np.float64)
        sums = sums + chunk.sum((0, 2, 3))
        squares = squares + np.square(chunk).sum((0, 2, 3))
    count = images.size / images.shape[1]
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    constant = std <= np.maximum(1e-7 * np.abs(mean), np.finfo(np.float32).tiny)
    return mean, np.where(constant, 1.0, std)


def _content(images: ImageSet | None) -> list[str] | None:
    if images is None:
        return None
    pixels, labels = (hashlib.sha256(array.data).hexdigest() for array in (images.images, images.labels))
    return [str(images.images.shape), str(images.images.dtype), pixels, labels]
