"""The integer back end: layers whose input and weights are codes run in oneDNN's int8 operators, on CPUs.

Activations are unsigned bytes, code - low, so that the code of 0 is the zero-point; weights are signed bytes; sums
are exact. What follows a layer is done in the same pass: scale, bias, clamp and rounding to the next layer's bytes, or
scale, bias and ReLU to float32. States stay float32, as everywhere; layers and steps that this does not fit run as in
the float back end. The operators are torch's internals (its own compiler uses them), hence used only after a trial.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from usdn_nas.quant import compiled
from usdn_nas.quant.compiled import CompiledProgram, FloatStep, float_step
from usdn_nas.quant.program import Geometry, Grid, Layer, Options, Program, Quantize, Slot, Step, Tail, reads_of

__all__ = ["compile_program", "unavailable"]

_PAIR = 2**15 - 1
"""Processors without VNNI add products in pairs in 16 bits, and saturate: codes of 7 bits and weights of 8 fit."""
_LARGE_LINEAR = 2**13
"""Weights of a linear layer below which a call of the operator takes longer than the layer in floating point."""


def unavailable(device: torch.device) -> str | None:
    """Why the integer back end cannot be used on ``device``; None: it can."""
    if device.type != "cpu":
        return f"oneDNN's int8 operators run on CPUs, not on '{device}'"
    return _trial()[0]


def compile_program(program: Program, options: Options) -> CompiledProgram:
    """A program with its quantized layers in bytes, the rest as in the float back end.

    Other than in float32 on a CPU that passed the trial, all of it is as in the float back end.
    """
    if options.dtype != torch.float32 or unavailable(options.device):
        return compiled.compile_program(program, options)
    held = _bytes(program)
    return CompiledProgram(program, [_step(step, held, options) for step in program.steps])


def _bytes(program: Program) -> set[Slot]:
    """The slots that hold bytes: those of codes that only layers which take bytes read."""
    fits: dict[Slot, bool] = {slot: False for slot in program.outputs}
    for step in program.steps:
        for slot in reads_of(step):
            takes = isinstance(step, Layer) and slot != step.add and _takes(step)
            fits[slot] = takes and fits.get(slot, True)
    return {slot for slot, fit in fits.items() if fit}


def _takes(step: Layer) -> bool:
    """Whether int8 operators compute ``step`` exactly, and are worth calling."""
    if step.source_grid is None or not step.weight_codes:
        return False
    if step.geometry is None and step.weight.numel() < _LARGE_LINEAR:
        return False
    span = step.source_grid.high - step.source_grid.low
    low, high = (int(bound) for bound in step.weight.aminmax())
    largest = span * max(-low, high)
    if span > 255 or low < -128 or high > 127 or largest * step.weight[0].numel() >= 2**31:
        return False
    return 2 * largest <= _PAIR or _trial()[1]


def _step(step: Step, held: set[Slot], options: Options) -> FloatStep:
    if isinstance(step, Layer) and step.source in held:
        return _Layer(step, step.out in held)
    if step.out not in held:
        return float_step(step, options)
    if isinstance(step, Quantize):
        return _Quantize(step)
    return _ThenBytes(step, options)


def _to_bytes(x: Tensor, grid: Grid) -> Tensor:
    """Codes of the values ``x``, less ``grid.low``, as bytes."""
    quantized = torch.quantize_per_tensor(x, grid.step, -grid.low, torch.quint8)
    codes = torch.empty(0, dtype=torch.uint8)  # int_repr would copy
    codes.set_(quantized.untyped_storage(), 0, quantized.shape, quantized.stride())
    span = grid.high - grid.low
    return codes if span == 255 else codes.clamp_max_(span)


class _Quantize(FloatStep):
    def __init__(self, step: Quantize) -> None:
        self.step = step

    def __call__(self, values: list[Any]) -> None:
        values[self.step.out] = _to_bytes(values[self.step.source], self.step.grid)


class _ThenBytes(FloatStep):
    """A step of the float back end whose grid is left to the conversion to bytes."""

    def __init__(self, step: Any, options: Options) -> None:
        self.out, self.grid = step.out, step.tail.grid
        self.step = float_step(replace(step, tail=Tail(step.tail.relu)), options)
        self.nbytes = self.step.nbytes

    def __call__(self, values: list[Any]) -> None:
        self.step(values)
        values[self.out] = _to_bytes(values[self.out], self.grid)


class _Conv:
    """oneDNN's convolution of bytes. Weights are packed for the first input's shape; others then run too."""

    def __init__(self, weight: Tensor, geometry: Geometry, zero: int) -> None:
        self.weight, self.zero = weight.to(torch.int8), zero
        self.geometry = (list(geometry.stride), list(geometry.padding), list(geometry.dilation), geometry.groups)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.packed = False

    def __call__(self, x: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype, ending: _Ending) -> Tensor:
        if not self.packed:
            self.packed = True
            ones = torch.ones(len(self.weight))  # a negative scale given here spoils the weights
            self.weight = torch.ops.onednn.qconv_prepack(
                self.weight, ones, 1.0, self.zero, *self.geometry, list(x.shape)
            )
        zero, post, bounds = ending
        return torch.ops.onednn.qconv2d_pointwise.default(
            x, 1.0, self.zero, self.weight, scale, self.zeros, bias, *self.geometry, 1.0, zero, dtype, post, bounds, ""
        )


class _Linear:
    """oneDNN's product of bytes with a matrix."""

    def __init__(self, weight: Tensor, zero: int) -> None:
        self.weight, self.zero = weight.to(torch.int8), zero
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.packed = False

    def __call__(self, x: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype, ending: _Ending) -> Tensor:
        if not self.packed:
            self.packed = True
            self.weight = torch.ops.onednn.qlinear_prepack(self.weight, list(x.shape))
        zero, post, bounds = ending
        return torch.ops.onednn.qlinear_pointwise.default(
            x, 1.0, self.zero, self.weight, scale, self.zeros, bias, 1.0, zero, dtype, post, bounds, ""
        )


