"""Uniform quantizers with learned step sizes: LSQ (Esser et al., 2020) and LSQ+ (Bhalgat et al., 2020)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LSQQuantizer"]


_HAIR = 1e-4


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products; 4-d tensors that are channels-last are read in that order, without a copy."""
    if a.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


class _Quantize(torch.autograd.Function):
    """clamp(round(x / s), n, p) * s with LSQ's gradients; n and p shift with the zero-point where there is one.

    d/dx: 1 inside [n, p], else 0. d/ds: round(x/s) - x/s inside, the unshifted bound outside (LSQ, Eq. 3; LSQ+, Eq. 5:
    the zero-point -offset / s moves with s). d/d offset: 0 inside, 1 outside (LSQ+, Eq. 6). The last two are multiplied
    by ``gradient_scale``.
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
        # One fused pass; hardtanh's interval is open, so the bounds, which are whole numbers, move out by a hair.
        inside = torch.ops.aten.hardtanh_backward(gradient, scaled, low - _HAIR, high + _HAIR)
        of_step = _dot(gradient, quantized) / step - _dot(inside, scaled)
        if ctx.zero is None:
            return inside, of_step * ctx.gradient_scale, None, None, None, None, None
        outside = gradient.sum() - inside.sum()
        of_step = of_step + ctx.zero * outside
        return inside, of_step * ctx.gradient_scale, outside * ctx.gradient_scale, None, None, None, None


class LSQQuantizer(nn.Module):
    """A quantizer of one tensor at one bit-width.

    Values are multiples of ``|step|``: signed codes -2^(b-1) .. 2^(b-1)-1 for weights, unsigned codes 0 .. 2^b-1 for
    inputs that cannot be negative. Where they can (``offset=True``), 2^b unsigned codes are shifted by a learned
    offset. Unlike LSQ+, the offset is rounded to a whole number of steps and kept where 0 has a code, so that zero
    padding is exact.

    Args:
        width: Bits, 2 to 16.
        signed: Signed codes (weights); not together with ``offset``.
        offset: Learn an offset.
        count: N of LSQ's gradient scale 1 / sqrt(N Q_p): the weights of a weight tensor, the features of one sample
            of an input.
    """

    never_zero = ("step",)
    """Values are divided by it; `usdn_nas.networks.values` refuses a file in which it is zero."""

    def __init__(self, width: int, *, signed: bool, offset: bool, count: int) -> None:
        super().__init__()
        self.width = width
        self.low = -(2 ** (width - 1)) if signed else 0
        self.high = 2 ** (width - 1) - 1 if signed else 2**width - 1
        self.gradient_scale = 1 / math.sqrt(count * self.high)
        self.step = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(())) if offset else None

    def zero_point(self) -> int:
        """The code of 0: the offset in whole steps, kept among the codes; 0 without an offset."""
        if self.offset is None:
            return 0
        zero = round(-self.offset.item() / max(abs(self.step.item()), 1e-12))
        return min(max(zero, self.low), self.high)

    def bounds(self) -> tuple[int, int]:
        """Lowest and highest code, the zero-point taken off."""
        zero = self.zero_point()
        return self.low - zero, self.high - zero

    def codes(self, x: Tensor) -> Tensor:
        """Codes of ``x``, the zero-point taken off: whole numbers that stand for code x ``|step|``; no gradient."""
        return (x / self.step.abs()).round_().clamp_(*self.bounds())

    def forward(self, x: Tensor) -> Tensor:
        """``x`` on the grid, same shape; differentiable as LSQ has it."""
        step = self.step.abs()
        if not torch.is_grad_enabled():
            return self.codes(x).mul_(step)
        return _Quantize.apply(x, step, self.offset, self.zero_point(), self.low, self.high, self.gradient_scale)

    @torch.no_grad()
    def initialize(self, x: Tensor, candidates: int = 40) -> None:
        """Sets step (and offset) to the pair that quantizes ``x`` with the least squared error.

        Tried are ``candidates`` ranges, from the whole range of ``x`` down to a fortieth of it. (LSQ's own start,
        2 mean|x| / sqrt(Q_p), clips far too much at 5 bits and above.)
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
