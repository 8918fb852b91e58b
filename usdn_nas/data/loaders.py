"""Turns the user's own loader into a split, which can be read many times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from usdn_nas._util.errors import UserError
from usdn_nas.data.splits import Batches, Split

__all__ = ["Loader", "TensorSplit", "as_split", "loader_batches"]

Loader = Iterable[tuple[Tensor, Tensor]]
"""Yields batches of images (B, C, H, W), in floating point and normalized for the model, and integer labels (B,).

It is iterated again for every pass. So it can be a `torch.utils.data.DataLoader` or a list of batches, but not a
generator.
"""


class TensorSplit(Split):
    """A split whose normalized images and labels are in memory.

    Args:
        images: (N, C, H, W) float32, normalized.
        labels: (N,) int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.labels = labels.numpy()
        self._images, self._targets = images, labels

    def _load(
        self, chunks: Sequence[NDArray[np.int64]], numbers: Sequence[int], seed: tuple[int, ...] | None
    ) -> Batches:
        for chunk in chunks:
            index = torch.from_numpy(chunk)
            yield self._images[index], self._targets[index]


def as_split(images_and_labels: Loader | Split) -> Split:
    """Reads a loader once and keeps its images, so that every configuration is evaluated on the same images.

    Args:
        images_and_labels: A loader as described at `Loader`, or a split, which is returned unchanged.

    Raises:
        UserError: The loader is empty, or does not yield batches of images with the same shape.
    """
    if isinstance(images_and_labels, Split):
        return images_and_labels
    images, labels = [], []
    for batch_images, batch_labels in loader_batches(images_and_labels):
        images.append(batch_images.detach().to("cpu", torch.float32))
        labels.append(batch_labels.detach().to("cpu", torch.int64))
        if images[-1].shape[1:] != images[0].shape[1:]:
            shapes = [tuple(batch.shape[1:]) for batch in (images[0], images[-1])]
            raise UserError(
                f"expected images of one shape, got {shapes[0]} and {shapes[1]}", where=f"batch {len(images)}"
            )
    if not images:
        raise UserError("expected batches of images and labels, got a loader that yields none", remedy=_ONCE)
    found = torch.cat(images)
    if not found.isfinite().all():
        raise UserError("expected finite pixels, got NaN or infinity", where="the loader's images")
    return TensorSplit(found, torch.cat(labels))


_ONCE = "pass a DataLoader or a list of batches: a generator yields its batches only once"


def loader_batches(loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the batches of one pass, after checking each of them.

    Raises:
        UserError: The loader yields something other than a batch of images and labels.
    """
    for number, batch in enumerate(loader, 1):
        yield _checked(batch, f"batch {number} of the loader")


def _checked(batch: Any, where: str) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UserError(f"expected a pair (images, labels), got {type(batch).__name__}", where=where)
    images, labels = (torch.as_tensor(part) for part in batch)
    if images.ndim != 4 or not images.is_floating_point():
        raise UserError(
            f"expected images (B, C, H, W) in floating point, got {images.dtype} of shape {tuple(images.shape)}",
            where=where,
            remedy="wrap a data set in torch.utils.data.DataLoader, and normalize its images",
        )
    if labels.ndim != 1 or len(labels) != len(images) or labels.is_floating_point() or labels.is_complex():
        raise UserError(
            f"expected {len(images)} integer labels (B,), got {labels.dtype} of shape {tuple(labels.shape)}",
            where=where,
        )
    return images, labels
