"""Images and labels in memory, checked once where they enter. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usdn_nas.errors import UserError

__all__ = ["ImageSet", "check_labels", "image_set"]


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W), uint8 or float32, and their labels (N,) int64."""

    images: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: NDArray[np.int64]) -> ImageSet:
        """Those images alone, in that order."""
        return ImageSet(self.images[indices], self.labels[indices])


def image_set(images: Any, labels: Any, where: object) -> ImageSet:
    """Makes an `ImageSet` of arrays, or of what numpy can turn into arrays.

    Args:
        images: (N, C, H, W) or (N, H, W), uint8 or float.
        labels: (N,) integers.
        where: Named in errors.

    Raises:
        UserError: Shapes, types or lengths are wrong, or a pixel is not finite.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or not images.size:
        raise UserError(f"expected images (N, C, H, W) or (N, H, W), got shape {images.shape}", where=where)
    if images.dtype != np.uint8:
        if images.dtype.kind != "f":
            raise UserError(f"expected uint8 or float images, got {images.dtype}", where=where)
        if not np.isfinite(images).all():
            raise UserError("expected finite pixels, got NaN or infinity", where=where)
        images = images.astype(np.float32)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(f"expected (N,) integer labels, got {labels.dtype} of shape {labels.shape}", where=where)
    if len(labels) != len(images):
        raise UserError(f"{len(images)} images need as many labels, got {len(labels)}", where=where)
    return ImageSet(np.require(images, requirements=["C", "W"]), labels.astype(np.int64))


def check_labels(labels: NDArray[np.int64], num_classes: int, where: object) -> None:
    """Raises `UserError` where a label lies outside [0, num_classes)."""
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise UserError(f"expected labels from 0 to {num_classes - 1}, got {outside[0]}", where=where)
