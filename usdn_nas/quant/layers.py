"""Quantized convolutions and linear layers: switchable ones for the supernet, fixed ones for standalone networks.

A layer quantizes its own input and its own weights. A BatchNorm is switched together with the layer that it belongs to.
(W, A) stands for weight bits and activation bits; 32 bits mean full precision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from usdn_nas.quant.quantizers import LSQQuantizer
from usdn_nas.space.architecture import Bits

__all__ = [
    "FULL_PRECISION",
    "QuantConv2d",
    "QuantLinear",
    "SwitchableBatchNorm2d",
    "SwitchableLayer",
    "SwitchableQuantizer",
]

FULL_PRECISION: Bits = (32, 32)


class SwitchableQuantizer(nn.Module):
    """Holds one `LSQQuantizer` for each bit-width. At 32 bits the tensor passes unchanged."""

    def __init__(self, widths: Iterable[int], *, signed: bool, offset: bool, count: int) -> None:
        super().__init__()
        self.steps = nn.ModuleDict(
            {str(w): LSQQuantizer(w, signed=signed, offset=offset, count=count) for w in sorted(set(widths)) if w < 32}
        )

    def at(self, width: int) -> nn.Module:
        """Returns the quantizer for ``width`` bits; an identity for 32 bits."""
        return nn.Identity() if width == 32 else self.steps[str(width)]

    def widths(self) -> list[LSQQuantizer]:
        """Returns the quantizers of all bit-widths."""
        return [cast(LSQQuantizer, step) for step in self.steps.values()]

    def forward(self, x: Tensor, width: int) -> Tensor:
        return x if width == 32 else self.steps[str(width)](x)


class SwitchableLayer(nn.Module):
    """A convolution or linear layer whose (W, A) is switched by setting ``bits``.

    Args:
        layer: The full-precision layer. Its parameters are used, not copied.
        choices: The (W, A) pairs that the layer can be switched to.
        input_quantizer: Quantizer of its input. Layers of the same group that read the same tensor may share it.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, choices: Iterable[Bits], input_quantizer: SwitchableQuantizer
    ) -> None:
        super().__init__()
        self.layer = layer
        widths = {w for w, _ in choices}
        self.weight_quantizer = SwitchableQuantizer(widths, signed=True, offset=False, count=layer.weight.numel())
        self.input_quantizer = input_quantizer
        self.bits: Bits = FULL_PRECISION
        self._quantized: dict[int, tuple[int, int, Tensor]] = {}

    def quantized_weight(self) -> Tensor:
        """Returns the weights at the current W. In evaluation mode they are cached until a parameter changes."""
        width = self.bits[0]
        if self.training or width == 32:
            return self.weight_quantizer(self.layer.weight, width)
        quantizer = self.weight_quantizer.at(width)
        key = (self.layer.weight._version, quantizer.step._version)
        if self._quantized.get(width, (None, None))[:2] != key:
            # A tensor made in inference mode could not be used in a later pass that records gradients.
            with torch.inference_mode(False), torch.no_grad():
                self._quantized[width] = (*key, quantizer(self.layer.weight))
        return self._quantized[width][2]

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> SwitchableLayer:
        self._quantized.clear()  # a new device or type does not change a parameter's version
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_quantizer(x, self.bits[1])
        weight = self.quantized_weight()
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


class SwitchableBatchNorm2d(nn.Module):
    """Holds one BatchNorm for each (W, A) of the layer that it belongs to, and one for full precision."""

    def __init__(self, norm: nn.BatchNorm2d, choices: Iterable[Bits]) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({self.key(bits): _copy(norm) for bits in {*choices, FULL_PRECISION}})
        self.bits: Bits = FULL_PRECISION

    @staticmethod
    def key(bits: Bits) -> str:
        """Returns the name of the copy for (W, A), such as ``"w4a4"``."""
        return f"w{bits[0]}a{bits[1]}"

    def at(self, bits: Bits) -> nn.BatchNorm2d:
        """Returns the copy for (W, A)."""
        norm = self.norms[self.key(bits)]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[self.key(self.bits)](x)


def _copy(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    return copy.deepcopy(norm)


def _take_parameters(layer: nn.Module, source: nn.Module) -> None:
    """Gives ``layer`` copies of the parameters of ``source``, on the same device.

    ``layer`` itself is on the meta device, so no other memory is used and nothing is initialized at random.
    """
    layer.load_state_dict({name: value.clone() for name, value in source.state_dict().items()}, assign=True)
    layer.train(source.training)


class QuantConv2d(nn.Conv2d):
    """A convolution at fixed bit-widths: ``conv(input_quantizer(x), weight_quantizer(weight)) + bias``."""

    def __init__(self, source: nn.Conv2d, weight_quantizer: nn.Module, input_quantizer: nn.Module) -> None:
        super().__init__(
            source.in_channels,
            source.out_channels,
            source.kernel_size,  # type: ignore[arg-type]
            source.stride,  # type: ignore[arg-type]
            source.padding,  # type: ignore[arg-type]
            source.dilation,  # type: ignore[arg-type]
            source.groups,
            source.bias is not None,
            source.padding_mode,
            device="meta",
        )
        _take_parameters(self, source)
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)


class QuantLinear(nn.Linear):
    """A linear layer at fixed bit-widths: ``linear(input_quantizer(x), weight_quantizer(weight)) + bias``."""

    def __init__(self, source: nn.Linear, weight_quantizer: nn.Module, input_quantizer: nn.Module) -> None:
        super().__init__(source.in_features, source.out_features, source.bias is not None, device="meta")
        _take_parameters(self, source)
        self.weight_quantizer = weight_quantizer
        self.input_quantizer = input_quantizer

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.input_quantizer(x), self.weight_quantizer(self.weight), self.bias)
