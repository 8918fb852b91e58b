"""Turns a whole model into one `torch.fx` graph that is valid in training and in evaluation, and its modules.

The model is traced in both modes. A tracer writes the current value of ``self.training`` into calls as a constant.
Arguments that differ between the two graphs are therefore made to follow the mode again. If tracing fails inside a
module, the module becomes a leaf and runs unchanged. Outputs other than the logits (auxiliary heads) are dropped.
"""

from __future__ import annotations

import inspect
import operator
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx, nn

from usdn_nas._util.errors import UserError
from usdn_nas.networks.graph import is_layer
from usdn_nas.networks.kept import ByMode, Kept
from usdn_nas.networks.tracing import Tracer, make_functional, name_of

__all__ = ["Captured", "capture", "owner_of"]

_ASSERTS = (torch._assert,)


@dataclass
class Captured:
    """A model as a graph.

    Attributes:
        graph: The graph. Its only output is the logits.
        targets: Target of a ``call_module`` or ``get_attr`` node -> module, parameter or constant.
        kept: Path of a module that runs unchanged -> the reason.
        dropped: Paths of modules with parameters that the logits do not depend on.
    """

    graph: fx.Graph
    targets: dict[str, Any]
    kept: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def owner_of(node: fx.Node) -> tuple[tuple[str, type], ...]:
    """Returns the modules whose ``forward`` contains the call of a node, without the model itself.

    Returns:
        (path, type) of each module, outermost first.
    """
    stack = node.meta.get("nn_module_stack") or {}
    return tuple((path, kind) for path, kind in stack.values() if path and path != node.target)


def capture(model: nn.Module, name: str) -> Captured:
    """Traces ``model``. Its training or evaluation mode is restored afterwards.

    Args:
        model: A model on any device that takes images (B, C, H, W).
        name: Name of the model in messages.

    Raises:
        UserError: The model cannot be traced, or it computes different things in training and in evaluation. The
            message says where and why.
    """
    kept: dict[str, str] = {}
    while True:
        training, evaluation = (_trace(model, kept, mode, name) for mode in (True, False))
        flags = _flags(training, evaluation)
        if not isinstance(flags, fx.Node):
            break
        where = next((path for path, _ in reversed(owner_of(flags)) if path not in kept), None)
        if where is None:
            raise UserError(
                f"computes something else in training than in evaluation, from '{flags.format_node()}' on",
                where=name,
                remedy="move what differs into a module of its own",
            )
        kept[where] = "computes something else in training than in evaluation"
    targets = _targets(training, model)
    _follow_mode(flags, targets)
    _keep(training, targets, kept)
    return Captured(training, targets, kept, tuple(_unused(model, training)))


def _trace(model: nn.Module, kept: dict[str, str], mode: bool, name: str) -> fx.Graph:
    """Returns the cleaned graph in one mode. Modules in which tracing fails are added to ``kept``."""
    modes = {module: module.training for module in model.modules()}
    model.train(mode)
    try:
        while True:
            tracer = Tracer(leaf_paths=kept)
            try:
                graph = _clean(tracer.trace(model, _defaults(model)))
                torn = make_functional(graph, lambda node: _called(model, node))
                if torn is None:
                    return _without_unused(graph)
                where = next((path for path, _ in reversed(owner_of(torn))), None)
                why = f"'{name_of(torn)}' changes a part of a tensor in place that is read again later"
            except Exception as error:  # the model's code may raise anything
                where, why = tracer.failed, _reason(error)
            if where is None or where in kept:
                raise UserError(
                    f"torch.fx cannot trace {type(model).__name__}.forward: {why}",
                    where=name,
                    remedy="move what depends on values into a module of its own, which is then kept as it is",
                )
            kept[where] = f"torch.fx cannot trace it ({why})"
    finally:
        for module, before in modes.items():
            module.training = before


def _reason(error: Exception) -> str:
    """Returns the message of an error, and the place in the model's own code where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame.filename and frame.filename != __file__]
    at = f" at {os.path.basename(own[-1].filename)}:{own[-1].lineno}" if own else ""
    return f"{str(error).strip().splitlines()[0] or type(error).__name__}{at}"


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Returns the default values of the arguments of ``forward``, except the first argument."""
    arguments = list(inspect.signature(model.forward).parameters.values())[1:]
    return {a.name: a.default for a in arguments if a.default is not inspect.Parameter.empty}


