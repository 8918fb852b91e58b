"""Finds values that no trained network has, but that a file of weights may hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["find_wrong_value"]


def find_wrong_value(network: nn.Module, values: Mapping[str, Tensor]) -> str | None:
    """Finds a value that no training can lead to.

    Such values are NaN, infinities, negative variances, and zeros in parameters that a module divides by. A module
    lists the names of these parameters in its attribute ``never_zero``.

    Args:
        network: The network that the values are for.
        values: Name in the state dict of ``network`` -> value. Names may be missing.

    Returns:
        A description of the first such value, for a message; None if there is none.
    """
    for name, value in values.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return f"'{name}' is no plain tensor"
        if (value.is_floating_point() or value.is_complex()) and not bool(_plain(value).isfinite().all()):
            return f"'{name}' holds NaN or infinity"
        if name.rpartition(".")[2] == "running_var" and bool((_plain(value) < 0).any()):
            return f"'{name}' holds a negative variance"
    for path, module in network.named_modules(remove_duplicate=False):  # a shared tensor has one name in a file
        for own in getattr(module, "never_zero", ()):
            name = f"{path}.{own}" if path else own
            if name in values and bool((values[name] == 0).any()):
                return f"'{name}' is a step size of zero"
    return None


def _plain(value: Tensor) -> Tensor:
    """Returns ``value`` in a type that torch can compare. 8-bit floating point is converted to float32."""
    return value.float() if value.is_floating_point() and value.element_size() == 1 else value
