"""The float back end. Codes are whole numbers in floating point, and all scales are multiplied into the weights.

If a layer's result is quantized, the layer computes it in units of the grid's step. Only rounding and clamping remain.
On CPUs, in float32 and channels-last, convolutions run in oneDNN: bias, clamp, ReLU and residual addition are fused,
and weights are packed once. These operators are internals of torch, which its own compiler uses. They are therefore
tried on a small example before they are used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from usdn_nas.engine.program import (
    Add,
    Affine,
    Call,
    Geometry,
    Grid,
    Layer,
    Options,
    Program,
    Quantize,
    Relu,
    Slot,
    Step,
    Tail,
    reads_of,
)

__all__ = ["CompiledProgram", "FloatStep", "compile_program", "float_step"]


class FloatStep:
    """A step that is ready to run. It reads and writes a list of values, indexed by slot.

    Attributes:
        nbytes: Bytes of the constants that it keeps.
    """

    nbytes = 0

    def __call__(self, values: list[Any]) -> None:
        raise NotImplementedError


class CompiledProgram:
    """Runs compiled steps in order. A value is dropped after its last reader has run.

    Args:
        program: The program that the steps were compiled from.
        steps: One compiled step for each step of the program.
    """

    def __init__(self, program: Program, steps: list[FloatStep]) -> None:
        self.inputs, self.outputs, self.slots = program.inputs, program.outputs, program.slots
        self.steps = list(zip(steps, _last_reads(program), strict=True))

    @property
    def nbytes(self) -> int:
        return sum(step.nbytes for step, _ in self.steps)

    def __call__(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values: list[Any] = [None] * self.slots
        for slot, tensor in zip(self.inputs, state, strict=True):
            values[slot] = tensor
        for step, done in self.steps:
            step(values)
            for slot in done:
                values[slot] = None
        return tuple(values[slot] for slot in self.outputs)

    def peak(self, state: tuple[Tensor, ...]) -> int:
        """Runs the program and returns the most bytes that values take at once, including ``state`` and results."""
        values: list[Any] = [None] * self.slots
        for slot, tensor in zip(self.inputs, state, strict=True):
            values[slot] = tensor
        peak = 0
        for step, done in self.steps:
            step(values)
            peak = max(peak, sum(value.nbytes for value in values if isinstance(value, Tensor)))
            for slot in done:
                values[slot] = None
        return peak


def _last_reads(program: Program) -> list[tuple[Slot, ...]]:
    """Returns, for each step, the slots that no later step reads."""
    seen = set(program.outputs)
    done: list[tuple[Slot, ...]] = []
    for step in reversed(program.steps):
        last = {*reads_of(step), step.out} - seen
        seen |= last
        done.append(tuple(last))
    return done[::-1]


def compile_program(program: Program, options: Options) -> CompiledProgram:
    """Compiles a program into operations on floating-point tensors."""
    return CompiledProgram(program, [float_step(step, options) for step in program.steps])


def float_step(step: Step, options: Options) -> FloatStep:
    """Compiles one step into operations on floating-point tensors."""
    if isinstance(step, Layer):
        if step.geometry is None:
            return _Linear(step, options)
        return _FusedConv(step, options) if _fuses(step, options) else _Conv(step, options)
    if isinstance(step, Affine):
        return _Affine(step, options)
    if isinstance(step, Quantize):
        return _Quantize(step, options)
    return _PLAIN[type(step)](step)


def _finish(y: Tensor, tail: Tail) -> Tensor:
    """Applies the tail in place. ``y`` is in units of the grid's step if the tail has a grid."""
    if tail.relu:
        y.relu_()
    return y if tail.grid is None else y.round_().clamp_(tail.grid.low, tail.grid.high)


def _unit(tail: Tail) -> float:
    return 1.0 if tail.grid is None else tail.grid.step


def _with(y: Tensor, other: Tensor, unit: float) -> Tensor:
    """Returns y + other / unit. The sum is computed in place if both tensors have the same shape."""
    if y.shape == other.shape:
        return y.add_(other, alpha=1 / unit)
    return y + other / unit


class _Linear(FloatStep):
    """A linear layer, and the base class of convolutions. All scales are multiplied into weights and bias."""

    def __init__(self, step: Layer, options: Options) -> None:
        self.step, self.unit = replace(step, weight=step.weight.to("meta")), _unit(step.tail)
        scale = (step.scale / self.unit).view(-1, *[1] * (step.weight.ndim - 1))
        weight = step.weight.to(torch.float64, copy=True).mul_(scale).to(options.dtype)
        if options.channels_last and weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight = weight
        self.bias = None if step.bias is None else (step.bias / self.unit).to(options.dtype)
        self.nbytes = weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def __call__(self, values: list[Any]) -> None:
        y = self.product(values[self.step.source])
        if self.step.add is not None:
            y = _with(y, values[self.step.add], self.unit)
        values[self.step.out] = _finish(y, self.step.tail)


class _Conv(_Linear):
    """A convolution computed by torch's public operators."""

    def product(self, x: Tensor) -> Tensor:
        geometry = self.step.geometry
        assert geometry is not None
        return F.conv2d(
            x, self.weight, self.bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
        )


