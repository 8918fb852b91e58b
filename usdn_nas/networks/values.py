"""Values that no trained network has, and that a file of weights may hold all the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["find_wrong_value"]


def find_wrong_value(network: nn.Module, values: Mapping[str, Tensor]) -> str | None:
    """Finds a value that the network cannot have been trained to.

    Refused are NaN and infinities, negative variances, and zero where a module divides: a module lists the names of
    such parameters in an attribute ``never_zero``.

    Args:
        network: Tells which names are variances and divisors.
        values: Name in the state dict of ``network`` -> value; some names may be missing.

    Returns:
        One finding for a message, or None.
    """
    for name, value in values.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return f"'{name}' is no plain tensor"
        if (value.is_floating_point() or value.is_complex()) and not bool(_plain(value).isfinite().all()):
            return f"'{name}' holds NaN or infinity"
        if name.rpartition(".")[2] == "running_var" and bool((_plain(value) < 0).any()):
            return f"'{name}' holds a negative variance"
    for path, module in network.named_modules(remove_duplicate=False):  # a file has one name of what is shared
        for own in getattr(module, "never_zero", ()):
            name = f"{path}.{own}" if path else own
            if name in values and bool((values[name] == 0).any()):
                return f"'{name}' is a step size of zero"
    return None


def _plain(value: Tensor) -> Tensor:
    """``value`` in a type that can be tested; those of 8 bits cannot."""
    return value.float() if value.is_floating_point() and value.element_size() == 1 else value
