"""Refreshed BatchNorm statistics next to means taken by hand."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from tests import nets
from usdn_nas.quant.refresh import refresh_norms
from usdn_nas.quant.supernet import Supernet


def test_covering_gives_every_group_every_choice() -> None:
    allowed = {"layer2.0": [[4, 3]], "layer3.0": [[2, 2], [3, 5]]}
    space, _ = nets.network(nets.spec(bits=nets.PAIRS | {"allowed": allowed}))
    seen = set()
    for seed in range(30):
        drawn = space.covering(np.random.default_rng(seed))
        assert len(drawn) == 3
        for group in space.groups:
            taken = [bits[group.name] for bits in drawn]
            counts = {taken.count(choice) for choice in group.choices}
            assert set(taken) == set(group.choices) and max(counts) - min(counts) <= 1
        seen.add(tuple(tuple(bits.values()) for bits in drawn))
    assert len(seen) == 12  # of 3! x 2! orders


def statistics_by_hand(net: Supernet, batches: list[Tensor], drawn: list[list[dict]]) -> dict[str, Tensor]:
    """Means over all passes of the batch statistics that each copy saw."""
    net = copy.deepcopy(net).train()
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def keep(name: str, x: Tensor) -> None:
        seen.setdefault(name, []).append((x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=True)))

    for name, norm in net.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
    with torch.no_grad():
        for images, configurations in zip(batches, drawn, strict=True):
            for bits in configurations:
                net.set_bits(bits)
                net(images)
    means = {f"{name}.running_mean": torch.stack([m for m, _ in found]).mean(0) for name, found in seen.items()}
    return means | {f"{name}.running_var": torch.stack([v for _, v in found]).mean(0) for name, found in seen.items()}


def test_statistics_are_means_over_all_passes() -> None:
    net = nets.supernet(nets.spec(exits={"head": "conv"}))
    batches = [nets.images_for(net.space, 6, seed) for seed in range(3)]
    before = copy.deepcopy(net.state_dict())
    generator = np.random.default_rng(1)
    drawn = [net.space.covering(generator) for _ in batches]
    expected = statistics_by_hand(net, batches, drawn)
    momenta = {name: norm.momentum for name, norm in net.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    refresh_norms(net, batches, iter(drawn).__next__)
    after = net.state_dict()
    assert any(".w2a2." in name for name in expected) and not any(".w32a32." in name for name in expected)
    for name, value in after.items():
        if name in expected:
            assert torch.allclose(value, expected[name], rtol=1e-9, atol=1e-12) and not torch.equal(value, before[name])
        else:  # weights, steps, counts, copies that did not come up
            assert torch.equal(value, before[name]), name
    assert momenta == {name: norm.momentum for name, norm in net.named_modules() if isinstance(norm, nn.BatchNorm2d)}
