"""Uniform quantizers with learned step sizes: LSQ (Esser et al., 2020) and LSQ+ (Bhalgat et al., 2020)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LSQQuantizer"]


_HAIR = 1e-4


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns the sum of products. Tensors in channels-last layout are read in that order, which avoids a copy."""
    if a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


class _Quantize(torch.autograd.Function):
    """Computes clamp(round(x / s), n, p) * s with the gradients of LSQ.

    n and p are ``low`` and ``high`` minus the zero-point. The gradient of x is 1 inside [n, p], else 0. The gradient of
    s is round(x/s) - x/s inside; outside it is ``low`` or ``high`` (LSQ, Eq. 3; LSQ+, Eq. 5), because the zero-point
    -offset / s moves with s. The gradient of the offset is 0 inside and 1 outside (LSQ+, Eq. 6). The gradients of s and
    of the offset are multiplied by ``gradient_scale``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, offset: Tensor | None, zero: int, low: int, high: int, gradient_scale: float
    ) -> Tensor:
        low, high = low - zero, high - zero
        scaled = x / step
        quantized = scaled.round().clamp_(low, high).mul_(step)
        ctx.save_for_backward(scaled, quantized, step)
        ctx.bounds, ctx.gradient_scale = (low, high), gradient_scale
        ctx.zero = None if offset is None else zero
        return quantized

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled, quantized, step = ctx.saved_tensors
        low, high = ctx.bounds
        # hardtanh's backward pass does this in one fused operation. Its interval is open, and the bounds are whole
        # numbers, so they are moved outwards by a tiny amount.
        inside = torch.ops.aten.hardtanh_backward(gradient, scaled, low - _HAIR, high + _HAIR)
        of_step = _dot(gradient, quantized) / step - _dot(inside, scaled)
        if ctx.zero is None:
            return inside, of_step * ctx.gradient_scale, None, None, None, None, None
        outside = gradient.sum() - inside.sum()
        of_step = of_step + ctx.zero * outside
        return inside, of_step * ctx.gradient_scale, outside * ctx.gradient_scale, None, None, None, None


class LSQQuantizer(nn.Module):
    """A quantizer of one tensor at one bit-width.

    Quantized values are multiples of ``|step|``, the step size. Weights have signed codes -2^(b-1) .. 2^(b-1)-1. Inputs
    that cannot be negative have unsigned codes 0 .. 2^b-1. For inputs that can be negative (``offset=True``), 2^b
    unsigned codes are shifted by a learned offset. Unlike in LSQ+, the offset is rounded to a whole number of steps and
    limited so that 0 always has a code. Zero padding is therefore exact.

    Args:
        width: Bits, 2 to 16.
        signed: Whether codes are signed, as for weights. Not allowed together with ``offset``.
        offset: Whether an offset is learned.
        count: N in LSQ's gradient scale 1 / sqrt(N Q_p): the number of weights in a weight tensor, or the number of
            features of one sample of an input.
    """

    never_zero = ("step",)
    """Parameters that values are divided by. `usdn_nas.networks.values` refuses a file in which one of them is zero."""

    def __init__(self, width: int, *, signed: bool, offset: bool, count: int) -> None:
        super().__init__()
        self.width = width
        self.low = -(2 ** (width - 1)) if signed else 0
        self.high = 2 ** (width - 1) - 1 if signed else 2**width - 1
        self.gradient_scale = 1 / math.sqrt(count * self.high)
        self.step = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(())) if offset else None

    def zero_point(self) -> int:
        """Returns the code of 0: -offset / step, rounded and clamped to the range of codes; 0 without an offset."""
        if self.offset is None:
            return 0
        zero = round(-self.offset.item() / max(abs(self.step.item()), 1e-12))
        return min(max(zero, self.low), self.high)

    def bounds(self) -> tuple[int, int]:
        """Returns the lowest and the highest code, minus the zero-point."""
        zero = self.zero_point()
        return self.low - zero, self.high - zero

    def codes(self, x: Tensor) -> Tensor:
        """Returns the codes of ``x`` minus the zero-point: whole numbers that stand for code x ``|step|``.

        Gradients do not pass through.
        """
        return (x / self.step.abs()).round_().clamp_(*self.bounds())

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` rounded to multiples of ``|step|``, in the same shape. Gradients are those of LSQ."""
        step = self.step.abs()
        if not torch.is_grad_enabled():
            return self.codes(x).mul_(step)
        return _Quantize.apply(x, step, self.offset, self.zero_point(), self.low, self.high, self.gradient_scale)

    @torch.no_grad()
    def initialize(self, x: Tensor, candidates: int = 40) -> None:
        """Sets step (and offset) to the candidate that quantizes ``x`` with the smallest squared error.

        There are ``candidates`` ranges, evenly spaced from the whole range of ``x`` down to 1 / ``candidates`` of it.
        LSQ's own initial value, 2 mean|x| / sqrt(Q_p), is not used: it clips far too much at 5 bits and above.
        """
        x = x.flatten()
        lowest, highest = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        reach = max(abs(lowest), abs(highest)) or 1.0
        best = (math.inf, 1.0, 0.0)
        for index in range(candidates):
            share = 1 - index / candidates
            if self.offset is not None:
                step = max((highest - lowest) * share, 1e-6) / (self.high - self.low)
                zero = round(-lowest * share / step)
            else:
                step = reach * share / (self.high if self.low == 0 else self.high + 0.5)
                zero = 0
            codes = (x / step).round_().clamp_(self.low - zero, self.high - zero)
            error = float((codes.mul_(step) - x).square_().mean())
            if error < best[0]:
                best = (error, step, -zero * step)
        self.step.fill_(best[1])
        if self.offset is not None:
            self.offset.fill_(best[2])

    def extra_repr(self) -> str:
        return f"width={self.width}, codes={self.low}..{self.high}, offset={self.offset is not None}"