_Ending = tuple[int, str, list[float]]
"""Zero-point of the result, and what comes before the rounding: an operation and its scalars."""


class _Layer(FloatStep):
    """A layer that reads bytes.

    Args:
        step: The layer.
        to_bytes: Whether it makes bytes; else float32, codes or values.
    """

    def __init__(self, step: Layer, to_bytes: bool) -> None:
        assert step.source_grid is not None
        self.step = replace(step, weight=step.weight.to("meta"))  # kept packed alone
        self.to_bytes = to_bytes
        zero = -step.source_grid.low
        self.product = _Linear(step.weight, zero) if step.geometry is None else _Conv(step.weight, step.geometry, zero)
        self.ending: _Ending = (0, "relu" if step.tail.relu and step.add is None else "none", [])
        unit = 1.0
        if (grid := step.tail.grid) is not None and step.add is None:
            lowest = 0 if step.tail.relu else grid.low
            self.ending = (-grid.low if to_bytes else 0, "hardtanh", [float(lowest), float(grid.high)])
            unit = grid.step
        self.scale = (step.scale / unit).float()
        self.bias = None if step.bias is None else (step.bias / unit).float()
        self.nbytes = _packed_bytes(step.weight) + 16 * len(step.weight)

    def __call__(self, values: list[Any]) -> None:
        step = self.step
        in_bytes = self.to_bytes and step.add is None
        dtype = torch.uint8 if in_bytes else torch.float32
        y = self.product(values[step.source], self.scale, self.bias, dtype, self.ending)
        if step.add is not None:
            y = self._after_sum(_sum(y, values[step.add], relu=step.tail.relu))
        elif step.tail.grid is not None and not in_bytes:
            y.round_()
        values[step.out] = y

    def _after_sum(self, y: Tensor) -> Tensor:
        if (grid := self.step.tail.grid) is None:
            return y
        return _to_bytes(y, grid) if self.to_bytes else y.div_(grid.step).round_().clamp_(grid.low, grid.high)


