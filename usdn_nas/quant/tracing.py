"""A part of a supernet as a `torch.fx` graph, traced once for all its bits."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import StochasticDepth

from usdn_nas.networks.kept import Kept
from usdn_nas.quant.layers import SwitchableBatchNorm2d, SwitchableLayer

__all__ = ["call_of", "is_add", "is_nothing", "is_relu", "module_of", "trace"]

_LEAVES = (SwitchableLayer, SwitchableBatchNorm2d, StochasticDepth, Kept)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, StochasticDepth)
_RELU = (F.relu, F.relu_, torch.relu, torch.relu_)
_ADD = (operator.add, operator.iadd, torch.add)
_OUT_OF_PLACE: Mapping[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


class _Tracer(fx.Tracer):
    """Traces a module that is called with ``arity`` tensors, whatever its signature makes of them."""

    def __init__(self, arity: int) -> None:
        super().__init__()
        self.arity = arity

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        names = [f"state{i}" for i in range(self.arity)]
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in names)]


def trace(part: nn.Module, arity: int) -> fx.Graph | None:
    """The graph of ``part``, or None where it cannot be traced or changes a tensor that is used again.

    Args:
        part: A segment or head of a supernet, in evaluation mode.
        arity: Tensors in the state that it takes.
    """
    try:
        graph = copy.deepcopy(part.graph) if isinstance(part, fx.GraphModule) else _Tracer(arity).trace(part)
    except Exception:  # any code may run here, and whatever stops fx is a reason to run the part as it is
        return None
    changes = any(_in_place(node, part) and len(node.all_input_nodes[0].users) > 1 for node in graph.nodes)
    return None if changes else graph


def module_of(node: fx.Node, part: nn.Module) -> nn.Module | None:
    """The module that ``node`` calls, if it calls one."""
    return part.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_relu(node: fx.Node, part: nn.Module) -> bool:
    """Whether ``node`` is a ReLU, in any spelling."""
    if node.op == "call_module":
        return type(module_of(node, part)) is nn.ReLU
    return node.target in _RELU or (node.op == "call_method" and node.target in ("relu", "relu_"))


def is_add(node: fx.Node) -> bool:
    """Whether ``node`` is the sum of two values of the graph."""
    named = node.target in _ADD or (node.op == "call_method" and node.target in ("add", "add_"))
    return named and len(node.args) == 2 and not node.kwargs and all(isinstance(a, fx.Node) for a in node.args)


def is_nothing(node: fx.Node, part: nn.Module) -> bool:
    """Whether ``node`` passes its input on, in evaluation mode."""
    return isinstance(module_of(node, part), _NOTHING)


def call_of(node: fx.Node, part: nn.Module) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Function, arguments and keywords of ``node``, such that it changes none of its arguments."""
    args, keywords = tuple(node.args), dict(node.kwargs)
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target)), (part,), {}
    if (module := module_of(node, part)) is not None:
        if _in_place(node, part):
            module = copy.copy(module)
            setattr(module, "inplace", False)  # noqa: B010 - nn.Module declares its attributes as tensors or modules
        return module, args, keywords
    function = _method(str(node.target)) if node.op == "call_method" else node.target
    assert callable(function)
    if node.target in _OUT_OF_PLACE:
        return _OUT_OF_PLACE[node.target], args, keywords
    return (_on_a_copy(function) if _in_place(node, part) else function), args, keywords


def _in_place(node: fx.Node, part: nn.Module) -> bool:
    """Whether ``node`` may change its first argument."""
    if not node.all_input_nodes:
        return False
    if (module := module_of(node, part)) is not None:
        return bool(getattr(module, "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    named = name.endswith("_") and not name.endswith("__")
    return named or node.target in _OUT_OF_PLACE or "out" in node.kwargs or _asked_for(node)


def _asked_for(node: fx.Node) -> bool:
    """Whether a function is called with ``inplace``, by keyword or position."""
    try:
        arguments = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments  # type: ignore[arg-type]
    except (TypeError, ValueError):  # no signature: written in C++, and those are told by their names
        return False
    return bool(arguments.get("inplace", False))


def _method(name: str) -> Callable[..., Any]:
    return lambda x, *args, **keywords: getattr(x, name)(*args, **keywords)


def _on_a_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *args, **keywords: function(x.clone(), *args, **keywords)
