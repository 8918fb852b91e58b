"""Traces a part of a supernet into a `torch.fx` graph. One graph serves all bits."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import StochasticDepth

from usdn_nas.networks.tracing import Tracer, change_nothing, make_functional
from usdn_nas.quant.layers import SwitchableBatchNorm2d, SwitchableLayer

__all__ = ["call_of", "is_add", "is_nothing", "is_relu", "module_of", "trace"]

_LEAVES = (SwitchableLayer, SwitchableBatchNorm2d)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, StochasticDepth)
_RELU = (F.relu, F.relu_, torch.relu, torch.relu_)
_ADD = (operator.add, operator.iadd, torch.add)


def trace(part: nn.Module, arity: int) -> fx.Graph | None:
    """Returns the graph of ``part``. No node changes its inputs, unless it calls a module (see `call_of`).

    Args:
        part: A segment or head of a supernet, in evaluation mode.
        arity: Number of tensors in the state that the part reads.

    Returns:
        The graph; None if the part cannot be traced, or needs in-place changes that cannot be replaced.
    """
    try:
        graph = (
            copy.deepcopy(part.graph) if isinstance(part, fx.GraphModule) else Tracer(_LEAVES, arity=arity).trace(part)
        )
    except Exception:  # the part's code may raise anything; it is then not compiled
        return None
    if make_functional(graph, lambda node: module_of(node, part)) is not None:
        return None
    for node in list(graph.nodes):
        if node.op != "call_module":  # modules belong to the supernet; `call_of` copies those that work in place
            change_nothing(node, None)
    return graph


def module_of(node: fx.Node, part: nn.Module) -> nn.Module | None:
    """Returns the module that ``node`` calls; None if it calls none."""
    return part.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_relu(node: fx.Node, part: nn.Module) -> bool:
    """Returns whether ``node`` is a ReLU: as a module, a function or a method."""
    if node.op == "call_module":
        return type(module_of(node, part)) is nn.ReLU
    return node.target in _RELU or (node.op == "call_method" and node.target in ("relu", "relu_"))


def is_add(node: fx.Node) -> bool:
    """Returns whether ``node`` is the sum of two values of the graph."""
    named = node.target in _ADD or (node.op == "call_method" and node.target in ("add", "add_"))
    return named and len(node.args) == 2 and not node.kwargs and all(isinstance(a, fx.Node) for a in node.args)


def is_nothing(node: fx.Node, part: nn.Module) -> bool:
    """Returns whether ``node`` returns its input unchanged in evaluation mode."""
    return isinstance(module_of(node, part), _NOTHING)


def call_of(node: fx.Node, part: nn.Module) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Returns function, arguments and keywords of a call that computes ``node`` without changing its arguments."""
    args, keywords = tuple(node.args), dict(node.kwargs)
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target)), (part,), {}
    if (module := module_of(node, part)) is not None:
        if getattr(module, "inplace", False):
            module = copy.copy(module)
            setattr(module, "inplace", False)  # noqa: B010 - nn.Module declares its attributes as tensors or modules
        return module, args, keywords
    function = _method(str(node.target)) if node.op == "call_method" else node.target
    assert callable(function)
    return function, args, keywords


def _method(name: str) -> Callable[..., Any]:
    return lambda x, *args, **keywords: getattr(x, name)(*args, **keywords)
