"""Search spaces: `SpaceSpec` is the TOML file, `SearchSpace` that file resolved against a network's layers."""

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
"""2 to 16, or 32 for full precision."""
BitPair = Annotated[tuple[BitWidth, BitWidth], Pair]
Share = Annotated[float, Field(gt=0, lt=1)]
Width = Annotated[int, Field(ge=1, le=65_536)]
"""Number of channels."""
Count = Annotated[int, Field(ge=1, le=1000)]
"""Number of layers, blocks or segments."""
Side = Annotated[int, Field(ge=1, le=16_384)]
"""Height or width of an image."""

_LAYERS = 100
"""Most layers of an MSDNet, all scales together counted once; the authors' deepest has 38."""

_PIXELS = 2**28
"""Most numbers of one image: a gigabyte in single precision."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


Factors = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=2, max_length=8), Pair]
"""A factor for each scale."""


class MsdnetSpec(_Strict):
    """An MSDNet, in the terms of kalviny/MSDNet-PyTorch; the defaults are its network for ImageNet.

    ``blocks`` end with an exit each; the first has ``base`` layers, the others ``step`` (``"even"``), or block i has
    ``step`` x i + 1 (``"lin_grow"``). Scale s has ``channels`` x ``factors[s]`` channels at first and grows by
    ``growth`` x ``factors[s]`` a layer; ``bottlenecks`` bound the width of its 1x1 convolutions. Where a scale ends, a
    transition leaves the share ``reduction`` of the channels. ``head_width``: channels of the classifiers'
    convolutions, those of their input unless given.
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
    """Which network. ``depth`` is 6n+2 and ``width`` the channels of the first stage of a CIFAR-style ResNet.

    ``stem = "cifar"`` gives torchvision's ResNet-18 a 3x3 convolution of stride 1 without pooling, for small images.
    Of a network of one's own (``"torchvision:NAME"``, ``"package.module:function"``): ``segments`` is about how many
    of equal MACs lie between stem and classifier, one for every block unless given; ``weights`` is a file of
    pretrained weights, ``.pth`` or safetensors. ``msdnet``: settings of ``"msdnet"``.
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
        """Leaves out settings that came later, where they are not used: the digests of older files still hold."""
        written: dict[str, Any] = handler(self)
        return {k: v for k, v in written.items() if v is not None or k not in _LATER}


Choices = Annotated[tuple[BitPair, ...], Field(min_length=1, max_length=256), Pair]
Widths = Annotated[tuple[BitWidth, ...], Field(min_length=1, max_length=16), Pair]


class BitsSpec(_Strict):
    """What may be chosen: pairs (W, A), or W and A apart; and what may not (``fixed``).

    ``granularity``: what shares a choice: the layers of a ``"block"`` (a head is one too), each ``"layer"`` alone, or
    all searched layers of the ``"network"``, heads included where their bits are searched: uniform bits.
    ``fixed`` maps a layer's name, or a pattern of names (``"layer4.*"``), to its (W, A). The stem and the
    final classifier are 8/8 unless it says otherwise. ``allowed`` maps a group's name, or a pattern of names, to the
    pairs among the choices that it may take; of several patterns that match, the last counts. A group is named after
    its block, or its layer where ``granularity`` is ``"layer"``; ``usdn-nas inspect`` lists them.
    """

    granularity: Literal["block", "layer", "network"] = "block"
    choices: Choices | None = None
    weights: Widths | None = None
    activations: Widths | None = None
    fixed: dict[str, BitPair] = {}
    allowed: dict[str, Choices] = {}

    @property
    def pairs(self) -> tuple[Bits, ...]:
        """All (W, A), by rising product W x A (then W)."""
        pairs = self.choices or itertools.product(self.weights or (), self.activations or ())
        return tuple(sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0])))

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out ``allowed``, which came later, where it is empty: the digests of older files still hold."""
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
    """Where exits may be and what their heads are. ``head_bits`` are those of the heads' convolutions.

    ``candidates``: after every block, or after the segments named, or where these shares of the network's MACs are
    spent, each after the segment that comes nearest ([0.15, 0.3, 0.45, 0.6, 0.75, 0.9] are SDN's).
    ``head = "own"``: the network's own exits and heads, such as an MSDNet's.
    """

    candidates: Literal["every-block"] | Annotated[tuple[str, ...], Pair] | Annotated[tuple[Share, ...], Pair] = (
        "every-block"
    )
    head: Literal["linear", "sdn", "conv", "msdnet", "conv3", "own"] = "conv3"
    head_width: Width | None = None
    head_bits: BitPair | Literal["search"] = (4, 4)
    head_linear_bits: BitPair = (8, 8)


class SpaceSpec(_Strict):
    """A search space as written in TOML."""

    network: NetworkSpec
    bits: BitsSpec
    exits: ExitsSpec = ExitsSpec()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return digest(self.model_dump(mode="json"))