def _sum(y: Tensor, other: Tensor, *, relu: bool) -> Tensor:
    """Y + other, in place where ``y`` is not the smaller one. (oneDNN can add into ``other``, which is not ours.)"""
    if y.shape != other.shape:
        y = y + other
        return y.relu_() if relu else y
    return torch.ops.aten._add_relu_.Tensor(y, other) if relu else y.add_(other)


def _packed_bytes(weight: Tensor) -> int:
    """At most what oneDNN's packed weights take: blocks of channels, and a sum for each output channel beside them."""
    outputs, inputs = weight.shape[:2]
    fine = weight.ndim == 4  # convolutions of few channels have smaller blocks
    outputs = _round_up(outputs, 64 if outputs > 32 or not fine else 32 if outputs > 16 else 16)
    inputs = _round_up(inputs, 64 if inputs > 32 or not fine else 4)
    return outputs * (inputs * weight[0, 0].numel() + 4)


def _round_up(count: int, block: int) -> int:
    return -(-count // block) * block


@functools.cache
def _trial() -> tuple[str | None, bool]:
    """Why the operators cannot be used (None: they can), and whether 8-bit codes are exact with 8-bit weights."""
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN", False
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.quantize_per_tensor says, once, that it will go one day
            exact, wide = (all(_computes(span, case) for case in _CASES) for span in (127, 255))
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} does not run oneDNN's int8 operators: {str(error).splitlines()[0]}", False
    return None if exact else "oneDNN's int8 operators do not add up exactly on this processor", wide


_CASES = ((16, 16, 1, 3), (16, 16, 16, 3), (3, 40, 1, 7), (64, 24, 1, 1), (64, 10, 1, 0))
"""Channels in, out, groups, and the kernel's side (0: a linear layer)."""


def _computes(span: int, case: tuple[int, int, int, int]) -> bool:
    """Whether a layer with weights of 8 bits and codes up to ``span`` is exact, to float32 and to the next bytes."""
    inputs, outputs, groups, side = case
    generator = torch.Generator().manual_seed(0)
    shape = (4, inputs, 9, 9) if side else (4, inputs)
    grid = Grid(0.5, -(span // 3), span - span // 3)
    values = torch.randint(2 * grid.low, 2 * grid.high, shape, generator=generator) * grid.step
    weight = torch.randint(0, 2, (outputs, inputs // groups, *[side] * (2 if side else 0)), generator=generator)
    weight = (weight * 255 - 128).float()
    weight[: outputs // 2] = -128  # whole rows of one sign: the largest sums
    geometry = Geometry((1, 1), (side // 2, side // 2), (1, 1), groups) if side else None
    after = Grid(1.0, -5, 90)
    scale = torch.linspace(-1, 1, outputs).double() / 2**9
    exact = Layer(Slot(2), Slot(1), grid, weight, True, torch.ones(outputs).double(), None, geometry)
    steps = [exact, replace(exact, scale=scale, bias=scale, tail=Tail(grid=after), out=Slot(3))]
    found: list[Any] = [values, _to_bytes(values, grid), None, None]
    codes = values.double().div(grid.step).round().clamp(grid.low, grid.high)
    if geometry is None:
        sums = F.linear(codes, weight.double())
    else:
        sums = F.conv2d(codes, weight.double(), padding=geometry.padding, groups=groups)
    for step, to_bytes in zip(steps, (False, True), strict=True):
        _Layer(step, to_bytes)(found)
    rescaled = (sums.movedim(1, -1) * scale + scale).movedim(-1, 1).clamp(after.low, after.high)
    off = (found[3].double() + after.low - rescaled).abs().max() if len(rescaled) else 0
    return bool((found[2] == sums.float()).all() and off <= 0.5 + 1e-3)
