"""Cuts the graph of a whole model into a chain of segments.

A boundary is allowed where a single tensor crosses. It is not allowed between a layer, its BatchNorm and its
activation, or inside a block. A block is a module whose class joins branches by a sum, a product or a concatenation;
residual blocks are an example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, fx, nn

from usdn_nas._util.errors import UserError
from usdn_nas.networks.capture import Captured, owner_of
from usdn_nas.networks.graph import is_layer
from usdn_nas.networks.tracing import spare_inputs

__all__ = ["Piece", "cut", "module_of_piece", "places"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ACTIVATIONS = ("relu", "relu_", "relu6", "silu", "gelu", "hardswish", "sigmoid", "hardsigmoid", "leaky_relu", "tanh")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LARGEST_BLOCK = 0.5
"""A module with more than this share of all multiply-accumulates (MACs) is not a block."""


@dataclass(frozen=True)
class Piece:
    """A contiguous part of the graph: one segment, or the classifier.

    Attributes:
        name: ``"stem"``, ``"final"``, the path of its module, or ``"<first>-<last>"``.
        nodes: Its nodes in order, without placeholders and constants.
        source: The node whose tensor it reads.
    """

    name: str
    nodes: tuple[fx.Node, ...]
    source: fx.Node

    @property
    def result(self) -> fx.Node:
        """The node whose tensor it returns."""
        return self.nodes[-1]

    @property
    def macs(self) -> int:
        """MACs for one sample."""
        return sum(node.meta["macs"] for node in self.nodes)


@dataclass
class _Line:
    """The calls of a graph in order, with methods that tell the kind of a call.

    Attributes:
        nodes: The calls.
        modules: Target of a ``call_module`` or ``get_attr`` node -> module, parameter or constant.
        total: MACs of all calls, at least 1.
    """

    nodes: list[fx.Node]
    modules: dict[str, Any]
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = max(sum(node.meta["macs"] for node in self.nodes), 1)

    def module(self, node: fx.Node) -> Any:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def layer(self, node: fx.Node) -> bool:
        return is_layer(self.module(node))

    def norm(self, node: fx.Node) -> bool:
        return isinstance(self.module(node), _NORMS)

    def activation(self, node: fx.Node) -> bool:
        kind = type(self.module(node))
        module = kind.__module__ == "torch.nn.modules.activation" and kind is not nn.MultiheadAttention
        return module or str(getattr(node.target, "__name__", node.target)) in _ACTIVATIONS


def _operands(node: fx.Node) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def places(line: Sequence[fx.Node], captured: Captured) -> list[int]:
    """Returns the indices of nodes after which a boundary is allowed, as far as blocks are not considered.

    There a single floating-point tensor crosses, and no layer is separated from its norm or its activation.
    """
    row = _Line(list(line), captured.targets)
    order = {node: i for i, node in enumerate(row.nodes)}
    images = next(node for node in captured.graph.nodes if node.op == "placeholder")
    last = {node: max(order.get(user, len(row.nodes)) for user in node.users) for node in (images, *row.nodes)}
    found, alive = [], {images}
    for i, node in enumerate(row.nodes):
        alive = {x for x in (*alive, node) if last[x] > i}
        value = node.meta["value"]
        if alive == {node} and isinstance(value, Tensor) and value.is_floating_point() and not _torn(row, node):
            found.append(i)
    return found


def _torn(row: _Line, node: fx.Node) -> bool:
    """Returns whether a boundary after ``node`` would separate a layer, its norm and its activation."""
    after_layer = row.layer(node) or row.norm(node)
    if after_layer and any(row.norm(user) or row.activation(user) for user in node.users):
        return True
    before = next(iter(_operands(node)), None)
    started = row.norm(node) or (row.activation(node) and before is not None and row.norm(before))
    norm = node if row.norm(node) else before
    first = started and norm is not None and not any(row.layer(source) for source in _operands(norm))
    return first and any(row.layer(user) for user in node.users)


def _blocks(row: _Line) -> set[str]:
    """Returns the paths of the modules that are blocks."""
    macs: dict[str, int] = {}
    joining: set[type] = set()
    kinds: dict[str, type] = {}
    for node in row.nodes:
        owners = owner_of(node)
        for path, kind in owners:
            macs[path] = macs.get(path, 0) + node.meta["macs"]
            kinds[path] = kind
        own = owners[-1][1] if owners else None
        if own is not None and node.op != "call_module" and len(set(_operands(node))) > 1:
            joining.add(own)
    return {
        path
        for path, kind in kinds.items()
        if kind in joining and not issubclass(kind, _CONTAINERS) and macs[path] <= _LARGEST_BLOCK * row.total
    }


def _common(one: fx.Node, other: fx.Node) -> list[str]:
    """Returns the paths of the modules that contain both nodes, outermost first."""
    theirs = {path for path, _ in owner_of(other)}
    return [path for path, _ in owner_of(one) if path in theirs]


def _boundaries(row: _Line, legal: list[int]) -> list[int]:
    """Returns at most one boundary between each layer and the next.

    It is the boundary that lies inside the fewest modules; among equals, the last. A boundary whose tensor has lost its
    height and width by pooling or flattening is used only if there is no other.
    """
    blocks = _blocks(row)
    allowed = [i for i in legal if i + 1 < len(row.nodes) and not blocks & {*_common(row.nodes[i], row.nodes[i + 1])}]
    layers = [i for i, node in enumerate(row.nodes) if row.layer(node)]
    found = []
    for first, following in pairwise(layers):
        between = [i for i in allowed if first <= i < following]
        if between:
            found.append(min(between, key=lambda i: (_placeless(row, i), len(_common(*row.nodes[i : i + 2])), -i)))
    return found


def _placeless(row: _Line, i: int) -> bool:
    shape = row.nodes[i].meta["value"].shape
    return len(shape) < 3 or shape[2:].numel() == 1


def _equal(row: _Line, boundaries: list[int], count: int) -> list[int]:
    """Chooses boundaries so that there are about ``count`` segments of equal MACs between stem and classifier.

    The first and the last boundary are always chosen.
    """
    if len(boundaries) <= 2:
        return boundaries
    run, sums = 0, []
    for node in row.nodes:
        run += node.meta["macs"]
        sums.append(run)
    start, end = sums[boundaries[0]], sums[boundaries[-1]]
    wanted = [start + (end - start) * k / count for k in range(1, count)]
    inner = boundaries[1:-1]
    nearest = {min(inner, key=lambda i: abs(sums[i] - target)) for target in wanted}
    return sorted({boundaries[0], boundaries[-1], *nearest})


def cut(captured: Captured, segments: int | None, name: str) -> tuple[list[Piece], Piece]:
    """Cuts a model into segments.

    Args:
        captured: The model. Its nodes must have ``meta["value"]`` and ``meta["macs"]``.
        segments: Approximate number of segments of equal MACs between stem and classifier; None: one for each block.
        name: Name of the model in messages.

    Returns:
        The segments, of which the first is the stem, and the classifier.

    Raises:
        UserError: There is no place to cut.
    """
    nodes = [node for node in captured.graph.nodes if node.op.startswith("call")]
    row = _Line(nodes, captured.targets)
    boundaries = _boundaries(row, places(nodes, captured))
    if len(boundaries) < 2:
        reasons = "; ".join(f"'{path}' is kept whole: {why}" for path, why in captured.kept.items())
        raise UserError(
            f"no place to cut: {len(boundaries)} found where a single tensor crosses between layers, at least 2 are "
            f"needed{' (' + reasons + ')' if reasons else ''}",
            where=name,
        )
    images = next(node for node in captured.graph.nodes if node.op == "placeholder")
    starts = [0, *(i + 1 for i in boundaries)]
    blocks = [tuple(nodes[a:b]) for a, b in pairwise([*starts, len(nodes)])]
    names = list(_names(row, blocks))
    kept = boundaries if segments is None else _equal(row, boundaries, segments)
    firsts = [0, *(starts.index(i + 1) for i in kept), len(blocks)]
    pieces = []
    for a, b in pairwise(firsts):
        title = names[a] if b - a == 1 else f"{names[a]}-{names[b - 1]}"
        inside = tuple(node for block in blocks[a:b] for node in block)
        pieces.append(Piece(title, inside, nodes[starts[a] - 1] if a else images))
    return pieces[:-1], pieces[-1]


def _names(row: _Line, blocks: list[tuple[fx.Node, ...]]) -> Iterator[str]:
    """Yields a unique name for each block: ``"stem"`` for the first and ``"final"`` for the last."""
    known = _blocks(row)
    common = [_path(row, nodes, known) for nodes in blocks]
    taken = {"stem", "final"}
    for number, (title, nodes) in enumerate(zip(common, blocks, strict=True)):
        if number in (0, len(blocks) - 1):
            yield "final" if number else "stem"
            continue
        if not title or common.count(title) > 1:
            title = next(str(node.target) for node in nodes if row.layer(node))
        while title in taken:
            title += "_"
        taken.add(title)
        yield title


def _path(row: _Line, nodes: Sequence[fx.Node], blocks: set[str]) -> str:
    """Returns the path of the block that contains ``nodes``, else of the innermost module that contains them.

    Nodes before the first layer and after the last one, such as pooling between blocks, are ignored. The path is empty
    if no module contains all others.
    """
    layers = [i for i, node in enumerate(nodes) if row.layer(node)]
    nodes = nodes[layers[0] : layers[-1] + 1]
    paths: list[str] = [path for path, _ in owner_of(nodes[0])]
    for node in nodes[1:]:
        here = {path for path, _ in owner_of(node)}
        paths = [path for path in paths if path in here]
    return next((path for path in paths if path in blocks), paths[-1] if paths else "")


def module_of_piece(piece: Piece, captured: Captured) -> fx.GraphModule:
    """Returns a piece as a module.

    A piece may have the name of a module of the model. Paths of layers inside that module are then relative to it.
    """
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {piece.source: graph.placeholder("state")}
    targets: dict[str, Any] = {}

    def value(source: fx.Node) -> fx.Node:
        if source not in values:  # a constant: each piece has its own node for it
            values[source] = copied(source)
        return values[source]

    def copied(node: fx.Node) -> fx.Node:
        made = graph.node_copy(node, value)
        made.meta = {}
        if node.op in ("call_module", "get_attr"):
            made.target = _relative(str(node.target), piece.name, captured.targets[str(node.target)])
            targets[made.target] = captured.targets[str(node.target)]
        return made

    for node in piece.nodes:
        values[node] = copied(node)
    graph.output(values[piece.result])
    # The head of an exit may read the incoming state as well, so the piece must not change it.
    spare_inputs(graph, lambda node: targets[str(node.target)] if node.op == "call_module" else None)
    return fx.GraphModule(targets, graph, class_name="Segment")


def _relative(target: str, name: str, what: Any) -> str:
    if target == name:
        return type(what).__name__.lower().removesuffix("2d")
    return target.removeprefix(f"{name}.")
