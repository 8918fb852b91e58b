"""Refreshed BatchNorm statistics next to means taken by hand."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from tests import nets
from usdn_nas.quant.refresh import recalibrate_bn
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


def statistics_of_all_values(net: Supernet, batches: list[Tensor], drawn: list[list[dict]]) -> dict[str, Tensor]:
    """Mean and unbiased variance of the values that each copy reads in all passes, laid side by side."""
    net = copy.deepcopy(net).train()
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str, x: Tensor) -> None:
        seen.setdefault(name, []).append(x.transpose(0, 1).flatten(1))

    for name, norm in net.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
    with torch.no_grad():
        for images, configurations in zip(batches, drawn, strict=True):
            for bits in configurations:
                net.set_bits(bits)
                net(images)
    values = {name: torch.cat(found, dim=1) for name, found in seen.items()}
    means = {f"{name}.running_mean": found.mean(1) for name, found in values.items()}
    return means | {f"{name}.running_var": found.var(1, unbiased=True) for name, found in values.items()}


def test_statistics_are_those_of_all_values() -> None:
    net = nets.supernet(nets.spec(exits={"head": "conv"}))
    batches = [nets.images_for(net.space, count, count) * count + count for count in (6, 5, 2)]
    before = copy.deepcopy(net.state_dict())
    generator = np.random.default_rng(1)
    drawn = [net.space.covering(generator) for _ in batches]
    expected = statistics_of_all_values(net, batches, drawn)
    momenta = {name: norm.momentum for name, norm in net.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    recalibrate_bn(net, batches, iter(drawn).__next__)
    after = net.state_dict()
    assert any(".w2a2." in name for name in expected) and not any(".w32a32." in name for name in expected)
    for name, value in after.items():
        if name in expected:
            assert torch.allclose(value, expected[name], rtol=1e-9, atol=1e-12) and not torch.equal(value, before[name])
        else:  # weights, steps, counts, copies that did not come up
            assert torch.equal(value, before[name]), name
    assert momenta == {name: norm.momentum for name, norm in net.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    assert not any(norm._forward_hooks for norm in net.modules())


def test_a_large_mean_costs_no_digits() -> None:
    """Float32 values around 1,000 with deviations around 0.1: a mean of squares less a squared mean would be noise."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    net = nn.Sequential(nn.Identity(), norm)
    net.set_bits = lambda bits: None
    batches = [1000 + offset + 0.1 * torch.randn(8, 3, 5, 5) for offset in (-0.1, 0.0, 0.2)]
    recalibrate_bn(net, batches, lambda: [{}])
    values = torch.cat([images.double().transpose(0, 1).flatten(1) for images in batches], dim=1)
    assert torch.allclose(norm.running_mean.double(), values.mean(1), rtol=1e-6)
    assert torch.allclose(norm.running_var.double(), values.var(1), rtol=1e-2)
    assert not norm.num_batches_tracked


def test_the_variance_between_batches_counts() -> None:
    norm = nn.BatchNorm2d(1)
    net = nn.Sequential(norm)
    net.set_bits = lambda bits: None
    batches = [offset + torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0)) for offset in (-3.0, 3.0)]
    recalibrate_bn(net, batches, lambda: [{}])
    assert 9.5 < float(norm.running_var) < 10.5  # 1 within the batches, 9 between them
