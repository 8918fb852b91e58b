"""Steps of the integer back end: calls of oneDNN's int8 operators, and conversions of values to bytes.

A byte holds code - grid.low. The value 0 is therefore stored as -grid.low, which is the zero-point. The operators are
internals of torch, which its own compiler uses (`torch._inductor`, post-training quantization on x86).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from usdn_nas.engine.compiled import FloatStep, float_step
from usdn_nas.engine.program import Geometry, Grid, Layer, Options, Quantize, Tail

__all__ = ["ByteLayer", "QuantizeToBytes", "ThenBytes", "added", "bytes_of"]


_Ending = tuple[int, str, list[float]]
"""Zero-point of the result, then the operation before rounding: its name and its scalar arguments."""


def bytes_of(x: Tensor, grid: Grid) -> Tensor:
    """Returns the codes of the values ``x`` as bytes: code - ``grid.low``."""
    quantized = torch.quantize_per_tensor(x, grid.step, -grid.low, torch.quint8)
    codes = torch.empty(0, dtype=torch.uint8)  # shares memory; `int_repr` would make a copy
    codes.set_(quantized.untyped_storage(), 0, quantized.shape, quantized.stride())
    span = grid.high - grid.low
    return codes if span == 255 else codes.clamp_max_(span)


class QuantizeToBytes(FloatStep):
    """Converts values to bytes."""

    def __init__(self, step: Quantize) -> None:
        self.step = step

    def __call__(self, values: list[Any]) -> None:
        values[self.step.out] = bytes_of(values[self.step.source], self.step.grid)


class ThenBytes(FloatStep):
    """Runs a step of the float back end without its grid, then converts the result to bytes on that grid."""

    def __init__(self, step: Any, options: Options) -> None:
        self.out, self.grid = step.out, step.tail.grid
        self.step = float_step(replace(step, tail=Tail(step.tail.relu)), options)
        self.nbytes = self.step.nbytes

    def __call__(self, values: list[Any]) -> None:
        self.step(values)
        values[self.out] = bytes_of(values[self.out], self.grid)


class _Conv:
    """oneDNN's convolution of bytes. Weights are packed for the first input's shape; other shapes work as well.

    Attributes:
        absorbed: The zero-point whose contribution the bias must include; 0 if oneDNN handles the zero-point. oneDNN
            then packs the weights again in every call, which is cheap enough only for depthwise convolutions. For all
            others, the bias includes the contribution, and images are padded with the zero-point.
    """

    def __init__(self, weight: Tensor, geometry: Geometry, zero: int) -> None:
        self.weight = weight.to(torch.int8)
        padding = list(geometry.padding)
        self.absorbed = 0 if weight.shape[1] == 1 and geometry.groups > 1 else zero
        self.zero = zero - self.absorbed
        self.border: list[int] | None = None
        if self.absorbed and any(padding):
            self.border, padding = [padding[1], padding[1], padding[0], padding[0]], [0, 0]
        self.geometry = (list(geometry.stride), padding, list(geometry.dilation), geometry.groups)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.packed = False

    def __call__(self, x: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, ending: _Ending) -> Tensor:
        if self.border is not None:
            x = F.pad(x, self.border, value=self.absorbed)
        if not self.packed:
            ones = torch.ones(len(self.weight))  # a negative scale here would give wrong weights
            self.weight = torch.ops.onednn.qconv_prepack(
                self.weight, ones, 1.0, self.zero, *self.geometry, list(x.shape)
            )
            self.packed = True
        zero, post, bounds = ending
        return cast(
            Tensor,
            torch.ops.onednn.qconv2d_pointwise.default(
                *(x, 1.0, self.zero, self.weight, scale, self.zeros, bias, *self.geometry),
                *(1.0, zero, dtype, post, bounds, ""),
            ),
        )


class _Linear:
    """oneDNN's product of bytes with a matrix. The caller's bias must include the contribution of the zero-point."""

    def __init__(self, weight: Tensor, zero: int) -> None:
        self.weight, self.absorbed = weight.to(torch.int8), zero
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.packed = False

    def __call__(self, x: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, ending: _Ending) -> Tensor:
        if not self.packed:
            self.weight = torch.ops.onednn.qlinear_prepack(self.weight, list(x.shape))
            self.packed = True
        zero, post, bounds = ending
        return cast(
            Tensor,
            torch.ops.onednn.qlinear_pointwise.default(
                x, 1.0, 0, self.weight, scale, self.zeros, bias, 1.0, zero, dtype, post, bounds, ""
            ),
        )


class ByteLayer(FloatStep):
    """A layer that reads bytes.

    Args:
        step: The layer.
        to_bytes: True: the result is bytes. False: it is float32 and holds codes or values.
    """

    def __init__(self, step: Layer, to_bytes: bool) -> None:
        assert step.source_grid is not None
        self.step = replace(step, weight=step.weight.to("meta"))  # only the packed copy is kept
        self.to_bytes = to_bytes
        zero = -step.source_grid.low
        self.product: _Linear | _Conv
        self.product = _Linear(step.weight, zero) if step.geometry is None else _Conv(step.weight, step.geometry, zero)
        self.ending: _Ending = (0, "relu" if step.tail.relu and step.add is None else "none", [])
        unit = 1.0
        if (grid := step.tail.grid) is not None and step.add is None:
            lowest = 0 if step.tail.relu else grid.low
            self.ending = (-grid.low if to_bytes else 0, "hardtanh", [float(lowest), float(grid.high)])
            unit = grid.step
        self.scale = (step.scale / unit).float()
        bias = torch.zeros_like(step.scale) if step.bias is None else step.bias
        bias = bias - self.product.absorbed * step.scale * step.weight.flatten(1).sum(1, dtype=torch.float64)
        self.bias = (bias / unit).float()
        self.nbytes = _packed_bytes(step.weight) + 16 * len(step.weight)

    def __call__(self, values: list[Any]) -> None:
        step = self.step
        in_bytes = self.to_bytes and step.add is None
        dtype = torch.uint8 if in_bytes else torch.float32
        y = self.product(values[step.source], self.scale, self.bias, dtype, self.ending)
        if step.add is not None:
            y = self._after_sum(added(y, values[step.add], relu=step.tail.relu))
        elif step.tail.grid is not None and not in_bytes:
            y.round_()
        values[step.out] = y

    def _after_sum(self, y: Tensor) -> Tensor:
        if (grid := self.step.tail.grid) is None:
            return y
        return bytes_of(y, grid) if self.to_bytes else y.div_(grid.step).round_().clamp_(grid.low, grid.high)


def added(y: Tensor, other: Tensor, *, relu: bool) -> Tensor:
    """Returns y + other, followed by a ReLU if asked. The sum is in place if both have the same shape.

    oneDNN could fuse the sum into ``other``, but that tensor may have other readers.
    """
    if y.shape != other.shape:
        y = y + other
        return y.relu_() if relu else y
    return cast(Tensor, torch.ops.aten._add_relu_.Tensor(y, other)) if relu else y.add_(other)


def _packed_bytes(weight: Tensor) -> int:
    """Returns an upper bound for the bytes of oneDNN's packed weights.

    They are stored in blocks of channels, with one more 4-byte sum for each output channel.
    """
    outputs, inputs = weight.shape[:2]
    fine = weight.ndim == 4  # convolutions of few channels have smaller blocks
    outputs = _round_up(outputs, 64 if outputs > 32 or not fine else 32 if outputs > 16 else 16)
    inputs = _round_up(inputs, 64 if inputs > 32 or not fine else 4)
    return outputs * (inputs * weight[0, 0].numel() + 4)


def _round_up(count: int, block: int) -> int:
    return -(-count // block) * block
