"""Typed steps that describe the computation of a part of a chain at given bits. Every back end compiles them.

Tensors live in numbered slots. Each slot is written by one step. If the step has a `Grid`, the slot holds codes of that
grid: whole numbers that stand for code x grid step. Otherwise the slot holds values. The states that a part reads and
returns are always values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, fx

__all__ = [
    "Add",
    "Affine",
    "Call",
    "CompiledPart",
    "Geometry",
    "Grid",
    "Layer",
    "Options",
    "Program",
    "Quantize",
    "Relu",
    "Slot",
    "Step",
    "Tail",
    "reads_of",
]


class Slot(int):
    """Number of a slot. It has its own type to tell slots from plain integers among the arguments of a `Call`."""


@dataclass(frozen=True)
class Grid:
    """A grid of quantized values. The code of x is clamp(round(x / step), low, high), with ties to even.

    low <= 0 <= high holds, and the code of 0 is 0. For inputs that cannot be negative, low = 0 and high = 2^A - 1. For
    inputs with a learned offset, high - low = 2^A - 1.
    """

    step: float
    low: int
    high: int


@dataclass(frozen=True)
class Tail:
    """The end of a step: an optional ReLU, then optional rounding to a grid.

    The tail has a grid only if the quantizer is the only reader of the result. A ReLU before a grid with low = 0 is
    left out, because the clamp has the same effect.
    """

    relu: bool = False
    grid: Grid | None = None


@dataclass(frozen=True)
class Geometry:
    """Geometry of a convolution with zero padding. The fields are arguments of `torch.nn.functional.conv2d`."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with folded BatchNorm: tail(product(source, weight) * scale + bias + add).

    Attributes:
        out, source: Slots. The source holds codes if ``source_grid`` is given, else values.
        source_grid: The grid of the codes in ``source``.
        weight: (C_out, C_in / groups, kH, kW) or (C_out, C_in), in the supernet's type. It holds codes (whole numbers
            -2^(W-1) .. 2^(W-1)-1) if ``weight_codes`` is True, else values.
        weight_codes: Whether ``weight`` holds codes; False at 32 bits.
        scale: (C_out,) float64. The product of the source's step, the weights' step and the BatchNorm's factor; a
            missing factor counts as 1. It may be negative or 0, because the BatchNorm's factor may be.
        bias: (C_out,) float64, in the units of the result; None: 0.
        geometry: Geometry of a convolution; None: a linear layer.
        add: Slot of values that are added before the tail (the other branch of a residual block), or None.
        tail: ReLU and grid that end the step.
        name: Name of the layer, for messages.
    """

    out: Slot
    source: Slot
    source_grid: Grid | None
    weight: Tensor
    weight_codes: bool
    scale: Tensor
    bias: Tensor | None
    geometry: Geometry | None
    add: Slot | None = None
    tail: Tail = Tail()
    name: str = ""


@dataclass(frozen=True)
class Affine:
    """A BatchNorm that was not folded into a layer: tail(source * scale + shift) for each channel (dimension 1).

    Attributes:
        scale, shift: (C,) float64.
    """

    out: Slot
    source: Slot
    scale: Tensor
    shift: Tensor
    tail: Tail = Tail()


@dataclass(frozen=True)
class Add:
    """The sum of two slots of values: tail(left + right)."""

    out: Slot
    left: Slot
    right: Slot
    tail: Tail = Tail()


@dataclass(frozen=True)
class Relu:
    """A ReLU that was not merged into another step: max(source, 0) of values."""

    out: Slot
    source: Slot


@dataclass(frozen=True)
class Quantize:
    """Quantizes the values in ``source`` to codes of ``grid``."""

    out: Slot
    source: Slot
    grid: Grid


@dataclass(frozen=True)
class Call:
    """Any other operation (pooling, flatten, padding, activations, ...), called unchanged. It leaves its inputs alone.

    Attributes:
        function: A module or a function.
        arguments, keywords: Arguments of the call. Each `Slot` in them, also inside tuples, lists and dicts, is
            replaced by the slot's value.
    """

    out: Slot
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any] = field(default_factory=dict)


Step = Layer | Affine | Add | Relu | Quantize | Call


@dataclass(frozen=True)
class Program:
    """A part at given bits.

    Attributes:
        inputs: Slots of the state that the part reads.
        steps: The steps, in an order in which they can run.
        outputs: Slots of the state that the part returns, or the one slot of a head's logits. They hold values.
        slots: Number of slots.
    """

    inputs: tuple[Slot, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Slot, ...]
    slots: int


def reads_of(step: Step) -> list[Slot]:
    """Returns the slots that a step reads. A slot that is read twice is listed twice."""
    if isinstance(step, Call):
        found: list[Slot] = []
        fx.node.map_aggregate((step.arguments, step.keywords), lambda x: found.append(x) if isinstance(x, Slot) else x)
        return found
    if isinstance(step, Layer):
        return [step.source] if step.add is None else [step.source, step.add]
    return [step.left, step.right] if isinstance(step, Add) else [step.source]


@dataclass(frozen=True)
class Options:
    """Type, device and memory layout that a part is compiled for.

    Attributes:
        dtype: Type of the states.
        device: Device of the states.
        channels_last: Whether (B, C, H, W) states are stored channels-last.
    """

    dtype: torch.dtype
    device: torch.device
    channels_last: bool


class CompiledPart(Protocol):
    """A part at given bits, ready to run.

    It does not change the tensors that it is given. The caller owns the results.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and constants that it keeps."""

    def __call__(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Returns the next state, or the logits as a tuple of one tensor."""
