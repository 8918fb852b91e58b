"""A frozen network next to the network that it was made of."""

from __future__ import annotations

import pytest
import torch

from tests import nets
from tests.quant.test_supernet import SPACES
from usdn_nas.engine.frozen import FrozenNetwork
from usdn_nas.space.search_space import SpaceSpec


@pytest.mark.parametrize("spec", SPACES.values(), ids=SPACES)
def test_gives_the_networks_logits_in_evaluation_mode(spec: SpaceSpec) -> None:
    space, network = nets.network(spec)
    images = nets.images_for(space, 3)
    expected = network(images)
    frozen = FrozenNetwork(network.train(), space)
    for found, wanted in zip(frozen(images), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)
        assert not found.requires_grad and not found.is_inference()


def test_is_the_network_as_it_was() -> None:
    space, network = nets.network(nets.spec())
    images = nets.images_for(space, 2)
    frozen = FrozenNetwork(network, space)
    before = frozen(images)
    for parameter in network.parameters():
        parameter.data.add_(1.0)
    assert network.training is False
    assert all(map(torch.equal, frozen(images), before))
    assert not torch.allclose(network(images)[-1], before[-1])
