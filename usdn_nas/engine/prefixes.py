"""Bit configurations as paths through the chain. Paths that agree on their first segments share the runs of those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from usdn_nas.space.architecture import Bits
from usdn_nas.space.search_space import SearchSpace

__all__ = ["Key", "Node", "Path", "Paths", "distinct_prefixes", "tree"]

Key = tuple[int, ...]
"""Index of the choice of each group in a part; empty if nothing is searched in the part."""


@dataclass(frozen=True, order=True)
class Path:
    """A configuration, written as the choices in each segment and head.

    Paths sort by the choices in the first segment, then in the second, and so on. This is called prefix order.

    Attributes:
        segments: One key for each segment.
        heads: One key for each exit.
    """

    segments: tuple[Key, ...]
    heads: tuple[Key, ...]


class Paths:
    """Makes the paths of a space.

    Attributes:
        first: Number of the first segment in which something is searched. All configurations share those before it.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._segments = [self._groups(segment.layers) for segment in space.chain.segments]
        self._heads = [self._groups(exit_.layers) for exit_ in space.chain.exits]
        self._index = {group.name: {pair: i for i, pair in enumerate(group.choices)} for group in space.groups}
        searched = [index for index, groups in enumerate(self._segments) if groups]
        self.first = searched[0] if searched else len(self._segments)

    def _groups(self, layers: Iterable[object]) -> tuple[str, ...]:
        """Returns the names of the groups of some layer records, in their order."""
        names = (self.space.group_of.get(layer.name) for layer in layers)  # type: ignore[attr-defined]
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def of(self, bits: Mapping[str, Bits]) -> Path:
        """Returns the path of a configuration: group name -> (weight bits W, activation bits A)."""
        chosen = {name: index[bits[name][0], bits[name][1]] for name, index in self._index.items()}
        segments, heads = (
            tuple(tuple(chosen[name] for name in names) for names in parts) for parts in (self._segments, self._heads)
        )
        return Path(segments, heads)


def distinct_prefixes(space: SearchSpace, configurations: Sequence[Mapping[str, Bits]]) -> int:
    """Returns how many segment runs ``configurations`` need if each distinct prefix runs once.

    Without sharing, the number would be ``len(configurations)`` times the number of segments. Segments before the first
    searched one, such as the stem, are counted in neither number, because all configurations share them.
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
        segment: Number of the segment.
        bits: Layer name -> (W, A) of one configuration with this prefix. All configurations with this prefix have the
            same bits in this segment.
        children: Key of the next segment -> node, in prefix order.
        heads: Key of the head that reads the segment's state -> layer bits of one configuration with this head.
    """

    segment: int
    bits: Mapping[str, Bits]
    children: dict[Key, Node] = field(default_factory=dict)
    heads: dict[Key, Mapping[str, Bits]] = field(default_factory=dict)


def tree(space: SearchSpace, paths: Mapping[Path, Mapping[str, Bits]], exits: Mapping[int, int]) -> dict[Key, Node]:
    """Returns the prefix tree of some paths as a dict: key of the first segment -> node.

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
