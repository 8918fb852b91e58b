"""Analyzes one part of a chain with `torch.fx`: its layers, the BatchNorm of each layer, signs and shapes.

An operation that costs multiply-accumulates (MACs) but is not a convolution or linear layer that can be switched is
called opaque. It stays at full precision. Its MACs are counted by torch's own counter.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from usdn_nas.networks.kept import Kept
from usdn_nas.networks.tracing import Tracer
from usdn_nas.space.records import OPAQUE, LayerRecord

__all__ = ["PartGraph", "analyze", "is_layer", "meta_copy", "propagate"]

_NON_NEGATIVE = ("ReLU", "ReLU6", "Sigmoid", "Hardsigmoid", "Softmax", "relu", "relu_", "sigmoid", "hardsigmoid")
_ARITHMETIC = ("add", "add_", "iadd", "mul", "mul_", "imul")
_SIGN_KEEPING = (
    *("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Dropout", "Flatten", "Identity"),
    *("max_pool2d", "boolean_dispatch", "avg_pool2d", "adaptive_avg_pool2d", "flatten", "dropout", "getitem", "pad"),
    *("cat", "mean", "view", "reshape", "contiguous", "StochasticDepth", "permute", "transpose", "chunk", "split"),
    *("squeeze", "unsqueeze", "expand", "interpolate", *_ARITHMETIC),
)
_SHAPE_ONLY = (
    *("getitem", "getattr", "flatten", "Flatten", "view", "reshape", "contiguous", "size", "Identity", "pad"),
    *("permute", "transpose", "chunk", "split", "squeeze", "unsqueeze", "expand"),
)


@dataclass
class PartGraph:
    """A segment or head as a graph.

    Attributes:
        layers: Its convolutions, linear layers and opaque operations, in the order in which they run. Each
            ``LayerRecord.name`` starts with the prefix.
        norm_of: Path of a BatchNorm -> path of the layer that it is switched with. This is the layer that feeds it, or
            else the layer that it feeds, directly or through an activation.
        operators: Name -> number of calls, for operators that compute something but are not in ``layers``.
        outputs: The state (or logits) that it returns, as meta tensors with a batch of one.
        non_negative: For each of ``outputs``: whether it can never be negative.
    """

    layers: list[LayerRecord] = field(default_factory=list)
    norm_of: dict[str, str] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    outputs: tuple[Tensor, ...] = ()
    non_negative: tuple[bool, ...] = ()


def is_layer(module: object) -> bool:
    """Returns whether ``module`` is a convolution or linear layer that can be switched.

    It must have torch's own ``forward``, and its weight must be a plain parameter.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        own = type(module).forward in (nn.Conv2d.forward, nn.Linear.forward)
        return own and isinstance(module.weight, nn.Parameter) and not parametrize.is_parametrized(module)
    return False


