"""The splits of a data set, which yield batches for training and evaluation. A pass can start at any batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LEAST_SEARCH", "Batches", "DataSplits", "Split", "generator_for"]

LEAST_SEARCH = 2
"""Smallest size of the search split. The standard error of a difference between configurations needs two images."""

Batches = Iterator[tuple[Tensor, Tensor]]
"""Yields batches of normalized images (B, C, H, W) float32 and labels (B,) int64."""


def generator_for(seed: Sequence[int], *key: int) -> np.random.Generator:
    """Returns a generator that depends on ``seed`` and ``key`` only. Different keys give independent streams."""
    return np.random.default_rng(np.random.SeedSequence(tuple(seed), spawn_key=key))


class Split(ABC):
    """One split of a data set.

    Attributes:
        labels: (N,) int64, in the split's own order, which is the order of `batches` without ``shuffle_seed``.
    """

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def num_batches(self, batch_size: int, drop_last: bool = False) -> int:
        """Returns the number of batches of a full pass."""
        return len(self) // batch_size if drop_last else -(-len(self) // batch_size)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: tuple[int, ...] | None = None,
        augment: bool = False,
        start: int = 0,
        stride: int = 1,
        drop_last: bool = False,
    ) -> Batches:
        """Yields the batches of one pass over the split: batch number ``start`` and every ``stride``-th batch after it.

        ``shuffle_seed`` and the number of a batch determine its images and their augmentation. So a pass that begins at
        ``start`` yields the same batches, bit for bit, as a full pass yields from there on, with any number of workers.
        Several processes can share a pass if each takes every ``stride``-th batch.

        Args:
            batch_size: Number of images in a batch. The last batch may be smaller.
            shuffle_seed: Integers >= 0 that determine the order, e.g. (study seed, epoch). None: the split's own order.
            augment: Apply the data set's training augmentation; needs ``shuffle_seed``.
            start: Number of the first batch.
            stride: Difference between the numbers of successive batches.
            drop_last: Leave out the last batch if it is not full.
        """
        if augment and shuffle_seed is None:
            raise ValueError("augmentation needs a shuffle_seed")
        order = np.arange(len(self)) if shuffle_seed is None else generator_for(shuffle_seed).permutation(len(self))
        count = self.num_batches(batch_size, drop_last)
        numbers = range(start, count, stride)
        chunks = [order[k * batch_size : (k + 1) * batch_size] for k in numbers]
        return self._load(chunks, numbers, shuffle_seed if augment else None)

    @abstractmethod
    def _load(
        self, chunks: Sequence[NDArray[np.int64]], numbers: Sequence[int], seed: tuple[int, ...] | None
    ) -> Batches:
        """Yields a batch for each of ``chunks``, which are indices into the split.

        ``numbers`` are the numbers of these batches in the pass. ``seed`` is the seed of the augmentation; None: no
        augmentation.
        """


@dataclass(frozen=True)
class DataSplits:
    """The splits of a data set.

    Attributes:
        train: Images on which weights are trained.
        search: Images on which configurations are compared, and thresholds and temperatures fitted. They are disjoint
            from ``train``.
        test: Images that only the final evaluation reads.
        num_classes: Number of classes; labels are in [0, num_classes).
        input_shape: Shape (C, H, W) of an image.
        class_names: Name of each class.
        mean, std: (C,) each. Images are normalized to (pixels - mean) / std, with stored pixels (0 to 255; digits: 0 to
            16).
        digest: SHA-256 over the name, the images or the sizes of their files, the labels, and the members of each
            split.
    """

    train: Split
    search: Split
    test: Split
    num_classes: int
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
