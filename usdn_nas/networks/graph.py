"""What `torch.fx` says of one part of a chain: its layers, which BatchNorm a layer feeds, signs, shapes."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from usdn_nas.records import LayerRecord

__all__ = ["PartGraph", "analyze"]

_NON_NEGATIVE = ("ReLU", "ReLU6", "Sigmoid", "Hardsigmoid", "Softmax", "relu", "relu_", "sigmoid", "hardsigmoid")
_SIGN_KEEPING = (
    *("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Dropout", "Flatten", "Identity"),
    *("max_pool2d", "boolean_dispatch", "avg_pool2d", "adaptive_avg_pool2d", "flatten", "dropout", "getitem", "pad"),
    *("add", "iadd", "mul", "cat", "mean", "view", "reshape", "contiguous"),
)
_SHAPE_ONLY = ("getitem", "getattr", "flatten", "Flatten", "view", "reshape", "contiguous", "size", "Identity", "pad")


@dataclass
class PartGraph:
    """A segment or head as a graph.

    Attributes:
        layers: Its convolutions and linear layers, in the order they run. ``LayerRecord.name`` carries the prefix.
        norm_of: Path of a BatchNorm -> path of the layer whose (W, A) it follows: the one that feeds it, else the
            one it feeds through an activation.
        operators: Name -> calls, of what is neither a convolution nor a linear layer and computes something.
        outputs: The state (or logits) it returns, as meta tensors with a batch of one.
        non_negative: For each of ``outputs``: whether it can never be negative.
    """

    layers: list[LayerRecord] = field(default_factory=list)
    norm_of: dict[str, str] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    outputs: tuple[Tensor, ...] = ()
    non_negative: tuple[bool, ...] = ()


def analyze(module: nn.Module, prefix: str, state: Sequence[Tensor], non_negative: Sequence[bool]) -> PartGraph:
    """Traces ``module`` with `torch.fx` and propagates shapes (on the meta device) and signs.

    Args:
        module: A segment or head; its leaves are torch.nn modules.
        prefix: Goes before the layers' names, with a dot.
        state: Meta tensors with a batch of one, its arguments.
        non_negative: For each of ``state``: whether it can never be negative.
    """
    traced = fx.symbolic_trace(copy.deepcopy(module).train().to("meta", torch.float32))
    ShapeProp(traced.eval()).propagate(*state)
    part = PartGraph()
    signs: dict[fx.Node, bool] = {}
    placeholders = iter(zip(state, non_negative, strict=True))
    leaves = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            _, signs[node] = next(placeholders)
        elif node.op == "output":
            outputs = node.args[0] if isinstance(node.args[0], tuple) else (node.args[0],)
            part.outputs = tuple(torch.empty(_shape(out), device="meta") for out in outputs)
            part.non_negative = tuple(signs[out] for out in outputs)
        else:
            _visit(node, leaves, prefix, part, signs)
    return part


def _shape(node: fx.Node) -> torch.Size:
    shape: torch.Size = node.meta["tensor_meta"].shape
    return shape


def _visit(
    node: fx.Node, leaves: dict[str, nn.Module], prefix: str, part: PartGraph, signs: dict[fx.Node, bool]
) -> None:
    inputs = node.all_input_nodes
    leaf = leaves.get(str(node.target)) if node.op == "call_module" else None
    name = type(leaf).__name__ if leaf is not None else getattr(node.target, "__name__", str(node.target))
    signs[node] = name in _NON_NEGATIVE or (
        name in _SIGN_KEEPING and bool(inputs) and all(signs.get(source, False) for source in inputs)
    )
    if isinstance(leaf, nn.Conv2d | nn.Linear):
        part.layers.append(_layer(node, leaf, prefix, signs[inputs[0]]))
        return
    if isinstance(leaf, nn.BatchNorm2d) and (layer := _neighbour(node, leaves)) is not None:
        part.norm_of[str(node.target)] = layer
    if name not in _SHAPE_ONLY and node.op != "get_attr":
        part.operators[name] += 1


def _layer(node: fx.Node, leaf: nn.Conv2d | nn.Linear, prefix: str, non_negative: bool) -> LayerRecord:
    source, out = node.all_input_nodes[0], _shape(node)
    per_output = math.prod(leaf.weight.shape[1:])
    return LayerRecord(
        name=f"{prefix}.{node.target}",
        kind="conv" if isinstance(leaf, nn.Conv2d) else "linear",
        macs=math.prod(out[1:]) * per_output,
        weights=leaf.weight.numel(),
        reads=f"{prefix}.{source.name}",
        signed=not non_negative,
        feature_count=math.prod(_shape(source)[1:]),
    )


def _neighbour(norm: fx.Node, leaves: dict[str, nn.Module]) -> str | None:
    """The layer that feeds a BatchNorm, else the one that it feeds through an activation."""

    def layer(node: fx.Node) -> str | None:
        leaf = leaves.get(str(node.target)) if node.op == "call_module" else None
        return str(node.target) if isinstance(leaf, nn.Conv2d | nn.Linear) else None

    if (feeding := layer(norm.all_input_nodes[0])) is not None:
        return feeding
    fed = [reader for user in norm.users for reader in (user, *user.users)]
    return next((found for node in fed if (found := layer(node)) is not None), None)
