"""Prefixes of configurations, counted by hand and by brute force."""

from __future__ import annotations

import itertools

import numpy as np

from tests.helpers import search_space
from usdn_nas.engine.prefixes import Node, Paths, distinct_prefixes, tree


def test_counted_by_hand() -> None:
    space = search_space(blocks=6)
    every = [space.choice_bits(choice) for choice in itertools.product(range(4), repeat=6)]
    assert distinct_prefixes(space, every) == 4 + 16 + 64 + 256 + 1024 + 4096 == 5460
    assert distinct_prefixes(space, every[:1]) == 6
    assert distinct_prefixes(space, every[:1] * 3) == 6
    assert distinct_prefixes(space, [every[0], every[1]]) == 7  # the last group differs
    assert distinct_prefixes(space, [every[0], every[-1]]) == 12  # the first one does
    assert distinct_prefixes(space, []) == 0


def test_layers_searched_apart_next_to_brute_force() -> None:
    space = search_space(3, {"granularity": "layer", "weights": [2, 3], "activations": [2, 4]})
    generator = np.random.default_rng(0)
    drawn = [space.sample(generator) for _ in range(50)]
    by_layer = [space.layer_bits(bits) for bits in drawn]
    prefixes = set()
    for bits in by_layer:
        for end in range(2, 5):
            names = [layer.name for segment in space.chain.segments[:end] for layer in segment.layers]
            prefixes.add(tuple(bits[name] for name in names))
    assert distinct_prefixes(space, drawn) == len(prefixes)


def test_tree_has_one_node_for_each_prefix() -> None:
    space = search_space(4)
    paths = Paths(space)
    assert paths.first == 1
    generator = np.random.default_rng(1)
    drawn = [space.sample(generator) for _ in range(40)]
    roots = tree(space, {paths.of(bits): bits for bits in drawn}, {1: 0, 2: 1, 4: 3})

    def nodes(level: dict[tuple[int, ...], Node]) -> list[Node]:
        return [found for node in level.values() for found in (node, *nodes(node.children))]

    found = nodes(roots)
    assert len(found) == 1 + distinct_prefixes(space, drawn)
    assert all(bool(node.heads) == (node.segment in (1, 2, 4)) for node in found)
    leaves = [node for node in found if not node.children]
    assert {node.segment for node in leaves} == {4}
    assert len(leaves) == len({tuple(bits.items()) for bits in drawn})


def test_order_is_that_of_the_choices() -> None:
    space = search_space(3, {"weights": [2, 3], "activations": [2, 4, 8]})
    paths = Paths(space)
    every = [space.choice_bits(choice) for choice in itertools.product(range(6), repeat=3)]
    found = [paths.of(bits) for bits in every]
    assert found == sorted(found)