def _called(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """Returns the module that ``node`` calls; None if it calls none."""
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _clean(graph: fx.Graph) -> fx.Graph:
    """Removes assertions, and makes the logits the only output."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _ASSERTS:
            graph.erase_node(node)
    output = next(iter(reversed(graph.nodes)))
    logits = _logits(output.args[0])
    if not isinstance(logits, fx.Node):
        raise TypeError("it returns something else than a tensor of logits")
    output.args = (logits,)
    return graph


def _without_unused(graph: fx.Graph) -> fx.Graph:
    """Removes nodes that the output does not need. The graph must be functional."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    return graph


def _logits(returned: Any) -> Any:
    """Returns the logits from the value that a model returns.

    They are the tensor named "logits" (or "out" in a dict) if there is one, else the first tensor.
    """
    if isinstance(returned, dict):
        return next(
            (returned[key] for key in ("logits", "out") if key in returned), next(iter(returned.values()), None)
        )
    if isinstance(returned, fx.Node) and hasattr(returned.target, "_fields"):  # a named tuple
        fields = list(returned.target._fields)
        return returned.args[fields.index("logits") if "logits" in fields else 0]
    return returned[0] if isinstance(returned, tuple | list) and returned else returned


_Flags = dict[fx.Node, tuple[list[int], list[str]]]


def _flags(training: fx.Graph, evaluation: fx.Graph) -> _Flags | fx.Node:
    """Finds the arguments that are True in the training graph and False in the evaluation graph.

    Returns:
        Node of the training graph -> positions and names of these arguments. If the graphs differ in any other way, the
        first node of the training graph at which they differ.
    """
    number = {node: i for graph in (training, evaluation) for i, node in enumerate(graph.nodes)}
    flags: _Flags = {}
    for one, other in zip(training.nodes, evaluation.nodes, strict=False):
        if one.op != other.op or not _same_target(one, other) or len(one.args) != len(other.args):
            return cast(fx.Node, one)
        if one.kwargs.keys() != other.kwargs.keys():
            return cast(fx.Node, one)
        pairs = [*enumerate(zip(one.args, other.args, strict=True))]
        positions = [i for i, (a, b) in pairs if a is True and b is False]
        names = [k for k, a in one.kwargs.items() if a is True and other.kwargs[k] is False]
        rest = [(a, b) for i, (a, b) in pairs if i not in positions]
        rest += [(a, other.kwargs[k]) for k, a in one.kwargs.items() if k not in names]
        plain = [[fx.node.map_arg(x, lambda n: f"node {number[n]}") for x in side] for side in zip(*rest, strict=True)]
        if plain and str(plain[0]) != str(plain[1]):
            return cast(fx.Node, one)
        if positions or names:
            if one.op != "call_function":
                return cast(fx.Node, one)
            flags[one] = (positions, names)
    shorter, longer = sorted((training, evaluation), key=lambda graph: len(graph.nodes))
    if len(shorter.nodes) != len(longer.nodes):
        return cast(fx.Node, list(training.nodes)[len(shorter.nodes) - 1])
    return flags


def _same_target(one: fx.Node, other: fx.Node) -> bool:
    constants = all(str(node.target).startswith("_tensor_constant") for node in (one, other))
    return one.target == other.target or one.op in ("placeholder", "output") or constants


def _targets(graph: fx.Graph, model: nn.Module) -> dict[str, Any]:
    names = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    return {name: operator.attrgetter(name)(model) for name in sorted(names)}


def _follow_mode(flags: _Flags, targets: dict[str, Any]) -> None:
    for node, (positions, names) in flags.items():
        stack = owner_of(node)
        path = ".".join(filter(None, (stack[-1][0] if stack else "", f"{node.name}_by_mode")))
        targets[path] = ByMode(cast(Callable[..., Any], node.target), positions, names)
        node.op, node.target = "call_module", path


def _keep(graph: fx.Graph, targets: dict[str, Any], kept: dict[str, str]) -> None:
    """Wraps every module that must run unchanged in a `Kept`.

    These are the modules already in ``kept``, and layers and BatchNorms that are called more than once or whose
    parameters are also read elsewhere.
    """
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    wrapped: dict[int, Kept] = {}
    by_identity = Counter(id(targets[path]) for path in calls)
    for path, count in calls.items():
        module = targets[path]
        if path not in kept and (is_layer(module) or isinstance(module, nn.BatchNorm2d)):
            if count > 1 or by_identity[id(module)] > 1:
                kept[path] = "called more than once"
            elif path in read:
                kept[path] = "its parameters are also read elsewhere"
        if path in kept:
            targets[path] = wrapped.setdefault(id(module), Kept(module))


def _unused(model: nn.Module, graph: fx.Graph) -> Iterator[str]:
    """Yields the paths of modules that have parameters but are not used by the graph, outermost modules only."""
    used = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    prefixes = {path[:end] for path in used for end in range(len(path) + 1) if path[end : end + 1] in ("", ".")}
    found: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{known}.") for known in (*found, *used))
        if path and not inside and path not in prefixes and any(True for _ in module.parameters()):
            found.append(path)
    yield from found