class _FusedConv(_Linear):
    """A convolution computed by oneDNN. The same pass does everything that follows it, except rounding."""

    def __init__(self, step: Layer, options: Options) -> None:
        super().__init__(step, options)
        assert step.geometry is not None
        geometry = step.geometry
        self.geometry = (list(geometry.padding), list(geometry.stride), list(geometry.dilation), geometry.groups)
        self.packed = False
        self.unary: tuple[str, list[float], str] = ("relu" if step.tail.relu else "none", [], "")
        if step.tail.grid is not None:
            self.unary = ("hardtanh", [float(step.tail.grid.low), float(step.tail.grid.high)], "")

    def _pack(self, x: Tensor) -> None:
        """Packs the weights for inputs with the shape of ``x``."""
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.geometry, list(x.shape))
        self.packed = True

    def _fits(self, x: Tensor, other: Tensor) -> bool:
        """Returns whether ``other`` has the shape of the result, because the fused addition does not broadcast."""
        padding, stride, dilation, _ = self.geometry
        kernel = self.step.weight.shape[2:]
        sides = zip(x.shape[2:], padding, stride, dilation, kernel, strict=True)
        return other.shape == (
            len(x),
            len(self.step.weight),
            *((side + 2 * pad - reach * (taps - 1) - 1) // step + 1 for side, pad, step, reach, taps in sides),
        )

    def __call__(self, values: list[Any]) -> None:
        step = self.step
        x = values[step.source]
        if not self.packed:
            self._pack(x)
        conv = torch.ops.mkldnn._convolution_pointwise
        if step.add is None:
            y = conv(x, self.weight, self.bias, *self.geometry, *self.unary)
            values[step.out] = y if step.tail.grid is None else y.round_()
        elif self._fits(x, other := values[step.add]):
            relu = "relu" if step.tail.relu else None
            values[step.out] = conv.binary(x, other, self.weight, self.bias, *self.geometry, "add", 1.0, relu, [], None)
        else:
            y = conv(x, self.weight, self.bias, *self.geometry, "none", [], "")
            values[step.out] = _finish(_with(y, other, self.unit), step.tail)


def _fuses(step: Layer, options: Options) -> bool:
    """Returns whether oneDNN's fused convolution can run ``step``."""
    fits = options.dtype == torch.float32 and options.device.type == "cpu" and options.channels_last
    ends = step.add is None or step.tail.grid is None
    two = step.tail.relu and step.tail.grid is not None  # oneDNN fuses only one of them
    return fits and ends and not two and _fused_works()


@functools.cache
def _fused_works() -> bool:
    """Returns whether this version of torch has the fused operators and they compute correct results."""
    x = torch.linspace(-1, 1, 2 * 8 * 5 * 5).view(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    weight = torch.linspace(-1, 1, 8 * 8 * 9).view(8, 8, 3, 3).cos()
    step = Layer(
        Slot(1), Slot(0), None, weight, False, torch.ones(8).double(), None, Geometry((1, 1), (1, 1), (1, 1), 1)
    )
    options = Options(torch.float32, x.device, True)
    try:
        with torch.inference_mode():
            for tried in (step, replace(step, tail=Tail(grid=Grid(0.5, 0, 7))), replace(step, add=Slot(0))):
                fused, plain = [x, None], [x, None]
                _FusedConv(tried, options)(fused)
                _Conv(tried, options)(plain)
                if not torch.allclose(fused[1], plain[1], atol=1e-4):  # type: ignore[arg-type]
                    return False
    except (AttributeError, RuntimeError):  # this version of torch lacks them or gives them other arguments
        return False
    return True


class _Affine(FloatStep):
    """Computes a BatchNorm in one pass."""

    def __init__(self, step: Affine, options: Options) -> None:
        self.step = step
        unit = _unit(step.tail)
        self.scale, self.shift = ((given / unit).to(options.dtype) for given in (step.scale, step.shift))
        self.mean, self.variance = torch.zeros_like(self.shift), torch.ones_like(self.scale)
        self.nbytes = 4 * self.scale.nbytes

    def __call__(self, values: list[Any]) -> None:
        x = values[self.step.source]
        y = F.batch_norm(x, self.mean, self.variance, self.scale, self.shift, eps=0.0)
        values[self.step.out] = _finish(y, self.step.tail)


class _Add(FloatStep):
    def __init__(self, step: Add) -> None:
        self.step = step

    def __call__(self, values: list[Any]) -> None:
        y = values[self.step.left] + values[self.step.right]
        if self.step.tail.grid is not None:
            y.div_(self.step.tail.grid.step)
        values[self.step.out] = _finish(y, self.step.tail)


class _Relu(FloatStep):
    def __init__(self, step: Relu) -> None:
        self.step = step

    def __call__(self, values: list[Any]) -> None:
        values[self.step.out] = torch.relu(values[self.step.source])


class _Quantize(FloatStep):
    """Quantizes values to codes.

    In float32 it multiplies by the reciprocal of the grid's step, because division is slow. Rounding ties may then
    differ; the effect is negligible.
    """

    def __init__(self, step: Quantize, options: Options) -> None:
        self.step = step
        self.factor = 1 / step.grid.step if options.dtype == torch.float32 else None

    def __call__(self, values: list[Any]) -> None:
        grid, x = self.step.grid, values[self.step.source]
        x = x.div(grid.step) if self.factor is None else x.mul(self.factor)
        values[self.step.out] = x.round_().clamp_(grid.low, grid.high)


class _Call(FloatStep):
    def __init__(self, step: Call) -> None:
        self.step = step

    def __call__(self, values: list[Any]) -> None:
        step = self.step
        arguments, keywords = fx.node.map_aggregate(
            (step.arguments, step.keywords), lambda given: values[given] if isinstance(given, Slot) else given
        )
        values[step.out] = step.function(*arguments, **keywords)


_PLAIN: dict[type[Any], Callable[[Any], FloatStep]] = {Add: _Add, Relu: _Relu, Call: _Call}
