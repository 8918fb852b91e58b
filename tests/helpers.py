"""Builders that tests of several rooms share. No torch in here."""

from __future__ import annotations

import numpy as np

from usdn_nas.cost import ExitCosts
from usdn_nas.policy.outputs import ExitOutputs


def random_outputs(seed: int, exits: int, samples: int) -> tuple[ExitOutputs, ExitCosts]:
    """Random outputs with many equal confidences, some exactly 1, and costs that rise along the chain."""
    rng = np.random.default_rng(seed)
    names = (*(f"e{i}" for i in range(exits - 1)), "final")
    confidence = (rng.integers(1, 21, (exits, samples)) / 20).astype(np.float32)
    outputs = ExitOutputs(confidence, rng.random((exits, samples)) < confidence, names)
    costs = ExitCosts(names, np.cumsum(rng.integers(0, 10**9, exits)), rng.integers(1, 10**8, exits))
    return outputs, costs
