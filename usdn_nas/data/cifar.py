"""Reads CIFAR's pickled batches and class names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from usdn_nas._util.errors import UserError, shown
from usdn_nas.data.images import ImageSet, class_names, image_set
from usdn_nas.data.pickles import PickledArray, as_text, read_pickled_dict

__all__ = ["read_batch", "read_names"]


def read_batch(path: Path, labels: str) -> ImageSet:
    """Returns the images (N, 3, 32, 32) uint8 and the labels of one batch.

    Args:
        path: The pickle.
        labels: Key of the labels in the pickle: ``"labels"``, or ``"fine_labels"`` for CIFAR-100.

    Raises:
        UserError: The file is damaged or holds something else.
    """
    payload = read_pickled_dict(path)
    if missing := [key for key in ("data", labels) if key not in payload]:
        raise UserError(f"expected a CIFAR batch, it has no '{missing[0]}'", where=path)
    try:
        data = payload["data"].to_numpy() if isinstance(payload["data"], PickledArray) else None
    except ValueError as error:
        raise UserError(str(error), where=path) from None
    if data is None or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        got = type(payload["data"]).__name__ if data is None else data.shape
        raise UserError(f"expected data of shape (N, 3072), got {got}", where=path)
    numbers = _flat(payload[labels], int, "integer labels", f"{path}: {labels}")
    if outside := [number for number in numbers if not 0 <= number < 2**31]:
        raise UserError(f"expected labels from 0, got {shown(outside[0])}", where=f"{path}: {labels}")
    return image_set(data.reshape(-1, 3, 32, 32), np.array(numbers, dtype=np.int64), path)


def read_names(path: Path, key: str) -> tuple[str, ...]:
    """Returns the class names in ``batches.meta`` (key ``"label_names"``) or ``meta`` (``"fine_label_names"``).

    Raises:
        UserError: The file is damaged or holds something else.
    """
    where = f"{path}: {key}"
    return class_names(_flat(read_pickled_dict(path).get(key), str, "class names", where), where)


def _flat(values: Any, kind: type, noun: str, where: str) -> list[Any]:
    """Returns a list of texts or integers. Lists inside it are refused unread, because lists may contain each other."""
    if type(values) is not list:
        raise UserError(f"expected a list of {noun}, got {type(values).__name__}", where=where)
    flat = [as_text(value) for value in values]
    if other := next((type(value) for value in flat if type(value) is not kind), None):
        raise UserError(f"expected a list of {noun}, got {other.__name__} in it", where=where)
    return flat
