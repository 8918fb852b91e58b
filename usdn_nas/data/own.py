"""Gets the user's own data from a function, which the study names as ``package.module:function``.

This module does not import torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from usdn_nas._util.errors import UsdnError, UserError, shown
from usdn_nas._util.trust import find_function, users_code, what_was_raised
from usdn_nas.config import DataConfig
from usdn_nas.data.images import ImageSet, class_names, image_set

__all__ = ["CONTRACT", "call_function"]

CONTRACT = (
    "The function is called with the keywords root (data.root, or None) and seed (the study's) and returns a mapping: "
    "'train' and, if there is one, 'test', each a pair (images, labels); optionally 'class_names'. Images: uint8 or "
    "float, (N, C, H, W) or (N, H, W), arrays or tensors on the CPU; labels: N integers from 0."
)


def call_function(config: DataConfig, seed: int) -> tuple[ImageSet, ImageSet | None, tuple[str, ...] | None]:
    """Calls the user's function and returns training images, test images (or None) and class names (or None).

    `CONTRACT` describes the function.

    Raises:
        UserError: The function failed, or its result does not have the form that `CONTRACT` describes.
    """
    function = find_function(config.name, where="data.name")
    try:
        with users_code(config.name, "data.name"):
            parts = function(root=config.root, seed=seed)
    except UsdnError:
        raise
    except Exception as error:
        raise UserError(f"the function raised {what_was_raised(error)}", where=config.name) from error
    if not isinstance(parts, Mapping) or "train" not in parts:
        raise UserError(f"expected a mapping with 'train', got {_outline(parts)}", where=config.name, remedy=CONTRACT)
    if unknown := [key for key in parts if key not in ("train", "test", "class_names")]:
        raise UserError(f"unknown key {shown(unknown[0])}", where=config.name, remedy=CONTRACT)
    names = parts.get("class_names")
    return (
        _part(parts["train"], f"{config.name}: train"),
        _part(parts["test"], f"{config.name}: test") if "test" in parts else None,
        None if names is None else _names(names, f"{config.name}: class_names"),
    )


def _names(names: Any, where: str) -> tuple[str, ...]:
    listed = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(listed, tuple | list) or not all(isinstance(name, str | int) for name in listed):
        raise UserError(f"expected a list of texts, got {_outline(names)}", where=where)
    return class_names(map(str, listed), where)


def _part(pair: Any, where: str) -> ImageSet:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UserError(f"expected a pair (images, labels), got {_outline(pair)}", where=where)
    return image_set(pair[0], pair[1], where)


def _outline(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"one with {', '.join(map(shown, itertools.islice(value, 5))) or 'no keys'}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__
