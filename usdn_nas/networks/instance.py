"""Search spaces over a model that is passed in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from usdn_nas._util.trust import INSTANCE
from usdn_nas._util.validation import validate
from usdn_nas.networks.build import build_network, chain_record
from usdn_nas.networks.own import classes_of_model
from usdn_nas.space.search_space import SearchSpace, SpaceSpec

__all__ = ["search_space"]

Pairs = Sequence[int] | Sequence[tuple[int, int]]


def search_space(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    bits: Pairs | None = None,
    weights: Sequence[int] | None = None,
    activations: Sequence[int] | None = None,
    granularity: Literal["block", "layer", "network"] = "block",
    fixed: Mapping[str, tuple[int, int]] | None = None,
    exits: Literal["every-block"] | Sequence[str] | Sequence[float] = "every-block",
    head: Literal["linear", "sdn", "conv", "msdnet", "conv3"] = "conv3",
    head_width: int | None = None,
    head_bits: tuple[int, int] | Literal["search"] = (4, 4),
    head_linear_bits: tuple[int, int] = (8, 8),
    segments: int | None = None,
) -> SearchSpace:
    """Returns the search space of ``model``: the choices of bits for every group of layers, and the candidate exits.

    The model is traced with `torch.fx` and cut into segments at places where only a single tensor passes on. The model
    is not changed. The result holds only names and numbers, not the model.

    Args:
        model: Any image classifier, trained or not; it takes images (B, C, H, W) and returns logits (B, classes).
        input_shape: (C, H, W) of an image.
        bits: Bit-widths b for weights and inputs alike, or pairs (weight bits, activation bits). Each is 2 to 16, or
            32 for full precision.
        weights: Bit-widths of weights, chosen independently of ``activations``. Give both, or ``bits``.
        activations: Bit-widths of layers' inputs.
        granularity: Which layers share one choice: the layers of a block, only the layer itself, or the whole network.
        fixed: Name of a layer, or a pattern of names such as ``"layer4.*"`` -> its (weight bits, activation bits). The
            first and the last layer have (8, 8) unless they are given here.
        exits: Where samples may exit: after every block, after the named segments, or after the segments at which the
            given shares of the network's multiply-accumulates are spent.
        head: Layers of the internal classifier at each exit: ``"linear"`` (pooling and a linear layer), ``"conv"`` or
            ``"conv3"`` (the same after one or three convolutions), ``"sdn"`` (Kaya et al., 2019), or ``"msdnet"``
            (Huang et al., 2018).
        head_width: Channels of a head's convolutions; None: the head's own default.
        head_bits: Bits of the heads' convolutions, or "search".
        head_linear_bits: Bits of the heads' linear layers.
        segments: Approximate number of segments of equal cost; None: one for each block.

    Raises:
        UserError: The model cannot be traced or cut, or an argument is out of range; the message names it.
    """
    shape = tuple(input_shape)
    name = f"{INSTANCE}{type(model).__name__}"
    choices = None if bits is None else [(b, b) if isinstance(b, int) else tuple(b) for b in bits]
    payload: dict[str, Any] = {
        "network": {
            "name": name,
            "input_shape": shape,
            "num_classes": classes_of_model(model, name, shape),  # type: ignore[arg-type]
            "segments": segments,
        },
        "bits": {
            "granularity": granularity,
            "choices": choices,
            "weights": weights,
            "activations": activations,
            "fixed": dict(fixed or {}),
        },
        "exits": {
            "candidates": exits if isinstance(exits, str) else tuple(exits),
            "head": head,
            "head_width": head_width,
            "head_bits": head_bits,
            "head_linear_bits": head_linear_bits,
        },
    }
    spec = validate(SpaceSpec, payload, where="search_space")
    return SearchSpace(spec, chain_record(build_network(spec, model), spec.network))
