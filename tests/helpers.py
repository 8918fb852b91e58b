"""Builders that tests of several rooms share. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Bits
from usdn_nas.space.cost import ExitCosts
from usdn_nas.space.records import ChainRecord, ExitRecord, LayerRecord, SegmentRecord
from usdn_nas.space.search_space import SearchSpace, SpaceSpec


def random_outputs(seed: int, exits: int, samples: int) -> tuple[ExitOutputs, ExitCosts]:
    """Random outputs with many equal confidences, some exactly 1, and costs that rise along the chain."""
    rng = np.random.default_rng(seed)
    names = (*(f"e{i}" for i in range(exits - 1)), "final")
    confidence = (rng.integers(1, 21, (exits, samples)) / 20).astype(np.float32)
    outputs = ExitOutputs(confidence, rng.random((exits, samples)) < confidence, names)
    costs = ExitCosts(names, np.cumsum(rng.integers(0, 10**9, exits)), rng.integers(1, 10**8, exits))
    return outputs, costs


def chain_record(blocks: int = 4, num_classes: int = 10) -> ChainRecord:
    """A stem, ``blocks`` blocks of two convolutions with a candidate exit after all but the last, and a classifier."""

    def layer(name: str, kind: str, macs: int) -> LayerRecord:
        return LayerRecord(name, kind, macs, weights=macs // 16, reads=f"{name}.in", signed=False, feature_count=64)

    segments = [SegmentRecord("stem", (layer("stem.conv", "conv", 10_000),))]
    exits = []
    for i in range(blocks):
        convs = tuple(layer(f"b{i}.conv{j}", "conv", 40_000 + 7_000 * i + 1_000 * j) for j in (1, 2))
        segments.append(SegmentRecord(f"b{i}", convs))
        if i < blocks - 1:
            head = (layer(f"exit:b{i}.conv0", "conv", 3_000 + i), layer(f"exit:b{i}.linear", "linear", 640))
            exits.append(ExitRecord(f"b{i}", i + 1, head))
    exits.append(ExitRecord("final", blocks, (layer("exit:final.linear", "linear", 640),)))
    return ChainRecord("fake", (1, 8, 8), num_classes, tuple(segments), tuple(exits), {})


def search_space(blocks: int = 4, bits: dict[str, object] | None = None) -> SearchSpace:
    """A space over `chain_record`: by default four pairs of bits a block, ``4 ** blocks`` bit configurations."""
    spec = {
        "network": {"name": "fake", "input_shape": [1, 8, 8], "num_classes": 10},
        "bits": bits or {"choices": [[2, 2], [3, 3], [4, 4], [5, 5]]},
    }
    return SearchSpace(SpaceSpec.model_validate(spec), chain_record(blocks))


def synthetic_outputs(space: SearchSpace, bits: Mapping[str, Bits], samples: int = 200, seed: int = 0) -> ExitOutputs:
    """Outputs as a network might give them, a function of ``bits`` alone.

    Each sample has a difficulty; an exit is right where its skill, which adds up over the blocks before it and falls
    with few bits, exceeds that, give or take some noise that goes with the bits up to there.
    """
    difficulty = np.random.default_rng(seed).random(samples)
    names = (*space.candidates, "final")
    loss = {2: 0.10, 3: 0.04, 4: 0.015, 5: 0.0}
    skill, margins = 0.45, []
    prefix = [seed]
    for i, group in enumerate(space.groups):
        w, a = bits[group.name]
        prefix += [w, a]
        skill += (0.55 - loss.get(w, 0.0) * 2 - loss.get(a, 0.0)) / len(space.groups)
        if i < len(names):
            noise = np.random.default_rng(prefix).normal(0, 0.08, samples)
            margins.append(skill - difficulty + noise)
    margin = np.array(margins)
    confidence = (0.1 + 0.9 / (1 + np.exp(-6 * margin))).astype(np.float32)
    return ExitOutputs(confidence, margin > 0, names)
