"""Finds the user's own networks: torchvision's classifiers by name, and models that a function returns."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from usdn_nas._util.errors import UserError, nearest
from usdn_nas._util.trust import TORCHVISION, find_function, users_code, what_was_raised
from usdn_nas.networks.foreign import load_foreign
from usdn_nas.space.search_space import NetworkSpec

__all__ = ["PREFIX", "call_function", "is_own", "make_model", "own_size", "torchvision_names"]

PREFIX = TORCHVISION
_WHERE = "network.name"


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """Returns the names of torchvision's classification models."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


def is_own(name: str) -> bool:
    """Returns whether ``name`` stands for a torchvision model or a function."""
    return ":" in name


def own_size(name: str) -> tuple[int, int, int]:
    """Returns the image size (C, H, W) that a torchvision model was made for; (3, 224, 224) for other networks.

    Raises:
        UserError: torchvision has no such model.
    """
    if not name.startswith(PREFIX):
        return (3, 224, 224)
    _check_torchvision(name)
    side = torchvision.models.get_model_weights(name.removeprefix(PREFIX)).DEFAULT.transforms().crop_size[0]
    return (3, side, side)


def _check_torchvision(name: str) -> None:
    if name.removeprefix(PREFIX) not in torchvision_names():
        known = [PREFIX + known for known in torchvision_names()]
        raise UserError(f"torchvision has no classifier '{name}'", where=_WHERE, remedy=nearest(name, known))


def make_model(spec: NetworkSpec) -> nn.Module:
    """Returns the model that ``spec.name`` stands for. If ``spec.weights`` is given, that file is loaded into it.

    Raises:
        UserError: There is no such model or function, the function fails or does not return a model, or the weights do
            not fit.
    """
    for setting in ("depth", "width", "stem_stride", "stem"):
        if getattr(spec, setting) is not None:
            raise UserError(f"{spec.name} has no '{setting}' to set", where=f"network.{setting}")
    model = _torchvision(spec) if spec.name.startswith(PREFIX) else call_function(spec.name, spec.num_classes)
    if spec.weights is not None:
        load_foreign(model, Path(spec.weights))
    return model


def _torchvision(spec: NetworkSpec) -> nn.Module:
    _check_torchvision(spec.name)
    channels, height, width = spec.input_shape
    if channels != 3:
        raise UserError(f"{spec.name} reads 3 channels, got {channels}", where="network.input_shape")
    builder = torchvision.models.get_model_builder(spec.name.removeprefix(PREFIX))
    known = inspect.signature(builder).parameters
    options: dict[str, Any] = {"num_classes": spec.num_classes}
    if spec.name.startswith(f"{PREFIX}vit_"):
        options["image_size"] = height
    if "input_size" in known or spec.name == f"{PREFIX}maxvit_t":
        options["input_size"] = (height, width)
    if spec.name in (f"{PREFIX}googlenet", f"{PREFIX}inception_v3"):
        options["init_weights"] = True  # the default; torchvision warns that it will change
    try:
        return builder(weights=None, **options)
    except (ValueError, AssertionError) as error:  # raised by models that depend on the size of their images
        raise UserError(f"{spec.name}: {error}", where="network.input_shape") from None


def call_function(name: str, num_classes: int | None) -> nn.Module:
    """Calls the user's function and returns its network. ``num_classes`` is passed on if the function has it.

    Raises:
        UserError: There is no such function, it may not be called, it fails, or it does not return a module.
    """
    function = find_function(name, where=_WHERE, classes=(nn.Module,))
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    keywords = {"num_classes": num_classes} if "num_classes" in parameters and num_classes is not None else {}
    try:
        with users_code(name, _WHERE):
            model = function(**keywords)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{name}({_given(keywords)}) failed: {what_was_raised(error)}", where=_WHERE) from None
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} returned {type(model).__name__}, expected a torch.nn.Module", where=_WHERE)
    return model


def _given(keywords: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in keywords.items())
