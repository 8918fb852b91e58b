"""Divides images into splits of exact sizes, at random by a seed, with the same share of each class in every split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usdn_nas._util.errors import UserError
from usdn_nas._util.files import digest
from usdn_nas.config import DataConfig
from usdn_nas.data.splits import LEAST_SEARCH, generator_for

__all__ = ["HELD_OUT_SHARE", "Partition", "partition", "stratified_choice"]

HELD_OUT_SHARE = 0.2
"""Default size of a split, as a fraction of the images, for data sets that have no customary size."""

_TEST, _SEARCH, _LIMIT = 0, 1, 2

_LEAST = {_TEST: 1, _SEARCH: LEAST_SEARCH}
"""Smallest size of each split that is set aside."""


def stratified_choice(labels: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Chooses ``count`` of N images at random. Each class gets its share, with an error below one image.

    Shares are rounded by the largest remainder; ties go to the lower class.

    Args:
        labels: (N,) labels of the images.
        count: Number of images to choose.
        generator: Random generator.

    Returns:
        Sorted indices (count,).
    """
    classes, of_class, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    shares = sizes * count / len(labels)
    quotas = np.floor(shares).astype(np.int64)
    quotas[np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]] += 1
    members = [
        generator.permutation(np.flatnonzero(of_class == position))[: quotas[position]]
        for position in range(len(classes))
    ]
    return np.sort(np.concatenate(members))


@dataclass(frozen=True)
class Partition:
    """Sorted indices into a data set's training images for each split; None if the data set has that split itself."""

    train: NDArray[np.int64]
    search: NDArray[np.int64] | None
    test: NDArray[np.int64] | None

    @property
    def digest(self) -> str:
        """SHA-256 over the members of each split."""
        parts = (self.train, self.search, self.test)
        return digest([None if part is None else hashlib.sha256(part.data).hexdigest() for part in parts])


def partition(
    labels: NDArray[np.int64],
    config: DataConfig,
    seed: int,
    *,
    own_test: bool,
    own_search: bool = False,
    search: int | None = None,
) -> Partition:
    """Divides training images: the test split is taken first, then the search split; the rest is for training.

    If the rest has more than ``config.train_limit`` images, it is reduced to that number.

    Args:
        labels: (N,) labels of the data set's training images.
        config: Settings ``search``, ``test`` and ``train_limit``, which override the defaults.
        seed: The study's seed.
        own_test, own_search: True if the data set has this split itself, so that none is taken from the training
            images.
        search: Default size of the search split; None: `HELD_OUT_SHARE` of N.

    Raises:
        UserError: The settings give a size for a split that the data set has itself, or more images than there are, or
            so many that a class is left without training images.
    """
    share = round(HELD_OUT_SHARE * len(labels))
    rest = np.arange(len(labels))
    taken: list[NDArray[np.int64] | None] = []
    for key, kind, own, asked, default in (
        (_TEST, "test", own_test, config.test, share),
        (_SEARCH, "search", own_search, config.search, share if search is None else search),
    ):
        if own and asked is not None:
            raise UserError(
                f"{config.name} has a {kind} split of its own", where=f"data.{kind}", remedy="leave this key out"
            )
        if own:
            taken.append(None)
            continue
        count = default if asked is None else asked
        least = _LEAST[key]
        if not least <= count < len(rest):
            raise UserError(
                f"{count} images cannot be set aside from {len(rest)} of {config.name}",
                where=f"data.{kind}",
                remedy=f"set it to a number from {least} to {len(rest) - 1}" if len(rest) > least else None,
            )
        chosen = rest[stratified_choice(labels[rest], count, generator_for((seed,), key))]
        taken.append(chosen)
        rest = np.setdiff1d(rest, chosen, assume_unique=True)
    _check_rest(labels, rest, config)
    if config.train_limit is not None and config.train_limit < len(rest):
        rest = rest[stratified_choice(labels[rest], config.train_limit, generator_for((seed,), _LIMIT))]
    return Partition(rest, taken[1], taken[0])


def _check_rest(labels: NDArray[np.int64], rest: NDArray[np.int64], config: DataConfig) -> None:
    """Refuses splits that leave a class without training images, unless the user has set a ``train_limit``."""
    unlearned = np.setdiff1d(labels, labels[rest])
    if unlearned.size and config.train_limit is None:
        raise UserError(
            f"no training image is left of class {unlearned[0]} after the search and test images are set aside",
            where=f"data: {config.name}",
            remedy="set fewer images aside with data.search and data.test, or add images of this class",
        )
