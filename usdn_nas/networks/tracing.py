"""The one `torch.fx` tracer of the package, and the one table of operations that change their input in place.

Here a graph is called *functional* if every reader of a node gets the value that the node computed. Code with in-place
operations breaks this: after ``x.relu_()`` the name ``x`` means the changed tensor, but its node in the graph still
stands for the earlier value. `make_functional` redirects later readers to the node that made the change. After that,
any in-place operation can be replaced by its out-of-place form, and all results stay the same.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import fx, nn
from torchvision.ops import StochasticDepth

from usdn_nas.networks.kept import ByMode, Kept

__all__ = [
    "OUT_OF_PLACE",
    "Tracer",
    "change_nothing",
    "changed_input",
    "make_functional",
    "memory_of",
    "name_of",
    "spare_inputs",
]

OUT_OF_PLACE: Mapping[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
    operator.ilshift: operator.lshift,
    operator.irshift: operator.rshift,
    operator.imatmul: operator.matmul,
}
"""Python's in-place operators, each with the operator that computes the same result in new memory."""

_VIEWS = frozenset(
    (
        *("getitem", "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "contiguous"),
        *(
            "permute",
            "transpose",
            "swapaxes",
            "swapdims",
            "movedim",
            "moveaxis",
            "t",
            "adjoint",
            "squeeze",
            "unsqueeze",
        ),
        *("expand", "expand_as", "broadcast_to", "narrow", "select", "unbind", "diagonal", "unfold", "as_strided"),
        *("chunk", "split", "tensor_split", "hsplit", "vsplit", "dsplit", "split_with_sizes", "detach", "to", "float"),
        *("double", "half", "type", "type_as", "cpu", "cuda", "dropout", "dropout1d", "dropout2d", "stochastic_depth"),
        *("real", "imag", "view_as_real", "view_as_complex", "positive"),
    )
)
"""Functions and methods whose result may share the memory of their input."""

_VIEW_ATTRIBUTES = ("T", "H", "mT", "mH", "data", "real", "imag")

_VIEW_MODULES = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(StochasticDepth, Kept),
)
"""Modules whose result may share the memory of their input; dropout returns its input in evaluation mode."""


class Tracer(fx.Tracer):
    """Traces a module. Calls of torch's own modules are leaves: they become nodes, and tracing does not enter them.

    Args:
        leaf_types: Further types of modules that are leaves.
        leaf_paths: Paths of modules that are leaves.
        arity: Number of tensors that the module is called with. It overrides the signature; None: use the signature.

    Attributes:
        failed: Path of the innermost module in which tracing failed; None if it did not fail in a module.
    """

    def __init__(
        self, leaf_types: tuple[type, ...] = (), leaf_paths: Collection[str] = (), arity: int | None = None
    ) -> None:
        super().__init__()
        self.leaf_types = (StochasticDepth, Kept, *leaf_types)
        self.leaf_paths = leaf_paths
        self.arity = arity
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, self.leaf_types) or module_qualified_name in self.leaf_paths
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        if self.arity is None:
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        names = [f"state{i}" for i in range(self.arity)]
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in names)]


def changed_input(node: fx.Node, module: nn.Module | None) -> fx.Node | None:
    """Returns the node whose value ``node`` may change in place; None if it changes nothing.

    Args:
        node: A node of a graph.
        module: The module that it calls; None if it calls none.
    """
    if not node.op.startswith("call"):
        return None
    if isinstance(out := node.kwargs.get("out"), fx.Node):
        return out
    if not node.all_input_nodes:
        return None
    if node.op == "call_module":
        changes = bool(getattr(module, "inplace", False))
    else:
        name = name_of(node)
        changes = (name.endswith("_") and not name.endswith("__")) or node.target in OUT_OF_PLACE
    return node.all_input_nodes[0] if changes or _flag(node, module) is not None else None


