"""Turns the user's own network into a chain: traces it, computes shapes and cost, and cuts it into segments."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx, nn

from usdn_nas._util.errors import UserError
from usdn_nas._util.trust import users_code
from usdn_nas.networks.capture import Captured, capture
from usdn_nas.networks.cut import Piece, cut, module_of_piece
from usdn_nas.networks.find import PREFIX, call_function, make_model, own_size
from usdn_nas.networks.graph import meta_copy, propagate
from usdn_nas.networks.resnet import Backbone
from usdn_nas.space.search_space import NetworkSpec

__all__ = ["backbone_of", "classes_of", "classes_of_model", "own_backbone"]


def classes_of(name: str, input_shape: tuple[int, int, int]) -> int:
    """Returns the number of classes of a model that is built with its default settings."""
    if name.startswith(PREFIX):
        own_size(name)  # raises an error for an unknown name
        return 1000
    model = call_function(name, None)
    return classes_of_model(model, name, input_shape)


def classes_of_model(model: nn.Module, name: str, input_shape: tuple[int, int, int]) -> int:
    """Returns how many logits ``model`` returns for an image of ``input_shape``.

    Args:
        model: The model.
        name: Name of the model in messages.
        input_shape: (C, H, W) of an image.

    Raises:
        UserError: The model cannot be traced, or does not take such images.
    """
    with users_code(name, "network.name"):
        captured = _captured(model, name, input_shape)
    return int(_logits(captured).shape[-1])


def _captured(model: nn.Module, name: str, input_shape: tuple[int, int, int]) -> Captured:
    """Returns the model's graph. Its nodes have values and MACs, computed on the meta device."""
    captured = capture(model, name)
    _propagate(captured, torch.empty(1, *input_shape, device="meta"), name)
    return captured


def _propagate(captured: Captured, images: Tensor, name: str) -> None:
    """Stores the value and the multiply-accumulates (MACs) of every node in ``node.meta``.

    Raises:
        UserError: The model does not take such images; the message says where and why it failed.
    """
    for node in captured.graph.nodes:
        node.meta.pop("value", None)
    twin = meta_copy(fx.GraphModule(captured.targets, captured.graph))
    assert isinstance(twin, fx.GraphModule)
    try:
        with warnings.catch_warnings(action="ignore"):
            propagate(twin, images)
    except Exception as error:  # any operator of the model may fail, with any error
        at = next(
            (node for node in twin.graph.nodes if node.op not in ("placeholder",) and "value" not in node.meta), None
        )
        why = str(error).strip().splitlines()[0]
        shape = "x".join(map(str, images.shape[1:]))
        place = f"at '{at.target}'" if at is not None else ""
        raise UserError(
            f"{name} does not take images of {shape}: {place}: {why}", where="network.input_shape"
        ) from None
    for node, other in zip(captured.graph.nodes, twin.graph.nodes, strict=True):
        node.meta |= {"value": other.meta.get("value"), "macs": other.meta.get("macs", 0)}


def _logits(captured: Captured) -> Tensor:
    output = next(iter(reversed(captured.graph.nodes)))
    value = output.args[0].meta["value"]
    assert isinstance(value, Tensor)
    return value


def own_backbone(spec: NetworkSpec) -> Backbone:
    """Returns the chain of the network that ``spec.name`` stands for.

    Raises:
        UserError: The network is not found, or cannot be turned into a chain (see `backbone_of`).
    """
    return backbone_of(make_model(spec), spec)


def backbone_of(model: nn.Module, spec: NetworkSpec) -> Backbone:
    """Returns ``model`` as a chain. Its modules are used, not copied.

    Raises:
        UserError: The model cannot be traced or cut, or it does not return ``num_classes`` logits.
    """
    with users_code(spec.name, "network.name"):  # tracing a model runs its forward
        captured = _captured(model, spec.name, spec.input_shape)
    logits = tuple(_logits(captured).shape)
    if logits != (1, spec.num_classes):
        shape = "x".join(map(str, logits[1:])) or "nothing"
        raise UserError(
            f"{spec.name} gives {shape} values an image, expected {spec.num_classes} logits",
            where="network.num_classes",
            remedy=f"set it to {logits[1]}" if len(logits) == 2 else None,
        )
    pieces, classifier = cut(captured, spec.segments, spec.name)
    stem = next(iter(layer for layer in pieces[0].nodes if layer.meta["macs"]))
    shape = stem.meta["value"].shape
    return Backbone(
        {piece.name: module_of_piece(piece, captured) for piece in pieces},
        module_of_piece(classifier, captured),
        int(shape[1]),
        dropped=captured.dropped,
        kept=captured.kept,
        channels_last=_channels_last(captured, pieces, spec.input_shape),
    )


def _channels_last(captured: Captured, pieces: list[Piece], input_shape: tuple[int, int, int]) -> frozenset[str]:
    """Returns the segments whose state is (B, H, W, C).

    They are found by doubling the image: dimensions 1 and 2 of such a state then grow.
    """
    if all(piece.result.meta["value"].ndim != 4 for piece in pieces):
        return frozenset()
    before = {piece.name: tuple(piece.result.meta["value"].shape) for piece in pieces}
    values = [(node, dict(node.meta)) for node in captured.graph.nodes]
    channels, height, width = input_shape
    try:
        _propagate(captured, torch.empty(1, channels, 2 * height, 2 * width, device="meta"), "")
        after = {piece.name: tuple(piece.result.meta["value"].shape) for piece in pieces}
    except UserError:  # the model takes only one size; the state is then assumed to be (B, C, H, W)
        after = before
    for node, meta in values:
        node.meta = meta
    grown = {
        name: [i for i, (a, b) in enumerate(zip(before[name], after[name], strict=True)) if a != b] for name in before
    }
    return frozenset(name for name, sides in grown.items() if sides and sides == [1, 2])
