"""Switchable layers: bits, cached weights, BatchNorm copies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from usdn_nas.quant.layers import (
    QuantConv2d,
    QuantLinear,
    SwitchableBatchNorm2d,
    SwitchableLayer,
    SwitchableQuantizer,
)

PAIRS = ((2, 3), (4, 3), (4, 5), (32, 32))


def layer_of(kind: str = "conv") -> SwitchableLayer:
    torch.manual_seed(0)
    source = nn.Conv2d(3, 4, 3, padding=1) if kind == "conv" else nn.Linear(3, 4)
    inputs = SwitchableQuantizer((a for _, a in PAIRS), signed=False, offset=False, count=48)
    made = SwitchableLayer(source, PAIRS, inputs)
    with torch.no_grad():
        for quantizer in (*made.weight_quantizer.steps.values(), *inputs.steps.values()):
            quantizer.step.fill_(0.11)
    return made.eval()


def an_input(kind: str = "conv") -> torch.Tensor:
    torch.manual_seed(1)
    return 3 * torch.rand((2, 3, 4, 4) if kind == "conv" else (2, 3))


def test_a_quantizer_for_each_width() -> None:
    made = layer_of()
    assert list(made.weight_quantizer.steps) == ["2", "4"]
    assert list(made.input_quantizer.steps) == ["3", "5"]
    assert isinstance(made.input_quantizer.at(32), nn.Identity)
    assert made.input_quantizer.at(3) is made.input_quantizer.steps["3"]


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_bits_really_change_the_output(kind: str) -> None:
    made, x = layer_of(kind), an_input(kind)
    outputs = {}
    with torch.no_grad():
        for bits in PAIRS:
            made.bits = bits
            outputs[bits] = made(x)
        assert torch.equal(outputs[32, 32], made.layer(x))
    pairs = [(a, b) for a in PAIRS for b in PAIRS if a < b]
    assert all(not torch.equal(outputs[a], outputs[b]) for a, b in pairs)


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("bits", PAIRS)
def test_fixed_layers_compute_the_same(kind: str, bits: tuple[int, int]) -> None:
    made, x = layer_of(kind), an_input(kind)
    made.bits = bits
    plain = QuantConv2d if kind == "conv" else QuantLinear
    fixed = plain(made.layer, made.weight_quantizer.at(bits[0]), made.input_quantizer.at(bits[1]))
    with torch.no_grad():
        assert torch.equal(fixed(x), made(x))


def test_a_fixed_convolution_keeps_every_setting() -> None:
    source = nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, padding_mode="circular")
    x = torch.randn(2, 4, 7, 6)
    assert torch.equal(QuantConv2d(source, nn.Identity(), nn.Identity())(x), source(x))
    assert QuantConv2d(source.double(), nn.Identity(), nn.Identity()).weight.dtype == torch.float64


def test_weights_are_kept_in_evaluation() -> None:
    made = layer_of()
    made.bits = (2, 3)
    first = made.quantized_weight()
    made.bits = (4, 3)
    other = made.quantized_weight()
    made.bits = (2, 5)
    assert made.quantized_weight() is first is not other


def add_(made: SwitchableLayer) -> None:
    with torch.no_grad():
        made.layer.weight.add_(0.2)


def step_(made: SwitchableLayer) -> None:
    with torch.no_grad():
        made.weight_quantizer.steps["2"].step.mul_(1.7)


def sgd(made: SwitchableLayer) -> None:
    optimizer = torch.optim.SGD(made.parameters(), lr=1)
    made.train()
    made(an_input()).square().sum().backward()
    optimizer.step()
    made.eval()


def load(made: SwitchableLayer) -> None:
    made.load_state_dict({name: value + 0.3 for name, value in made.state_dict().items()})


def retype(made: SwitchableLayer) -> None:
    made.double()


@pytest.mark.parametrize("change", [add_, step_, sgd, load, retype])
def test_kept_weights_go_when_a_parameter_changes(change: Callable[[SwitchableLayer], None]) -> None:
    made = layer_of()
    made.bits = (2, 3)
    with torch.inference_mode():
        before = made.quantized_weight().clone()
    change(made)
    after = made.quantized_weight()
    expected = made.weight_quantizer(made.layer.weight, 2)
    assert torch.equal(after, expected) and after.dtype == made.layer.weight.dtype
    assert after.dtype != before.dtype or not torch.equal(after, before)


def test_weights_kept_under_inference_mode_serve_later_gradients() -> None:
    made, x = layer_of(), an_input()
    made.bits = (2, 3)
    with torch.inference_mode():
        made(x)
    x.requires_grad_()
    made(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_training_quantizes_anew_and_gives_gradients() -> None:
    made = layer_of().train()
    made.bits = (2, 3)
    made(an_input()).square().sum().backward()
    assert made.layer.weight.grad.abs().sum() > 0
    assert made.weight_quantizer.steps["2"].step.grad.abs() > 0
    assert made.weight_quantizer.steps["4"].step.grad is None
    assert made.input_quantizer.steps["3"].step.grad.abs() > 0


def test_batchnorm_statistics_are_kept_for_each_pair() -> None:
    source = nn.BatchNorm2d(3, eps=1e-3, momentum=0.3)
    nn.init.uniform_(source.weight)
    switch = SwitchableBatchNorm2d(source, [(2, 3), (4, 4)])
    assert sorted(switch.norms) == ["w2a3", "w32a32", "w4a4"]
    for norm in switch.norms.values():
        assert torch.equal(norm.weight, source.weight) and norm.weight is not source.weight
        assert (norm.eps, norm.momentum) == (1e-3, 0.3)
    switch.bits = (2, 3)
    x = torch.randn(4, 3, 5, 5) + 2
    switch.train()(x)
    means = {key: norm.running_mean.clone() for key, norm in switch.norms.items()}
    assert torch.allclose(means["w2a3"], 0.3 * x.mean((0, 2, 3)), atol=1e-6)
    assert not means["w4a4"].any() and not means["w32a32"].any()
    switch.eval()
    assert not torch.equal(switch(x), switch.at((4, 4))(x))
    assert torch.equal(switch(x), switch.at((2, 3))(x))


@pytest.mark.parametrize("source", [nn.Conv2d(4, 6, 3, groups=2, padding="same"), nn.Linear(4, 6, bias=False)])
def test_fixed_layers_copy_parameters_where_they_are(source: nn.Module) -> None:
    kind = QuantConv2d if isinstance(source, nn.Conv2d) else QuantLinear
    source.double()
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    made = kind(source, nn.Identity(), nn.Identity())
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing was initialized
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64) if kind is QuantConv2d else torch.randn(2, 4, dtype=torch.float64)
    assert torch.equal(made(x), source(x))
    assert made.weight.data_ptr() != source.weight.data_ptr() and made.weight.requires_grad
    assert kind(source.to("meta"), nn.Identity(), nn.Identity()).weight.is_meta


@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}])
def test_batchnorms_without_parameters_or_statistics(settings: dict[str, bool]) -> None:
    switch = SwitchableBatchNorm2d(nn.BatchNorm2d(3, **settings), [(2, 2)])
    assert switch(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4, 4)
