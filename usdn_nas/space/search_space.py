"""Search spaces. `SpaceSpec` models the TOML file; `SearchSpace` applies it to the layers of a network."""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from usdn_nas._util.errors import UserError, nearest
from usdn_nas._util.files import digest, read_toml
from usdn_nas._util.trust import check_network
from usdn_nas._util.validation import Pair, Text, validate
from usdn_nas.space.architecture import Architecture, Bits
from usdn_nas.space.records import FINAL_EXIT, OPAQUE, ChainRecord, LayerRecord

__all__ = ["ExitsSpec", "Group", "NetworkSpec", "SearchSpace", "SpaceSpec", "load_space"]


def _bit_width(width: int) -> int:
    if not (2 <= width <= 16 or width == 32):
        raise ValueError("expected 2 to 16 bits, or 32 for full precision")
    return width


BitWidth = Annotated[int, AfterValidator(_bit_width)]
"""A number of bits: 2 to 16, or 32 for full precision."""
BitPair = Annotated[tuple[BitWidth, BitWidth], Pair]
Share = Annotated[float, Field(gt=0, lt=1)]
Width = Annotated[int, Field(ge=1, le=65_536)]
"""Number of channels."""
Count = Annotated[int, Field(ge=1, le=1000)]
"""Number of layers, blocks or segments."""
Side = Annotated[int, Field(ge=1, le=16_384)]
"""Height or width of an image."""

_LAYERS = 100
"""Largest number of layers of an MSDNet, where a layer spans all scales. The authors' deepest network has 38."""

_PIXELS = 2**28
"""Largest number of values in one image. In single precision they take one gigabyte."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


Factors = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=2, max_length=8), Pair]
"""One factor for each scale."""


class MsdnetSpec(_Strict):
    """An MSDNet, described with the settings of kalviny/MSDNet-PyTorch. The defaults are its network for ImageNet.

    The network has ``blocks`` blocks, and each ends with an exit. The first block has ``base`` layers. Every other one
    has ``step`` layers (``step_mode = "even"``), or block i has ``step`` x i + 1 (``"lin_grow"``). Scale s begins with
    ``channels`` x ``factors[s]`` channels, and every layer adds ``growth`` x ``factors[s]``. ``bottlenecks`` bound the
    width of its 1x1 convolutions. Where a scale ends, a transition keeps the share ``reduction`` of the channels.
    ``head_width`` is the number of channels of the classifiers' convolutions; without it, they have as many channels
    as their input.
    """

    blocks: int = Field(default=5, ge=2, le=_LAYERS)
    base: int = Field(default=4, ge=1, le=_LAYERS)
    step: int = Field(default=4, ge=1, le=_LAYERS)
    step_mode: Literal["even", "lin_grow"] = "even"
    channels: int = Field(default=32, ge=1, le=4096)
    growth: int = Field(default=16, ge=2, le=4096)
    factors: Factors = (1, 2, 4, 4)
    bottlenecks: Factors = (1, 2, 4, 4)
    reduction: float = Field(default=0.5, ge=0.05, le=0.95)
    stem: Literal["imagenet", "cifar"] = "imagenet"
    head_width: Width | None = None

    @model_validator(mode="after")
    def _one_a_scale(self) -> MsdnetSpec:
        if len(self.factors) != len(self.bottlenecks):
            raise ValueError("expected as many 'bottlenecks' as 'factors', one for each scale")
        return self

    @model_validator(mode="after")
    def _as_deep_as_can_be_traced(self) -> MsdnetSpec:
        grows = self.step_mode == "lin_grow"
        layers = self.base + sum(self.step * i + 1 if grows else self.step for i in range(1, self.blocks))
        if layers > _LAYERS:
            raise ValueError(f"expected at most {_LAYERS} layers, got {layers:,}")
        return self


_LATER = ("segments", "weights", "msdnet", "stem")


class NetworkSpec(_Strict):
    """Names the network and its settings.

    For a CIFAR-style ResNet, ``depth`` is 6n+2 and ``width`` is the number of channels of the first stage.
    For torchvision's ResNet-18, ``stem = "cifar"`` begins with a 3x3 convolution of stride 1 and no pooling, which
    suits small images.
    For an imported network (``"torchvision:NAME"``, ``"package.module:function"``), ``segments`` is the approximate
    number of segments between stem and classifier, of about equally many multiply-accumulates (MACs); without it,
    every block is a segment. ``weights`` is a file of pretrained weights, ``.pth`` or safetensors.
    For ``"msdnet"``, ``msdnet`` holds its settings.
    """

    name: Text
    input_shape: Annotated[tuple[Width, Side, Side], Pair]
    num_classes: int = Field(ge=2, le=100_000)
    depth: int | None = Field(default=None, ge=1, le=200)
    width: Width | None = None
    stem_stride: Count | None = None
    stem: Literal["imagenet", "cifar"] | None = None
    segments: Count | None = None
    weights: Text | None = None
    msdnet: MsdnetSpec | None = None

    @field_validator("input_shape")
    @classmethod
    def _fits_into_memory(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if math.prod(shape) > _PIXELS:
            raise ValueError(f"expected at most {_PIXELS:,} numbers an image")
        return shape

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out settings that were added later and are not used, so that the digests of older files still hold."""
        written: dict[str, Any] = handler(self)
        return {k: v for k, v in written.items() if v is not None or k not in _LATER}