def load_space(path: Path, *, trust_code: bool = False) -> SpaceSpec:
    """Reads a search space from TOML.

    Args:
        trust_code: Accept a network that is code of its own (``package.module:function``); to build it runs that code.

    Raises:
        ConsentError: The network is code of its own, and ``trust_code`` is False.
        UserError: The file is missing, is not TOML, or holds something else than a search space.
    """
    payload = read_toml(path)
    spec = validate(SpaceSpec, payload, where=path)
    check_network(spec.network.name, where=f"{path}: network.name", trust_code=trust_code)
    return spec


@dataclass(frozen=True)
class Group:
    """Layers that share a choice.

    Attributes:
        choices: The (W, A) pairs it may take, by rising product W x A (then W).
        weights, activations: The lists where W and A are chosen apart (``choices`` is then their product), or None;
            None too where ``bits.allowed`` has a list for the group.
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
        UserError: A pattern in ``bits.fixed`` matches no layer, one in ``bits.allowed`` no group, or everything is
            fixed.
    """

    def __init__(self, spec: SpaceSpec, chain: ChainRecord) -> None:
        self.spec = spec
        self.chain = chain
        self.fixed: dict[str, Bits] = {}
        """Layer name -> (W, A) of the layers that are not searched."""
        self.groups: tuple[Group, ...] = ()
        """The searched groups in the order of the chain."""
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
        """Group name -> its own choices, for the groups that ``bits.allowed`` names."""
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
        """Every layer with the name of its group, or with its fixed bits."""
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
        """Layer name -> group name, for the searched layers."""
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
        """Number of bit configurations times placements of exits (thresholds not counted)."""
        return self.bit_configurations * 2 ** len(self.candidates)

    @cached_property
    def prefixes(self) -> tuple[int, ...]:
        """Distinct beginnings of bit configurations up to each segment, from the first segment with a choice on.

        Their sum is the number of segment runs that an enumeration in prefix order needs, heads not counted.
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
        """Layer name -> (W, A) for every layer of the chain, heads included.

        Args:
            bits: Group name -> (W, A).
        """
        chosen = {layer: (bits[group][0], bits[group][1]) for layer, group in self.group_of.items()}
        return {layer.name: chosen.get(layer.name) or self.fixed[layer.name] for layer in self.chain.layers()}

    def choice_bits(self, indices: Sequence[int]) -> dict[str, Bits]:
        """Group name -> (W, A) from one index into ``choices`` for each group."""
        return {group.name: group.choices[index] for group, index in zip(self.groups, indices, strict=True)}

    def ladder(self) -> list[dict[str, Bits]]:
        """Uniform configurations, cheapest first: every (b, b) that all groups have, given to all of them.

        Where there is none, every pair that all have; perhaps none.
        """
        common = [pair for pair in self.groups[0].choices if all(pair in group.choices for group in self.groups)]
        return [{group.name: pair for group in self.groups} for pair in common if pair[0] == pair[1]] or [
            {group.name: pair for group in self.groups} for pair in common
        ]

    def sample(self, generator: np.random.Generator) -> dict[str, Bits]:
        """A bit configuration, uniform over the choices of each group."""
        return self.choice_bits([int(generator.integers(len(group.choices))) for group in self.groups])

    def stratified(self, generator: np.random.Generator, count: int) -> list[dict[str, Bits]]:
        """``count`` random bit configurations spread over the range from the cheapest to the dearest.

        The level of the i-th is uniform in the i-th of ``count`` equal parts of [0, 1]; each group of n choices takes
        number Binomial(n - 1, level), counted from 0. Over all levels every choice of a group is as likely as the
        others, as with `sample`, but the groups agree more.
        """
        levels = ((i + generator.random()) / count for i in range(count))
        return [
            self.choice_bits([int(generator.binomial(len(group.choices) - 1, level)) for group in self.groups])
            for level in levels
        ]

    def covering(self, generator: np.random.Generator) -> list[dict[str, Bits]]:
        """As many random configurations as the longest list has choices: each group takes all of its own in turn."""
        count = max(len(group.choices) for group in self.groups)
        orders = [np.resize(generator.permutation(len(group.choices)), count) for group in self.groups]
        return [self.choice_bits([int(order[i]) for order in orders]) for i in range(count)]

    def check(self, architecture: Architecture, where: object = None) -> None:
        """Checks that ``architecture`` is a point of this space.

        Raises:
            UserError: A group is missing or unknown, a pair is not among its choices, an exit is unknown, out of
                order or twice, or a threshold is outside [0, 1].
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
        """SHA-256 over the spec and the resolved groups and layers."""
        layers: list[Any] = [[layer.name, layer.macs] for layer in self.chain.layers()]
        groups = [[group.name, list(group.layers), [list(c) for c in group.choices]] for group in self.groups]
        return digest([self.spec.model_dump(mode="json"), groups, layers])
