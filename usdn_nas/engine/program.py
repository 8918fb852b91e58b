"""What a part of a chain computes at given bits, as typed steps: what compilers of every back end read.

Values live in numbered slots, each written by one step. A slot holds values, or, where its step has a `Grid`, the
codes of that grid: whole numbers that stand for code x step. States come in and go out as values.
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
    """Number of a slot; a type of its own so that it is told from whole numbers among the arguments of a `Call`."""


@dataclass(frozen=True)
class Grid:
    """Codes of x are clamp(round(x / step), low, high), ties to even, low <= 0 <= high; the code of 0 is 0.

    Inputs that cannot be negative: low = 0 and high = 2^A - 1. With a learned offset: high - low = 2^A - 1.
    """

    step: float
    low: int
    high: int


@dataclass(frozen=True)
class Tail:
    """How a step ends: with a ReLU, and on a grid (after it), where that is the only thing that reads its result.

    A ReLU before a grid with low = 0 does nothing that the clamp does not do.
    """

    relu: bool = False
    grid: Grid | None = None


@dataclass(frozen=True)
class Geometry:
    """Of a convolution with zero padding, as in `torch.nn.functional.conv2d`."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Layer:
    """tail(product(source, weight) * scale + bias + add): a convolution or linear layer, its BatchNorm folded.

    Attributes:
        out, source: Slots. The source holds codes where ``source_grid`` is given, else values.
        source_grid: The grid of the codes in ``source``.
        weight: (C_out, C_in / groups, kH, kW) or (C_out, C_in), in the supernet's type. Whole numbers (codes, -2^(W-1)
            .. 2^(W-1)-1) where ``weight_codes``, else values.
        weight_codes: Whether ``weight`` holds codes; False at 32 bits.
        scale: (C_out,) float64: step of the source x step of the weights x factor of the BatchNorm, those that there
            are. May be negative or 0 (the BatchNorm's).
        bias: (C_out,) float64, in the units of the result; None: 0.
        geometry: Of a convolution; None: a linear layer.
        add: A slot of values that is added before the tail (the other branch of a residual), or None.
        tail: What comes last.
        name: The layer's, for messages.
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
    """tail(source * scale + shift) for each channel (dimension 1): a BatchNorm that no layer took in.

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
    """tail(left + right), values."""

    out: Slot
    left: Slot
    right: Slot
    tail: Tail = Tail()


@dataclass(frozen=True)
class Relu:
    """max(source, 0), values: a ReLU that no step took in."""

    out: Slot
    source: Slot


@dataclass(frozen=True)
class Quantize:
    """Codes of the values in ``source``."""

    out: Slot
    source: Slot
    grid: Grid


@dataclass(frozen=True)
class Call:
    """Anything else (pooling, flatten, padding, activations, ...), run as it stands; it changes none of its arguments.

    Attributes:
        function: A module or a function.
        arguments, keywords: A `Slot` in them, at any depth of tuples, lists and dicts, stands for its value.
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
        inputs: Slots of the state that comes in.
        steps: In an order in which they can run.
        outputs: Slots of the state (or of the logits, one) that goes out; always values.
        slots: How many there are.
    """

    inputs: tuple[Slot, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Slot, ...]
    slots: int


def reads_of(step: Step) -> list[Slot]:
    """The slots that a step reads, one entry a read."""
    if isinstance(step, Call):
        found: list[Slot] = []
        fx.node.map_aggregate((step.arguments, step.keywords), lambda x: found.append(x) if isinstance(x, Slot) else x)
        return found
    if isinstance(step, Layer):
        return [step.source] if step.add is None else [step.source, step.add]
    return [step.left, step.right] if isinstance(step, Add) else [step.source]


@dataclass(frozen=True)
class Options:
    """What a part is compiled for.

    Attributes:
        dtype: Of the states.
        device: Where they are.
        channels_last: Whether (B, C, H, W) states lie channels-last.
    """

    dtype: torch.dtype
    device: torch.device
    channels_last: bool


class CompiledPart(Protocol):
    """A part at given bits, ready to run. Changes none of the tensors it is given; results are its caller's."""

    @property
    def nbytes(self) -> int:
        """Of the weights and constants that it keeps."""

    def __call__(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The next state, or the logits (a tuple of one)."""
