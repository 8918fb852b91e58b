"""The engine on the integer back end next to the plain supernet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import nets
from usdn_nas.engine import integer
from usdn_nas.engine.engine import Engine, EngineSettings
from usdn_nas.engine.outputs import Batches, SupernetEvaluator

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(integer.unavailable(CPU) is not None, reason=str(integer.unavailable(CPU)))


def test_outputs() -> None:
    """Hardly a decision differs from the plain supernet's in float64, whatever the size of image batches."""
    spec = nets.spec(nets.RESNET14, {"choices": [[2, 2], [4, 3], [8, 7]]}, {"head": "conv3", "head_bits": [4, 4]})
    net = nets.supernet(spec)
    network = net.space.spec.network
    split = nets.split(network.input_shape, 60, network.num_classes)
    split.images = split.images.double()
    rng = np.random.default_rng(0)
    drawn = [net.space.sample(rng) for _ in range(12)]
    exact = [SupernetEvaluator(net, Batches(split, 20, CPU))(bits) for bits in drawn]
    net.float()
    split.images = split.images.float()
    found = []
    for images in (60, 7):
        made = Engine(net, Batches(split, 20, CPU), EngineSettings("integer", images), memory_bytes=1 << 30)
        outputs = dict(made.run(drawn))
        found.append([outputs[number] for number in range(len(drawn))])
    correct, other, want = (np.stack([outputs.correct for outputs in each]) for each in (*found, exact))
    assert (correct != want).mean() < 0.01 and (other != want).mean() < 0.01
    confidence, wanted = (np.stack([outputs.confidence for outputs in each]) for each in (found[0], exact))
    assert (np.abs(confidence - wanted) > 1e-3).mean() < 0.1