def meta_copy(module: nn.Module) -> nn.Module:
    """Returns a copy on the meta device, which needs no memory for tensors. Floating-point tensors become float32."""
    memo: dict[int, object] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
        twin = torch.empty_like(tensor, device="meta", dtype=kind)
        memo[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin
    return copy.deepcopy(module, memo)


class _Propagate(fx.Interpreter):
    """Runs a graph and stores each node's value and multiply-accumulates in ``node.meta``."""

    def __init__(self, module: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(module)
        self.counter = counter

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        n.meta["value"] = value = super().run_node(n)
        n.meta["macs"] = (self.counter.get_total_flops() - before) // 2
        return value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().call_module(target, args, kwargs)
        except Exception:  # the code reads values, and meta tensors have none
            module = self.fetch_attr(target)
            if not isinstance(module, Kept):
                raise
            return _with_values(module, args, kwargs)


def _with_values(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Runs ``module`` on the CPU with random inputs and constant weights, and returns its outputs as meta tensors."""
    generator = torch.Generator().manual_seed(0)

    def valued(x: Any) -> Any:
        return torch.rand(x.shape, generator=generator, device="cpu").to(x.dtype) if isinstance(x, Tensor) else x

    with torch.device("cpu"), torch.no_grad():
        twin = copy.deepcopy(module).to_empty(device="cpu")
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.fill_(0.01)
        given, named = tree_map(valued, (args, keywords))
        out = twin(*given, **named)
    return tree_map(lambda x: x.to("meta") if isinstance(x, Tensor) else x, out)


def propagate(module: fx.GraphModule, *state: Tensor) -> None:
    """Runs a graph on the meta device. All nodes then have ``meta["value"]`` and ``meta["macs"]``."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.enable_grad():
        _Propagate(module.eval(), counter).run(*state)


def _graph_module(module: nn.Module) -> fx.GraphModule:
    """Returns a copy on the meta device as a graph. A module that already is a graph is not traced again."""
    twin = meta_copy(module).train()
    return twin if isinstance(twin, fx.GraphModule) else fx.GraphModule(twin, Tracer().trace(twin))


def analyze(module: nn.Module, prefix: str, state: Sequence[Tensor], non_negative: Sequence[bool]) -> PartGraph:
    """Traces ``module`` with `torch.fx` and propagates shapes and signs. Shapes are propagated on the meta device.

    Args:
        module: A segment or head. Its leaves are torch.nn modules or `Kept`.
        prefix: Put before the names of layers, followed by a dot.
        state: The arguments of the module, as meta tensors with a batch of one.
        non_negative: For each of ``state``: whether it can never be negative.
    """
    traced = _graph_module(module)
    propagate(traced, *state)
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
    value = node.meta["value"]
    return value.shape if isinstance(value, Tensor) else torch.Size()


def _keeps_sign(node: fx.Node, name: str) -> bool:
    """Returns whether ``node`` preserves non-negativity: non-negative inputs give a non-negative output."""
    if name not in _SIGN_KEEPING:
        return False
    given = (*node.args, *node.kwargs.values()) if name in _ARITHMETIC else ()
    if name == "pad":
        given = (node.args[3] if len(node.args) > 3 else node.kwargs.get("value"),)
    return not any(isinstance(value, int | float) and value < 0 for value in given)


def _visit(
    node: fx.Node, leaves: dict[str, nn.Module], prefix: str, part: PartGraph, signs: dict[fx.Node, bool]
) -> None:
    inputs = node.all_input_nodes
    leaf = leaves.get(str(node.target)) if node.op == "call_module" else None
    name = type(leaf).__name__ if leaf is not None else getattr(node.target, "__name__", str(node.target))
    signs[node] = name in _NON_NEGATIVE or (
        _keeps_sign(node, name) and bool(inputs) and all(signs.get(source, False) for source in inputs)
    )
    if isinstance(leaf, nn.Conv2d | nn.Linear) and is_layer(leaf):
        part.layers.append(_layer(node, leaf, prefix, signs[inputs[0]]))
        return
    if node.meta["macs"]:
        known = {layer.name for layer in part.layers}
        part.layers.append(_opaque(node, leaf, prefix, known))
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


def _opaque(node: fx.Node, leaf: nn.Module | None, prefix: str, known: set[str]) -> LayerRecord:
    tensors = leaf.parameters() if leaf is not None else [source.meta["value"] for source in node.all_input_nodes]
    weights = sum(t.numel() for t in tensors if isinstance(t, nn.Parameter))
    name = f"{prefix}.{node.name if leaf is None else node.target}"
    if name in known:  # the module is called more than once
        name = f"{prefix}.{node.name}"
    return LayerRecord(name, OPAQUE, node.meta["macs"], weights, reads="", signed=True, feature_count=0)


def _neighbour(norm: fx.Node, leaves: dict[str, nn.Module]) -> str | None:
    """Returns the path of the layer that a BatchNorm is switched with; None if there is none.

    This is the layer that feeds the BatchNorm, or else the layer that it feeds, directly or through one other node.
    """

    def layer(node: fx.Node) -> str | None:
        leaf = leaves.get(str(node.target)) if node.op == "call_module" else None
        return str(node.target) if is_layer(leaf) else None

    if (feeding := layer(norm.all_input_nodes[0])) is not None:
        return feeding
    fed = [reader for user in norm.users for reader in (user, *user.users)]
    return next((found for node in fed if (found := layer(node)) is not None), None)