def make_functional(graph: fx.Graph, module_of: Callable[[fx.Node], nn.Module | None]) -> fx.Node | None:
    """Makes every node that runs after an in-place change read the changed value.

    Args:
        graph: The graph to change.
        module_of: Returns the module that a node calls; None if it calls none.

    Returns:
        None if the graph is functional now. Otherwise the first node with an in-place change that later nodes read
        through another view, as after ``x[:, 1:].relu_()``. A functional graph cannot express such a change.
    """
    memory = memory_of(graph, module_of)
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        source = changed_input(node, module_of(node))
        if source is None:
            continue
        sharing = (other for other in graph.nodes if memory[other] is memory[source] and other not in (source, node))
        readers = (user for other in sharing if order[other] < order[node] for user in other.users)
        if any(order[reader] > order[node] and not _reads_no_value(reader) for reader in readers):
            return node
        later = {user for user in source.users if order[user] > order[node]}
        source.replace_all_uses_with(node, delete_user_cb=later.__contains__)
    return None


def memory_of(graph: fx.Graph, module_of: Callable[[fx.Node], nn.Module | None]) -> dict[fx.Node, fx.Node]:
    """Returns, for each node, the node that owns the memory of its value.

    This is the node itself, unless its value may be a view of another node's value.
    """
    owner: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        source = changed_input(node, module_of(node))
        if source is None and node.all_input_nodes and _is_view(node, module_of(node)):
            source = node.all_input_nodes[0]
        owner[node] = node if source is None else owner[source]
    return owner


def _reads_no_value(node: fx.Node) -> bool:
    """Returns whether ``node`` reads only a shape, a type or another attribute that is independent of values."""
    return name_of(node) in ("size", "dim", "numel") or (node.target is getattr and not _is_view(node, None))


def _is_view(node: fx.Node, module: nn.Module | None) -> bool:
    if node.op == "call_module":
        return isinstance(module, _VIEW_MODULES)
    if node.target is getattr:
        return node.args[1] in _VIEW_ATTRIBUTES
    return node.op.startswith("call") and name_of(node) in _VIEWS


def spare_inputs(graph: fx.Graph, module_of: Callable[[fx.Node], nn.Module | None]) -> None:
    """Makes a functional graph leave its input tensors unchanged, because they may have other readers.

    A `Kept` module may change its inputs in place, so it gets clones of the graph's inputs.
    """
    memory = memory_of(graph, module_of)
    for node in list(graph.nodes):
        module = module_of(node)
        kept = isinstance(module, Kept) and not isinstance(module, ByMode)
        for source in node.all_input_nodes if kept else filter(None, [changed_input(node, module)]):
            if memory[source].op == "placeholder":
                _clone(node, source) if kept else change_nothing(node, module)


def change_nothing(node: fx.Node, module: nn.Module | None) -> None:
    """Makes a node of a functional graph leave its input unchanged. The result is the same value in new memory.

    In-place operators, and functions with an argument ``inplace`` or ``out``, are called in their out-of-place form.
    The attribute ``inplace`` of a module is set to False permanently. All other operations work on a clone.
    """
    source = changed_input(node, module)
    if source is None:
        return
    if (flag := _flag(node, module)) is not None:
        node.update_kwarg(flag, False) if isinstance(flag, str) else node.update_arg(flag, False)
    elif node.op == "call_module":
        setattr(module, "inplace", False)  # noqa: B010 - nn.Module declares its attributes as tensors or modules
    elif node.target in OUT_OF_PLACE:
        node.target = OUT_OF_PLACE[node.target]
    elif "out" in node.kwargs:
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "out"}
    else:
        _clone(node, source)


def _clone(node: fx.Node, source: fx.Node) -> None:
    with node.graph.inserting_before(node):
        node.replace_input_with(source, node.graph.call_method("clone", (source,)))


def name_of(node: fx.Node) -> str:
    """Returns the name of the function or method that ``node`` calls."""
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", ""))


def _flag(node: fx.Node, module: nn.Module | None) -> int | str | None:
    """Returns the position or name of an argument ``inplace`` that is true in the call of ``node``; None otherwise."""
    function = module.function if isinstance(module, ByMode) else node.target
    if node.op == "call_method" or not callable(function):
        return None
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # functions written in C++; their names show whether they work in place
        return None
    if "inplace" not in parameters:
        return None
    if "inplace" in node.kwargs:
        return "inplace" if node.kwargs["inplace"] else None
    position = list(parameters).index("inplace")
    return position if len(node.args) > position and node.args[position] else None
