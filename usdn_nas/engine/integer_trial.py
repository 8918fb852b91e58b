"""Finds out whether oneDNN's int8 operators can be used on this machine, by running a few small layers with them."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from usdn_nas.engine.integer_steps import ByteLayer, added, bytes_of
from usdn_nas.engine.program import Geometry, Grid, Layer, Slot, Tail

__all__ = ["Finding", "trial"]


@dataclass(frozen=True)
class Finding:
    """The result of the trial.

    Attributes:
        fault: Why the operators cannot be used; None if they can.
        wide: Whether sums of 8-bit codes times 8-bit weights are exact. On processors without VNNI they are not: these
            add products in pairs, in 16 bits with saturation. 7-bit codes are exact there.
    """

    fault: str | None
    wide: bool = False


@functools.cache
def trial() -> Finding:
    """Runs a few small layers and compares their results with float64. Runs only once in a process."""
    if not torch.backends.mkldnn.is_available():
        return Finding("this torch was built without oneDNN")
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.quantize_per_tensor warns once that it is deprecated
            added(torch.ones(2), torch.ones(2), relu=True)
            exact, wide = (all(_computes(span, case) for case in _CASES) for span in (127, 255))
    except (AttributeError, RuntimeError, TypeError) as error:
        return Finding(f"torch {torch.__version__} does not run oneDNN's int8 operators: {str(error).splitlines()[0]}")
    return Finding(None if exact else "oneDNN's int8 operators do not add up exactly on this processor", wide)


_CASES = ((16, 16, 1, 3), (16, 16, 16, 3), (3, 40, 1, 7), (64, 24, 1, 1), (64, 10, 1, 0))
"""Input channels, output channels, groups and the kernel's side (0 for a linear layer)."""


def _computes(span: int, case: tuple[int, int, int, int]) -> bool:
    """Returns whether a layer with 8-bit weights and codes that span ``span`` is exact.

    The layer is tried twice: with a float32 result, and with bytes for the next layer as the result.
    """
    inputs, outputs, groups, side = case
    generator = torch.Generator().manual_seed(0)
    shape = (4, inputs, 9, 9) if side else (4, inputs)
    grid = Grid(0.5, -(span // 3), span - span // 3)
    values = torch.randint(2 * grid.low, 2 * grid.high, shape, generator=generator) * grid.step
    weight = torch.randint(0, 2, (outputs, inputs // groups, *[side] * (2 if side else 0)), generator=generator)
    weight = (weight * 255 - 128).float()
    weight[: outputs // 2] = -128  # rows of equal sign give the largest sums
    geometry = Geometry((1, 1), (side // 2, side // 2), (1, 1), groups) if side else None
    after = Grid(1.0, -5, 90)
    scale = torch.linspace(-1, 1, outputs).double() / 2**9
    exact = Layer(Slot(2), Slot(1), grid, weight, True, torch.ones(outputs).double(), None, geometry)
    steps = [exact, replace(exact, scale=scale, bias=scale, tail=Tail(grid=after), out=Slot(3))]
    found: list[Any] = [values, bytes_of(values, grid), None, None]
    codes = values.double().div(grid.step).round().clamp(grid.low, grid.high)
    if geometry is None:
        sums = F.linear(codes, weight.double())
    else:
        sums = F.conv2d(codes, weight.double(), padding=geometry.padding, groups=groups)
    for step, to_bytes in zip(steps, (False, True), strict=True):
        ByteLayer(step, to_bytes)(found)
    rescaled = (sums.movedim(1, -1) * scale + scale).movedim(-1, 1).clamp(after.low, after.high)
    off = (found[3].double() + after.low - rescaled).abs().max() if len(rescaled) else 0
    return bool((found[2] == sums.float()).all() and off <= 0.5 + 1e-3)
