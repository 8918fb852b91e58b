"""What training and evaluation see of a data set: three splits that yield batches, reproducibly from any batch on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LEAST_SEARCH", "Batches", "DataSplits", "Split", "generator_for"]

LEAST_SEARCH = 2
"""Fewest images of the search split: the standard error of a difference between configurations needs two."""

Batches = Iterator[tuple[Tensor, Tensor]]
"""Images (B, C, H, W) float32, normalized; labels (B,) int64."""


def generator_for(seed: Sequence[int], *key: int) -> np.random.Generator:
    """A generator that is a function of ``seed`` and ``key`` alone; different keys give independent streams."""
    return np.random.default_rng(np.random.SeedSequence(tuple(seed), spawn_key=key))


class Split(ABC):
    """One split of a data set.

    Attributes:
        labels: (N,) int64, in the split's own order: that of `batches` without ``shuffle_seed``.
    """

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def num_batches(self, batch_size: int, drop_last: bool = False) -> int:
        """Number of batches of a full pass."""
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
        """One pass over the split: of its batches, number ``start`` and every ``stride``-th one from there on.

        Order and augmentation are functions of ``shuffle_seed`` and the batch's number: a pass begun at ``start``
        yields, bit for bit, what a full one yields from there on, whatever the number of workers; processes that share
        a pass take every ``stride``-th batch each.

        Args:
            batch_size: Images a batch; the last one may be smaller.
            shuffle_seed: E.g. (study seed, epoch), integers >= 0. None: the split's own order.
            augment: Apply the data set's training augmentation; needs ``shuffle_seed``.
            start: Number of the first batch.
            stride: From one batch's number to the next one's.
            drop_last: Leave out a last batch that is not full.
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
        """Yields a batch for each of ``chunks`` (indices into the split), which are batches ``numbers`` of the pass.

        ``seed`` is that of the augmentation; None: no augmentation.
        """


@dataclass(frozen=True)
class DataSplits:
    """A data set, split.

    Attributes:
        train: What weights are trained on.
        search: What choices, thresholds and temperatures are made on. Disjoint from ``train``.
        test: Read once, by the final evaluation.
        num_classes: Number of classes; labels lie in [0, num_classes).
        input_shape: (C, H, W) of an image.
        class_names: One for each class.
        mean, std: (C,) each: an image is (pixels - mean) / std, pixels as stored (0 to 255; digits: 0 to 16).
        digest: SHA-256 over the name, the images or their files' sizes, the labels, and who is in which split.
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