Choices = Annotated[tuple[BitPair, ...], Field(min_length=1, max_length=256), Pair]
Widths = Annotated[tuple[BitWidth, ...], Field(min_length=1, max_length=16), Pair]


class BitsSpec(_Strict):
    """Bits that may be chosen for the weights (W) and the inputs (A) of layers, and bits that are fixed.

    Give the choices as pairs (W, A), in ``choices``, or as independent lists, in ``weights`` and ``activations``.
    ``granularity`` says which layers share one choice. ``"block"``: the layers of a block; a head counts as a block.
    ``"layer"``: every layer has its own choice. ``"network"``: all searched layers share it, which gives uniform bits;
    heads are among them if their bits are searched.
    ``fixed`` maps the name of a layer, or a pattern of names (``"layer4.*"``), to its (W, A). The stem and the final
    classifier have 8/8 unless ``fixed`` says otherwise. ``allowed`` maps the name of a group, or a pattern of names,
    to those of the choices that the group may take. If several patterns match, the last one counts. A group has the
    name of its block, or of its layer if ``granularity`` is ``"layer"``. ``usdn-nas inspect`` lists the groups.
    """

    granularity: Literal["block", "layer", "network"] = "block"
    choices: Choices | None = None
    weights: Widths | None = None
    activations: Widths | None = None
    fixed: dict[str, BitPair] = {}
    allowed: dict[str, Choices] = {}

    @property
    def pairs(self) -> tuple[Bits, ...]:
        """All pairs (W, A) that may be chosen, by rising product W x A, then by rising W."""
        pairs = self.choices or itertools.product(self.weights or (), self.activations or ())
        return tuple(sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0])))

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out ``allowed`` if it is empty: it was added later, and the digests of older files must still hold."""
        written: dict[str, Any] = handler(self)
        return {k: v for k, v in written.items() if v or k != "allowed"}

    @model_validator(mode="after")
    def _one_way(self) -> BitsSpec:
        apart = self.weights is not None and self.activations is not None
        if (self.choices is not None) == apart or (self.weights is None) != (self.activations is None):
            raise ValueError("expected either 'choices' (pairs), or both 'weights' and 'activations'")
        for name in ("choices", "weights", "activations"):
            values = getattr(self, name)
            if values is not None and len(set(values)) != len(values):
                raise ValueError(f"'{name}' holds a value twice")
        return self

    @model_validator(mode="after")
    def _allowed_are_choices(self) -> BitsSpec:
        for pattern, pairs in self.allowed.items():
            if len(set(pairs)) != len(pairs):
                raise ValueError(f"'allowed' of '{pattern}' holds a pair twice")
            if unknown := [pair for pair in pairs if pair not in self.pairs]:
                valid = ", ".join(str(list(pair)) for pair in self.pairs)
                raise ValueError(
                    f"'allowed' of '{pattern}' holds {list(unknown[0])}, which is not among the choices {valid}"
                )
        return self


class ExitsSpec(_Strict):
    """Says where exits may be placed, and what their heads consist of.

    ``candidates`` lists the places: after every block (``"every-block"``), after the segments that are named, or
    after given shares of the network's multiply-accumulates (MACs). For a share, the exit follows the segment that
    comes nearest to it; SDN (Shallow-Deep Networks) uses [0.15, 0.3, 0.45, 0.6, 0.75, 0.9].
    ``head`` is the kind of head. ``"own"`` uses the exits and heads that the network already has, such as an MSDNet's.
    ``head_bits`` are the bits of the heads' convolutions, and ``head_linear_bits`` those of their linear layers.
    """

    candidates: Literal["every-block"] | Annotated[tuple[str, ...], Pair] | Annotated[tuple[Share, ...], Pair] = (
        "every-block"
    )
    head: Literal["linear", "sdn", "conv", "msdnet", "conv3", "own"] = "conv3"
    head_width: Width | None = None
    head_bits: BitPair | Literal["search"] = (4, 4)
    head_linear_bits: BitPair = (8, 8)


class SpaceSpec(_Strict):
    """A search space as written in TOML: the network, the bits to choose from, and the candidate exits."""

    network: NetworkSpec
    bits: BitsSpec
    exits: ExitsSpec = ExitsSpec()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of this specification."""
        return digest(self.model_dump(mode="json"))


