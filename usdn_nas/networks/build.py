"""Builds the network of a search space, and makes the records that describe a network."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import torch
from torch import nn

from usdn_nas._util.errors import UserError, nearest
from usdn_nas._util.trust import INSTANCE
from usdn_nas.networks.chain import MultiExitNetwork, exit_prefix
from usdn_nas.networks.find import is_own
from usdn_nas.networks.graph import PartGraph, analyze
from usdn_nas.networks.heads import build_head
from usdn_nas.networks.msdnet import msdnet
from usdn_nas.networks.own import backbone_of, own_backbone
from usdn_nas.networks.resnet import Backbone, cifar_resnet, torchvision_resnet18
from usdn_nas.space.records import FINAL_EXIT, ChainRecord, ExitRecord, SegmentRecord
from usdn_nas.space.search_space import ExitsSpec, NetworkSpec, SearchSpace, SpaceSpec

__all__ = ["NETWORKS", "analyze_chain", "build_network", "chain_record", "resolve_space"]

MAX_WEIGHTS = 500_000_000
"""Largest number of weights of a built-in network. They take two gigabytes in single precision."""

NETWORKS: dict[str, Callable[[NetworkSpec], Backbone]] = {
    "resnet_cifar": cifar_resnet,
    "torchvision:resnet18": torchvision_resnet18,
    "msdnet": msdnet,
}
"""Name in ``network.name`` -> builder of its chain. Other names with a colon are the user's own networks."""


def build_network(spec: SpaceSpec, model: nn.Module | None = None) -> MultiExitNetwork:
    """Returns the full-precision network of a search space, with all its candidate exits.

    Heads, and networks that are built by name, draw their weights from torch's global generator. Seed it to get the
    same weights again.

    Args:
        spec: The search space.
        model: The network itself, needed if the space was made for a model that was passed in Python. It is copied.

    Raises:
        UserError: The network or an exit candidate is unknown, the network cannot be cut, or ``model`` is missing.
    """
    if model is not None:
        return _with_heads(backbone_of(copy.deepcopy(model), spec.network), spec.network, spec.exits)
    _check_weights(spec.network, spec.exits)
    return _with_heads(_backbone(spec.network), spec.network, spec.exits)


@lru_cache(maxsize=16)
def _check_weights(network: NetworkSpec, exits: ExitsSpec) -> None:
    """Refuses settings of a built-in network that lead to more than `MAX_WEIGHTS` weights.

    The weights are counted on the meta device, so no memory is needed.

    Raises:
        UserError: There are too many weights.
    """
    if is_own(network.name):
        return
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in _with_heads(_backbone(network), network, exits).parameters())
    if weights > MAX_WEIGHTS:
        raise UserError(f"expected at most {MAX_WEIGHTS:,} weights, got {weights:,}", where="network")


def _with_heads(backbone: Backbone, network: NetworkSpec, exits: ExitsSpec) -> MultiExitNetwork:
    names = list(backbone.segments)
    shapes, macs = _states(backbone, network.input_shape)
    heads: dict[str, nn.Module] = {}
    for candidate in _candidates(network, exits, names, shapes, macs, backbone.heads):
        heads[candidate] = (
            backbone.heads[candidate]
            if exits.head == "own"
            else build_head(
                exits.head,
                shapes[candidate],
                network.num_classes,
                width=exits.head_width,
                stem_width=backbone.stem_width,
                channels_last=candidate in backbone.channels_last,
            )
        )
    heads[FINAL_EXIT] = backbone.classifier
    where = {exit_: names.index(exit_) for exit_ in heads if exit_ != FINAL_EXIT} | {FINAL_EXIT: len(names) - 1}
    return MultiExitNetwork(backbone.segments, heads, where, backbone.dropped, backbone.kept)


def _backbone(spec: NetworkSpec) -> Backbone:
    name = spec.name
    if name.startswith(INSTANCE):
        raise UserError(
            f"the network is a {name.removeprefix(INSTANCE)} that was passed in Python, and no name to build it by",
            where="network.name",
            remedy="pass it again, as model=...",
        )
    if is_own(name) and (spec.segments is not None or name not in NETWORKS):
        return own_backbone(spec)
    if name in NETWORKS:
        for setting in ("segments", "weights", "msdnet", "stem"):
            takes = setting != "msdnet" if is_own(name) else name == "msdnet" and setting in ("weights", "msdnet")
            if getattr(spec, setting) is not None and not takes:
                raise UserError(f"{name} has no '{setting}' to set", where=f"network.{setting}")
        return NETWORKS[name](spec)
    remedy = nearest(name, NETWORKS)
    if remedy.startswith("valid"):
        remedy += ", torchvision:NAME, package.module:function"
    raise UserError(f"unknown network '{name}'", where="network.name", remedy=remedy)


