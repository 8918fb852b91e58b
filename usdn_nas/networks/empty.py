"""Builds networks without memory for their weights, for uses that need only shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from usdn_nas._util.errors import UserError, shown
from usdn_nas._util.validation import validate
from usdn_nas.networks.build import resolve_space
from usdn_nas.networks.find import PREFIX, own_size
from usdn_nas.networks.own import classes_of
from usdn_nas.space.search_space import NetworkSpec, SearchSpace, SpaceSpec

__all__ = ["parameters_on_meta", "resolve_shapes", "space_of"]

T = TypeVar("T")

_CHOICES = [[2, 2], [3, 3], [4, 4], [5, 5]]


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules that are built inside the ``with`` block have their parameters on the meta device.

    Buffers and other tensors are built as usual. ``torch.device("meta")`` would put them on the meta device as well.
    Builders that compute widths with tensors, such as RegNet's, would then fail.
    """
    register = nn.Module.register_parameter

    def registered(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, param)
        if param is not None:
            module._parameters[name] = nn.Parameter(param.detach().to("meta"), param.requires_grad)

    nn.Module.register_parameter = registered  # type: ignore[assignment, method-assign]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def resolve_shapes(spec: SpaceSpec) -> SearchSpace:
    """Returns the search space resolved against its network. Weights get no memory if the network allows it.

    Raises:
        UserError: As for `build_network`.
    """
    return _on_meta(lambda: resolve_space(spec)[0], spec.network.name)


def _on_meta(make: Callable[[], T], name: str) -> T:
    try:
        with parameters_on_meta():
            return make()
    except UserError:
        if name.startswith(PREFIX) or ":" not in name:
            raise
        return make()  # the user's code may read weights; if it fails again, weights are not the reason


def space_of(name: str, input_shape: str | None = None, segments: int | None = None) -> SpaceSpec:
    """Returns a search space over the user's own network, with the bit choices of the paper and default settings.

    Args:
        name: ``"torchvision:NAME"`` or ``"package.module:function"``.
        input_shape: ``"CxHxW"``; None: the size that the network was made for.
        segments: As in `NetworkSpec`.

    Raises:
        UserError: There is no such network, or the size cannot be read.
    """
    shape = own_size(name) if input_shape is None else _shape(input_shape)
    network = {"name": name, "input_shape": shape, "num_classes": 2, "segments": segments}
    validate(NetworkSpec, network, where="")
    network["num_classes"] = _on_meta(lambda: classes_of(name, shape), name)
    return validate(SpaceSpec, {"network": network, "bits": {"choices": _CHOICES}}, where="")


def _shape(text: str) -> tuple[int, int, int]:
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(re.fullmatch(r"0*[1-9][0-9]{0,8}", side) for side in sides):
        raise UserError(f"expected CxHxW such as 3x224x224, got {shown(text)}", where="--input")
    channels, height, width = map(int, sides)
    return channels, height, width
