"""Images and labels in memory, which are checked once when they are made. This module does not import torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas._util.errors import UserError, shown
from usdn_nas.data.reading import check_memory

__all__ = ["ImageSet", "check_classes", "check_labels", "class_names", "image_set"]

_LARGEST_LABEL = 2**31 - 1
_LARGEST_PIXEL = 1e9
"""With pixels up to this size, squares and sums of squares are far below the largest float32."""
_LONGEST_NAME = 200


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W), uint8 or float32, and their labels (N,) int64."""

    images: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """Returns only the images at these indices, in this order."""
        return ImageSet(self.images[indices], self.labels[indices])


def image_set(images: Any, labels: Any, where: object) -> ImageSet:
    """Makes an `ImageSet` of arrays, or of values that numpy can convert to arrays.

    Args:
        images: (N, C, H, W) or (N, H, W), uint8 or float.
        labels: (N,) integers from 0.
        where: Origin of the images, for error messages.

    Raises:
        UserError: Shapes, types or lengths are wrong, a pixel is not finite or too large, or a label is negative.
    """
    images, labels = _array(images, "images", where), _array(labels, "labels", where)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or not images.size:
        raise UserError(f"expected images (N, C, H, W) or (N, H, W), got shape {images.shape}", where=where)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise UserError(f"expected uint8 or float images, got {images.dtype}", where=where)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(f"expected (N,) integer labels, got {labels.dtype} of shape {labels.shape}", where=where)
    if len(labels) != len(images):
        raise UserError(f"{len(images)} images need as many labels, got {len(labels)}", where=where)
    check_memory(images.size * (1 if images.dtype == np.uint8 else 4) + labels.size * 8, where)
    if labels.min() < 0 or labels.max() > _LARGEST_LABEL:
        outside = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(f"expected labels from 0, got {outside}", where=where)
    try:
        if images.dtype != np.uint8:
            images = _float_images(images, where)
        return ImageSet(np.require(images, requirements=["C", "W"]), labels.astype(np.int64))
    except MemoryError:
        raise UserError(f"not enough memory for images of shape {images.shape}", where=where) from None


def check_labels(labels: NDArray[np.int64], num_classes: int, where: object) -> None:
    """Raises `UserError` if a label is outside [0, num_classes)."""
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise UserError(f"expected labels from 0 to {num_classes - 1}, got {outside[0]}", where=where)


def check_classes(labels: NDArray[np.int64], num_classes: int, where: object) -> None:
    """Raises `UserError` unless each of ``num_classes`` classes has an image, given the ``labels`` of all images.

    The memory that it uses depends on the number of labels, but not on their values.
    """
    present = np.unique(labels)
    if len(present) == num_classes:
        return
    missing = next((number for number, label in enumerate(present) if number != label), len(present))
    raise UserError(f"class {missing} of {num_classes} has no images; labels count from 0 without a gap", where=where)


def class_names(names: Iterable[str], where: object) -> tuple[str, ...]:
    """Returns ``names`` if they are printable and all different.

    Raises:
        UserError: There is no name, two names are equal, or a name is empty, longer than 200 characters or not
            printable.
    """
    checked = tuple(names)
    if not checked:
        raise UserError("expected class names, got none", where=where)
    for name in checked:
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise UserError(
                f"expected a printable class name of 1 to {_LONGEST_NAME} characters, got {shown(name)}", where=where
            )
    name, times = Counter(checked).most_common(1)[0]
    if times > 1:
        raise UserError(f"the class name {shown(name)} comes {times} times", where=where)
    return checked


def _array(values: Any, noun: str, where: object) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except Exception as error:  # a foreign type may raise anything; ragged lists raise ValueError
        raise UserError(
            f"expected {noun} that make one array (all of one shape, on the CPU, without gradients), "
            f"got {type(values).__name__} from which numpy makes none ({type(error).__name__})",
            where=where,
        ) from None


def _float_images(images: NDArray[Any], where: object) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        images = images.astype(np.float32)
    low, high = float(images.min()), float(images.max())  # NaN if any pixel is NaN
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("expected finite pixels, got NaN or infinity", where=where)
    if max(-low, high) > _LARGEST_PIXEL:
        raise UserError(
            f"expected pixels from {-_LARGEST_PIXEL:g} to {_LARGEST_PIXEL:g}, got {max(-low, high):g}", where=where
        )
    return images