def _candidates(
    network: NetworkSpec,
    exits: ExitsSpec,
    segments: list[str],
    shapes: Mapping[str, tuple[int, ...]],
    macs: Mapping[str, float],
    own: Mapping[str, nn.Module],
) -> list[str]:
    """Returns the names of the exit candidates in the order of the chain, without the final exit."""
    possible = [name for name in segments[1:-1] if len(shapes[name]) > 1]
    if exits.head == "own":
        if not own:
            raise UserError(f"{network.name} has no exits of its own", where="exits.head")
        possible = list(own)
    chosen = exits.candidates
    if chosen == "every-block":
        return possible
    names = [_nearest(share, possible, macs) if isinstance(share, float) else share for share in chosen]
    if len(set(names)) < len(names):
        raise UserError(
            f"{len(names)} exits ask for {len(set(names))} places: {', '.join(names)}", where="exits.candidates"
        )
    for name in names:
        if name not in possible:
            raise UserError(f"no exit can follow '{name}'", where="exits.candidates", remedy=nearest(name, possible))
    return [name for name in possible if name in names]


def _nearest(share: float, possible: list[str], macs: Mapping[str, float]) -> str:
    if not possible:
        raise UserError("no exit can follow any segment", where="exits.candidates")
    return min(possible, key=lambda name: abs(macs[name] - share))


def _states(
    backbone: Backbone, input_shape: tuple[int, int, int]
) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    """Computes shape and cost of the state after each segment.

    Returns:
        Two dicts. The first: segment -> shape of the state's last tensor for one image, which is (C, H, W), (H, W, C),
        (N, C) or (F,). The second: segment -> share of all multiply-accumulates (MACs) of segments and classifier that
        are spent up to the end of the segment.
    """
    state: tuple[torch.Tensor, ...] = (torch.empty(1, *input_shape, device="meta"),)
    shapes, macs, total = {}, {}, 0
    for name, segment in backbone.segments.items():
        graph = analyze(segment, name, state, [False] * len(state))
        state = graph.outputs
        shapes[name] = tuple(state[-1].shape[1:])
        total += sum(layer.macs for layer in graph.layers)
        macs[name] = total
    classifier = analyze(backbone.classifier, FINAL_EXIT, state, [False] * len(state))
    total += sum(layer.macs for layer in classifier.layers)
    return shapes, {name: spent / total for name, spent in macs.items()}


def analyze_chain(network: MultiExitNetwork, input_shape: tuple[int, ...]) -> Iterator[tuple[str, PartGraph]]:
    """Yields (segment or exit name, graph) for every segment, then for every head."""
    state: tuple[torch.Tensor, ...] = (torch.empty(1, *input_shape, device="meta"),)
    signs: tuple[bool, ...] = (False,)
    states = []
    for name, segment in zip(network.segment_names, network.segments, strict=True):
        graph = analyze(segment, name, state, signs)
        state, signs = graph.outputs, graph.non_negative
        states.append((state, signs))
        yield name, graph
    for name, head, index in zip(network.exit_names, network.heads, network.exit_segments, strict=True):
        yield name, analyze(head, exit_prefix(name), *states[index])


def chain_record(network: MultiExitNetwork, spec: NetworkSpec) -> ChainRecord:
    """Returns the records of ``network``: layers with MACs, segments, exits, and operators that are not counted."""
    graphs = list(analyze_chain(network, spec.input_shape))
    count = len(network.segments)
    operators: Counter[str] = sum((graph.operators for _, graph in graphs), Counter())
    return ChainRecord(
        network=spec.name,
        input_shape=tuple(spec.input_shape),
        num_classes=spec.num_classes,
        segments=tuple(SegmentRecord(name, tuple(graph.layers)) for name, graph in graphs[:count]),
        exits=tuple(
            ExitRecord(name, segment, tuple(graph.layers))
            for (name, graph), segment in zip(graphs[count:], network.exit_segments, strict=True)
        ),
        not_counted=dict(sorted(operators.items())),
        dropped=network.dropped,
        kept=network.kept,
    )


def resolve_space(spec: SpaceSpec, model: nn.Module | None = None) -> tuple[SearchSpace, MultiExitNetwork]:
    """Returns the search space resolved against its network, and that network at full precision.

    Args:
        spec: The search space.
        model: As for `build_network`.
    """
    network = build_network(spec, model)
    return SearchSpace(spec, chain_record(network, spec.network)), network