def load_space(path: Path, *, trust_code: bool = False) -> SpaceSpec:
    """Reads a search space from TOML.

    Args:
        path: The TOML file.
        trust_code: Accept a network that is the user's code (``package.module:function``), which runs when the network
            is built.

    Raises:
        ConsentError: The network is the user's code, and ``trust_code`` is False.
        UserError: The file is missing, is not TOML, or does not describe a search space.
    """
    payload = read_toml(path)
    spec = validate(SpaceSpec, payload, where=path)
    check_network(spec.network.name, where=f"{path}: network.name", trust_code=trust_code)
    return spec


@dataclass(frozen=True)
class Group:
    """Layers that share one choice of bits.

    Attributes:
        name: Name of the group: of its block, of its layer, or ``"network"``.
        layers: Names of the layers.
        choices: The (W, A) pairs that the group may take, by rising product W x A, then by rising W.
        weights, activations: The lists of W and of A if the two are chosen independently; ``choices`` is then their
            product. None if pairs are chosen, or if ``bits.allowed`` has a list for the group.
    """

    name: str
    layers: tuple[str, ...]
    choices: tuple[Bits, ...]
    weights: tuple[int, ...] | None = None
    activations: tuple[int, ...] | None = None


class SearchSpace:
    """A `SpaceSpec` resolved against the layers of its network.

    Args:
        spec: The search space.
        chain: Layer records of the network that ``spec`` names, with all its candidate exits.

    Raises:
        UserError: A pattern in ``bits.fixed`` matches no layer, a pattern in ``bits.allowed`` matches no group, or the
            bits of every layer are fixed.
    """

    def __init__(self, spec: SpaceSpec, chain: ChainRecord) -> None:
        self.spec = spec
        self.chain = chain
        self.fixed: dict[str, Bits] = {}
        """Layer name -> (W, A), for the layers whose bits are not searched."""
        self.groups: tuple[Group, ...] = ()
        """The groups whose bits are searched, in the order of the chain."""
        self._resolve()

    def _resolve(self) -> None:
        spec = self.spec.bits
        names = [layer.name for layer in self.chain.layers()]
        matched = {pattern: fnmatch.filter(names, pattern) for pattern in spec.fixed}
        for pattern, found in matched.items():
            if not found:
                raise UserError(
                    f"'{pattern}' matches no layer of {self.chain.network}",
                    where="bits.fixed",
                    remedy=nearest(pattern, names),
                )
        explicit = {name: spec.fixed[pattern] for pattern, found in matched.items() for name in found}
        members: dict[str, list[str]] = {}
        for group, layer in self._group_names():
            if layer.kind == OPAQUE:
                self.fixed[layer.name] = (32, 32)
            elif layer.name in explicit:
                self.fixed[layer.name] = explicit[layer.name]
            elif isinstance(group, tuple):
                self.fixed[layer.name] = group
            else:
                members.setdefault(group, []).append(layer.name)
        if not members:
            raise UserError("every layer is fixed, nothing is left to search", where="bits.fixed")
        allowed = self._allowed(list(members))
        self.groups = tuple(
            Group(name, tuple(layers), allowed[name])
            if name in allowed
            else Group(
                name,
                tuple(layers),
                spec.pairs,
                tuple(sorted(spec.weights)) if spec.weights else None,
                tuple(sorted(spec.activations)) if spec.activations else None,
            )
            for name, layers in members.items()
        )

    def _allowed(self, groups: list[str]) -> dict[str, tuple[Bits, ...]]:
        """Returns group name -> choices, for the groups that ``bits.allowed`` gives a list of their own."""
        found: dict[str, tuple[Bits, ...]] = {}
        for pattern, pairs in self.spec.bits.allowed.items():
            names = fnmatch.filter(groups, pattern)
            if not names:
                raise UserError(
                    f"'{pattern}' matches no searched group of {self.chain.network}",
                    where="bits.allowed",
                    remedy=nearest(pattern, groups),
                )
            found |= dict.fromkeys(names, tuple(pair for pair in self.spec.bits.pairs if pair in pairs))
        return found

    def _group_names(self) -> Iterator[tuple[str | Bits, LayerRecord]]:
        """Yields every layer with the name of its group, or with its bits if they are fixed."""
        exits, granularity = self.spec.exits, self.spec.bits.granularity

        def group(layer: LayerRecord, block: str) -> str:
            return {"layer": layer.name, "block": block, "network": "network"}[granularity]

        for index, segment in enumerate(self.chain.segments):
            for layer in segment.layers:
                yield ((8, 8) if index == 0 else group(layer, segment.name)), layer
        for exit_ in self.chain.exits:
            for layer in exit_.layers:
                if exit_.name == FINAL_EXIT:
                    yield (8, 8), layer
                elif layer.kind == "linear":
                    yield exits.head_linear_bits, layer
                elif exits.head_bits == "search":
                    yield group(layer, f"exit:{exit_.name}"), layer
                else:
                    yield exits.head_bits, layer

    @cached_property
    def group_of(self) -> dict[str, str]:
        """Layer name -> group name, for the layers whose bits are searched."""
        return {layer: group.name for group in self.groups for layer in group.layers}

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the exits that may be placed."""
        return self.chain.candidates

    @property
    def bit_configurations(self) -> int:
        """Number of bit configurations: the product of the groups' numbers of choices."""
        return math.prod(len(group.choices) for group in self.groups)

    @property
    def size(self) -> int:
        """Number of bit configurations times the number of sets of exits. Thresholds are not counted."""
        return self.bit_configurations * 2 ** len(self.candidates)

    @cached_property
    def prefixes(self) -> tuple[int, ...]:
        """For each segment, the number of ways to choose all bits up to its end. The first entry is for the first
        segment that has a choice.

        The sum of the entries is the number of segments that an enumeration in prefix order runs, without heads.
        """
        count, counts = 1, []
        known: set[str] = set()
        for segment in self.chain.segments:
            here = {self.group_of[layer.name] for layer in segment.layers if layer.name in self.group_of} - known
            count *= math.prod(len(group.choices) for group in self.groups if group.name in here)
            known |= here
            if known:
                counts.append(count)
        return tuple(counts)

    def layer_bits(self, bits: Mapping[str, Bits]) -> dict[str, Bits]:
        """Returns layer name -> (W, A) for every layer of the chain, heads included.

        Args:
            bits: Group name -> (W, A).
        """
        chosen = {layer: (bits[group][0], bits[group][1]) for layer, group in self.group_of.items()}
        return {layer.name: chosen.get(layer.name) or self.fixed[layer.name] for layer in self.chain.layers()}

    def choice_bits(self, indices: Sequence[int]) -> dict[str, Bits]:
        """Returns group name -> (W, A), from one index into ``choices`` for each group."""
        return {group.name: group.choices[index] for group, index in zip(self.groups, indices, strict=True)}

    def ladder(self) -> list[dict[str, Bits]]:
        """Returns the uniform configurations, cheapest first: every pair (b, b) that all groups may take.

        If there is no such pair, it returns one configuration for every pair that all groups may take. The list is
        empty if the groups have no pair in common.
        """
        common = [pair for pair in self.groups[0].choices if all(pair in group.choices for group in self.groups)]
        return [{group.name: pair for group in self.groups} for pair in common if pair[0] == pair[1]] or [
            {group.name: pair for group in self.groups} for pair in common
        ]

    def sample(self, generator: np.random.Generator) -> dict[str, Bits]:
        """Returns a random bit configuration. The choices of each group are equally likely and independent."""
        return self.choice_bits([int(generator.integers(len(group.choices))) for group in self.groups])

    def stratified(self, generator: np.random.Generator, count: int) -> list[dict[str, Bits]]:
        """Returns ``count`` random bit configurations, spread over the range from the cheapest to the most expensive.

        Configuration i has a level that is uniform in part i of ``count`` equal parts of [0, 1]. Each group of n
        choices takes the one with index Binomial(n - 1, level). Over all levels the choices of a group are equally
        likely, as with `sample`, but the groups of one configuration tend to be cheap or expensive together.
        """
        levels = ((i + generator.random()) / count for i in range(count))
        return [
            self.choice_bits([int(generator.binomial(len(group.choices) - 1, level)) for group in self.groups])
            for level in levels
        ]

    def covering(self, generator: np.random.Generator) -> list[dict[str, Bits]]:
        """Returns random configurations in which every group takes each of its choices at least once.

        There are as many of them as the largest group has choices.
        """
        count = max(len(group.choices) for group in self.groups)
        orders = [np.resize(generator.permutation(len(group.choices)), count) for group in self.groups]
        return [self.choice_bits([int(order[i]) for order in orders]) for i in range(count)]

    def check(self, architecture: Architecture, where: object = None) -> None:
        """Checks that ``architecture`` is a point of this space.

        Raises:
            UserError: A group is missing or unknown, a pair is not among the choices of its group, an exit is unknown,
                out of order or named twice, or a threshold is outside [0, 1].
        """
        groups = {group.name: group for group in self.groups}
        for name, pair in architecture.bits.items():
            if name not in groups:
                raise UserError(f"unknown group '{name}'", where=f"{where}: bits", remedy=nearest(name, groups))
            if tuple(pair) not in groups[name].choices:
                valid = ", ".join(str(list(choice)) for choice in groups[name].choices)
                raise UserError(f"{list(pair)} is not among the choices {valid}", where=f"{where}: bits.{name}")
        if missing := [name for name in groups if name not in architecture.bits]:
            raise UserError(f"no bits given for group '{missing[0]}'", where=f"{where}: bits")
        for name in architecture.exits:
            if name not in self.candidates:
                raise UserError(
                    f"unknown exit '{name}'", where=f"{where}: exits", remedy=nearest(name, self.candidates or ["none"])
                )
        order = [self.candidates.index(name) for name in architecture.exits]
        if order != sorted(set(order)):
            raise UserError("exits must stand once each, in the order of the chain", where=f"{where}: exits")
        for value in architecture.thresholds:
            if not 0 <= value <= 1:
                raise UserError(f"expected thresholds in [0, 1], got {value}", where=f"{where}: thresholds")

    @property
    def digest(self) -> str:
        """SHA-256 over the specification, the groups, and the names and MACs (multiply-accumulates) of the layers."""
        layers: list[Any] = [[layer.name, layer.macs] for layer in self.chain.layers()]
        groups = [[group.name, list(group.layers), [list(c) for c in group.choices]] for group in self.groups]
        return digest([self.spec.model_dump(mode="json"), groups, layers])
