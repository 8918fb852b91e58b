"""Bit configurations as paths through the chain: those that agree on their first segments share those runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from usdn_nas.space.architecture import Bits
from usdn_nas.space.search_space import SearchSpace

__all__ = ["Key", "Node", "Path", "Paths", "distinct_prefixes", "tree"]

Key = tuple[int, ...]
"""Which of its choices each group in a part takes; empty where nothing is searched."""


@dataclass(frozen=True, order=True)
class Path:
    """A configuration. Paths are ordered like their choices, the first segment's first: prefix order.

    Attributes:
        segments: One key a segment.
        heads: One key an exit.
    """

    segments: tuple[Key, ...]
    heads: tuple[Key, ...]


class Paths:
    """Makes the paths of a space.

    Attributes:
        first: The first segment in which something is searched. Those before it are the same for all.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._segments = [self._groups(segment.layers) for segment in space.chain.segments]
        self._heads = [self._groups(exit_.layers) for exit_ in space.chain.exits]
        self._index = {group.name: {pair: i for i, pair in enumerate(group.choices)} for group in space.groups}
        searched = [index for index, groups in enumerate(self._segments) if groups]
        self.first = searched[0] if searched else len(self._segments)

    def _groups(self, layers: Iterable[object]) -> tuple[str, ...]:
        """The groups of some layer records, in their order."""
        names = (self.space.group_of.get(layer.name) for layer in layers)  # type: ignore[attr-defined]
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def of(self, bits: Mapping[str, Bits]) -> Path:
        """The path of a configuration (group name -> (W, A))."""
        chosen = {name: index[bits[name][0], bits[name][1]] for name, index in self._index.items()}
        segments, heads = (
            tuple(tuple(chosen[name] for name in names) for names in parts) for parts in (self._segments, self._heads)
        )
        return Path(segments, heads)


def distinct_prefixes(space: SearchSpace, configurations: Sequence[Mapping[str, Bits]]) -> int:
    """Segment runs that ``configurations`` need where each distinct prefix runs once.

    Without sharing it would be ``len(configurations)`` times the segments. Neither counts the segments before the first
    that is searched, such as the stem: they run once for all.
    """
    paths = Paths(space)
    prefixes: set[tuple[Key, ...]] = set()
    for bits in configurations:
        keys = paths.of(bits).segments
        prefixes.update(keys[:end] for end in range(paths.first + 1, len(keys) + 1))
    return len(prefixes)


@dataclass
class Node:
    """A segment at the end of one prefix.

    Attributes:
        segment: Its number.
        bits: Layer name -> (W, A) of a configuration that passes here; those of the segment's layers hold for all.
        children: Key of the next segment -> node, in prefix order.
        heads: Key of the exit's head after the segment -> layer bits of a configuration that has it.
    """

    segment: int
    bits: Mapping[str, Bits]
    children: dict[Key, Node] = field(default_factory=dict)
    heads: dict[Key, Mapping[str, Bits]] = field(default_factory=dict)


def tree(space: SearchSpace, paths: Mapping[Path, Mapping[str, Bits]], exits: Mapping[int, int]) -> dict[Key, Node]:
    """The tree of some paths: key of the first segment -> node.

    Args:
        paths: Path -> one of its configurations, in prefix order.
        exits: Segment -> number of the exit that follows it.
    """
    roots: dict[Key, Node] = {}
    for path, bits in paths.items():
        by_layer = space.layer_bits(bits)
        level = roots
        for segment, key in enumerate(path.segments):
            node = level.setdefault(key, Node(segment, by_layer))
            if segment in exits:
                node.heads.setdefault(path.heads[exits[segment]], by_layer)
            level = node.children
    return roots
