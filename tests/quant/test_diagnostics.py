"""Oscillations next to a loop over the weights; a watch that goes on from its state; what has gone wrong."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests import nets
from usdn_nas.quant import diagnostics
from usdn_nas.quant.diagnostics import QuantizerWatch
from usdn_nas.quant.supernet import Supernet


def shaking(net: Supernet, seed: int) -> Callable[[], None]:
    """Moves all weights, and steps a little, at random."""
    generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def shake() -> None:
        for layer in net.layers.values():
            weight = layer.layer.weight
            weight.add_(0.1 * weight.std() * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
            for step in layer.weight_quantizer.widths():
                step.step.mul_(1 + 0.02 * torch.randn((), generator=generator))

    return shake


def frequencies(history: list[np.ndarray]) -> np.ndarray:
    """Of the codes of n weights over time, one weight after the other."""
    found = []
    for codes in np.array(history).T:
        frequency, direction = 0.0, 0
        for before, now in itertools.pairwise(codes):
            change = int(np.sign(now - before))
            oscillates = change != 0 and change == -direction
            frequency = 0.01 * oscillates + 0.99 * frequency
            direction = change or direction
        found.append(frequency)
    return np.array(found)


def test_oscillations_next_to_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "SAMPLE", 50)
    net = nets.supernet(nets.spec(bits=nets.APART | {"allowed": {"layer2.0": [[3, 2], [5, 4]]}}))
    watch, shake = QuantizerWatch(net), shaking(net, 0)
    codes: dict[tuple[str, int], list[np.ndarray]] = {}
    for _ in range(25):
        shake()
        watch.after_step()
        for name, layer in net.layers.items():
            stride = -(-layer.layer.weight.numel() // 50)
            for step in layer.weight_quantizer.widths():
                found = step.codes(layer.layer.weight.detach()).flatten()[::stride]
                codes.setdefault((name, step.width), []).append(found.detach().numpy())
    watch.end_epoch()
    weights = [record for record in watch.quantizers if record["tensor"] == "weights"]
    assert {(record["layer"], record["bits"]) for record in weights} == set(codes)
    shares = set()
    for record in weights:
        share = float((frequencies(codes[record["layer"], record["bits"]]) > 0.005).mean())
        assert record["oscillating"] == [pytest.approx(share)]
        shares.add(round(share, 3))
    assert len(shares) > 5


def test_steps_are_followed_once_each() -> None:
    net = nets.supernet(nets.spec(nets.RESNET18 | {"input_shape": [3, 16, 16]}, exits={"head": "linear"}))
    watch = QuantizerWatch(net)
    start = {name: value.clone() for name, value in net.state_dict().items() if name.endswith(".step")}
    assert len(watch.quantizers) == len({id(step) for step in net.modules() if hasattr(step, "gradient_scale")})
    assert len(watch.quantizers) < len(start)  # a quantizer that two layers share stands there twice
    with torch.no_grad():
        for record in watch.quantizers:
            layer = net.layers[record["layer"]]
            quantizer = layer.weight_quantizer if record["tensor"] == "weights" else layer.input_quantizer
            quantizer.at(record["bits"]).step.mul_(-2)  # its modulus counts
    watch.after_step()
    watch.end_epoch()
    assert all(record["step"] == [pytest.approx(2 * record["start"])] for record in watch.quantizers)


def test_a_watch_goes_on_from_its_state() -> None:
    whole, halves = (nets.supernet(nets.spec()) for _ in range(2))
    one, two = QuantizerWatch(whole), QuantizerWatch(halves)
    for net, watch, shake in ((whole, one, shaking(whole, 1)), (halves, two, shaking(halves, 1))):
        for number in range(12):
            if net is halves and number == 6:
                state = copy.deepcopy(watch.state_dict())
                watch = QuantizerWatch(halves)
                watch.load_state_dict(state)
            shake()
            watch.after_step()
            if number % 4 == 3:
                watch.end_epoch()
        two = watch
    assert one.quantizers == two.quantizers and len(one.quantizers[0]["step"]) == 3


def test_what_went_wrong_is_found() -> None:
    net = nets.supernet(nets.spec())
    watch = QuantizerWatch(net)
    watch.after_step()
    watch.end_epoch()
    assert watch.collapsed() == []
    names = [name for name in watch.stale() if name.startswith(("layer", "stem"))]
    assert sorted(names) == sorted(
        f"{layer}: {key}"
        for layer, keys in {
            "stem.conv1": ["w8a8"],
            **{f"layer{i}.0.conv{j}": ["w2a2", "w4a3", "w3a5"] for i in (1, 2, 3) for j in (1, 2)},
        }.items()
        for key in keys
    )
    net.train()
    net.set_bits({group.name: (4, 3) for group in net.space.groups})
    net(nets.images_for(net.space, 2))
    assert not any(name.endswith(("w4a3", "w8a8")) for name in watch.stale())
    assert len(watch.stale()) == 12
    layer = net.layers["layer2.0.conv1"]
    with torch.no_grad():
        layer.weight_quantizer.at(3).step.mul_(0.001)
    watch.end_epoch()
    assert [(r["layer"], r["tensor"], r["bits"]) for r in watch.collapsed()] == [("layer2.0.conv1", "weights", 3)]


def test_norms_without_statistics_cannot_be_stale() -> None:
    space, chain = nets.network(nets.spec())
    for norm in chain.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats, norm.running_mean, norm.running_var, norm.num_batches_tracked = (
                False,
                None,
                None,
                None,
            )
    assert QuantizerWatch(Supernet(chain, space)).stale() == []
