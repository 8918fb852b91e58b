"""Compiled parts next to the supernet run as it stands, on networks of every shape that the rules might trip over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import nets
from tests.quant.test_supernet import SPACES
from usdn_nas.engine import compiled
from usdn_nas.engine.folding import lower
from usdn_nas.engine.parts import PartCompiler
from usdn_nas.engine.program import Add, Affine, Call, Geometry, Grid, Layer, Options, Quantize, Relu, Slot, Step, Tail
from usdn_nas.engine.tracing import trace
from usdn_nas.networks.build import chain_record
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Bits
from usdn_nas.space.search_space import SearchSpace

CPU = torch.device("cpu")


def logits(compiler: PartCompiler, bits: Mapping[str, Bits], images: Tensor) -> list[Tensor]:
    """Logits of all exits from compiled parts. States must stay as they are."""
    chain = compiler.supernet.chain
    heads = {segment: number for number, segment in enumerate(chain.exit_segments)}
    state: tuple[Tensor, ...] = (compiler.prepared(images),)
    found = []
    for index in range(len(chain.segments)):
        before = [tensor.clone() for tensor in state]
        after = compiler.segment(index, bits)(state)
        assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
        before = [tensor.clone() for tensor in after]
        if index in heads:
            found += compiler.head(heads[index], bits)(after)
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        state = after
    return found


def check(net: Supernet, configurations: int = 3, channels_last: bool = True) -> PartCompiler:
    """Float64 logits within 1e-9 of the plain supernet's."""
    compiler = PartCompiler(net, "float", channels_last=channels_last)
    images = nets.images_for(net.space, 5)
    generator = np.random.default_rng(0)
    for _ in range(configurations):
        bits = net.space.sample(generator)
        net.set_bits(bits)
        with torch.inference_mode():
            plain = net(images)
            found = logits(compiler, net.space.layer_bits(bits), images)
        for a, b in zip(found, plain, strict=True):
            assert float((a - b).abs().max()) < 1e-9
            assert float(b.std()) > 1e-4
    return compiler


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_logits_in_float64(name: str, channels_last: bool) -> None:
    assert all(check(nets.supernet(SPACES[name]), channels_last=channels_last).traced)


class PreActivation(nn.Module):
    """BatchNorm and an in-place ReLU first, and a sum that nothing follows."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.relu(self.bn1(x)))
        return x + self.conv2(self.relu(self.bn2(out)))


class TwoReaders(nn.Module):
    """What one convolution makes is read by two, before and after a ReLU; everything is an exit's business too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(3))
        self.bn = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        y = F.relu(x)
        return self.bn(self.b(y)) + y, F.hardswish(self.c(x), inplace=True)


class Joined(nn.Module):
    """Takes two tensors, in any number of arguments."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding="same", padding_mode="reflect")
        self.drop = nn.Dropout(0.5)

    def forward(self, *state: Tensor) -> Tensor:
        x = self.drop(F.silu(torch.cat(state, 1)))
        return F.dropout(self.conv(x), training=self.training).mul_(1.5)


class Same(nn.Module):
    """'same' padding, dilation, groups, an inverted residual with a product by an attention of another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(6, 12, 1)
        self.depth = nn.Conv2d(12, 12, 3, padding="same", dilation=2, groups=12, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.down = nn.Conv2d(12, 6, 1)
        self.squeeze = nn.Linear(12, 12)
        self.shift = nn.Parameter(torch.full((6, 1, 1), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu6(self.bn(self.depth(F.relu6(self.up(x)))), True)
        gate = self.squeeze(out.mean((2, 3))).sigmoid()
        out = out * gate[:, :, None, None]
        return self.down(out) + x + self.shift


class Broadcast(nn.Module):
    """A sum of two shapes, either way, before a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.narrow = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(x, 1)
        return F.relu(self.conv(x) + small) + F.relu(self.narrow(small) + x)


class ControlFlow(nn.Module):
    """fx cannot trace this; it changes its argument, and its layers take bits all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul_(0.5)
        return self.conv(x) if _mean(x) > -100 else x


class ChangedTwice(nn.Module):
    """A tensor changed in place that something else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = y.mul_(0.5)
        return y + z


class ChangedInPart(nn.Module):
    """A part of a tensor is changed in place, and all of it is read afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, 2:].mul_(0.5)
        return y


def _mean(x: Tensor) -> float:
    """Analysed on the meta device, where no value is to be had."""
    return 0.0 if x.is_meta else float(x.mean())


class Classifier(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 5)

    def forward(self, *state: Tensor) -> Tensor:
        return self.fc(state[-1].mean((2, 3)))


def net_of(*segments: nn.Module, bits: dict[str, Any] | None = None) -> Supernet:
    """A supernet: a stem, ``segments``, a classifier after each."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6))
    parts = {"stem": stem} | {f"s{i}": segment for i, segment in enumerate(segments)}
    names = [f"s{i}" for i in range(len(segments) - 1)] + ["final"]
    heads = {name: Classifier(6) for name in names}
    chain = MultiExitNetwork(parts, heads, {name: i + 1 for i, name in enumerate(names)})
    spec = nets.spec(bits=bits or nets.APART)
    nets.unsettle(chain, 1)
    chain = chain.double().eval()
    net = Supernet(chain, SearchSpace(spec, chain_record(chain, spec.network))).double()
    nets.unsettle(net, 2)
    nets.set_steps(net, 3)
    return net.eval()


@pytest.mark.parametrize(
    "segments",
    [
        (PreActivation, PreActivation),
        (TwoReaders, Joined),
        (lambda: Joined(6), TwoReaders),
        (Same, Same),
        (Broadcast, PreActivation),
    ],
)
@pytest.mark.parametrize("bits", [None, {"granularity": "layer", "choices": [[2, 32], [32, 3], [4, 4]]}])
def test_networks_of_many_shapes(segments: tuple[Callable[[], nn.Module], ...], bits: dict[str, Any] | None) -> None:
    net = net_of(*(make() for make in segments), bits=bits)
    assert all(check(net).traced)
    check(net, channels_last=False)


def test_what_cannot_be_traced_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # the supernet's own analysis traces too
        patch.setattr(ControlFlow, "forward", lambda self, x: self.conv(x))
        net = net_of(ControlFlow(), PreActivation())
    assert check(net).traced == (True, False, True, True, True)
    net = net_of(ChangedInPart(), PreActivation())
    assert check(net).traced == (True, False, True, True, True)


def test_a_tensor_changed_in_place_is_read_as_changed() -> None:
    assert all(check(net_of(ChangedTwice(), PreActivation())).traced)


def test_a_graph_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    net = net_of(TwoReaders(), Joined())
    monkeypatch.setattr("usdn_nas.engine.folding.is_relu", lambda node, part: node.target is F.hardswish)
    assert check(net).traced == (True, False, True, True, True)


def steps(part: nn.Module, bits: Bits) -> tuple[Step, ...]:
    graph = trace(part, 1)
    assert graph is not None
    switched = {path: bits for path, module in part.named_modules() if hasattr(module, "bits")}
    return lower(graph, part, switched).steps


def test_what_is_absorbed_in_a_block() -> None:
    net = nets.supernet(nets.spec())
    quantize, first, second = steps(net.chain.segments[1], (4, 3))
    assert isinstance(quantize, Quantize) and isinstance(first, Layer) and isinstance(second, Layer)
    assert first.source_grid == quantize.grid and first.tail.grid == second.source_grid
    assert (first.add, first.tail.relu) == (None, False)  # the clamp at 0 does it
    assert (second.add, second.tail) == (Slot(0), Tail(relu=True))  # a state is in full precision
    assert (
        int(first.weight.min()) >= -8
        and int(first.weight.max()) <= 7
        and torch.equal(first.weight.round(), first.weight)
    )
    full = steps(net.chain.segments[1], (32, 32))
    assert [type(step) for step in full] == [Layer, Layer] and full[0].tail == Tail(relu=True)  # type: ignore[union-attr]


def test_layers_that_share_a_quantizer_share_its_codes() -> None:
    net = nets.supernet(SPACES["resnet18"])
    block = net.chain.segments[3]
    found = steps(block, (3, 4))
    assert [type(step) for step in found] == [Quantize, Layer, Layer, Layer]
    codes, conv1, conv2, downsample = found
    assert conv1.source == downsample.source == codes.out != conv2.source  # type: ignore[union-attr]
    assert sorted([conv2.add is None, downsample.add is None]) == [False, True]  # type: ignore[union-attr]


def test_nothing_is_absorbed_where_another_reads() -> None:
    net = net_of(TwoReaders(), Joined())
    found = steps(net.chain.segments[1], (3, 2))
    kinds = [type(step) for step in found]
    assert kinds == [Quantize, Layer, Relu, Quantize, Layer, Quantize, Layer, Call]
    assert found[1].tail == Tail() and found[4].add == found[2].out  # type: ignore[union-attr]
    net = net_of(PreActivation(), PreActivation())
    first, _, second = steps(net.chain.segments[1], (3, 2))
    assert isinstance(first, Affine) and first.tail.grid is not None and second.add == Slot(0)  # type: ignore[union-attr]


def _layer(add: Slot | None, tail: Tail, seed: int = 0) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-8, 8, (12, 4, 3, 3), generator=generator).float()
    scale = torch.rand(12, generator=generator, dtype=torch.float64) - 0.3
    bias = torch.rand(12, generator=generator, dtype=torch.float64) - 0.5
    geometry = Geometry((2, 1), (1, 2), (1, 2), 2)
    return Layer(Slot(2), Slot(0), Grid(0.1, 0, 15), weight, True, 0.05 * scale, bias, geometry, add, tail)


@pytest.mark.parametrize("add", [None, (12, 5, 7), (12, 1, 1)])
@pytest.mark.parametrize("tail", [Tail(), Tail(True), Tail(False, Grid(0.3, 0, 7)), Tail(True, Grid(0.3, -2, 5))])
def test_fused_convolution_next_to_the_plain_one(add: tuple[int, ...] | None, tail: Tail) -> None:
    step = _layer(None if add is None else Slot(1), tail)
    x = torch.randint(0, 16, (3, 8, 9, 7)).float().contiguous(memory_format=torch.channels_last)
    other = None if add is None else torch.randn(3, *add)
    results = []
    for dtype in (torch.float32, torch.float64):
        made = compiled.float_step(step, Options(dtype, CPU, channels_last=True))
        values: list[Any] = [x.to(dtype), None if other is None else other.to(dtype), None]
        with torch.inference_mode():
            made(values)
        results.append(values[2])
    assert results[0].shape == results[1].shape
    assert torch.allclose(results[0].double(), results[1], atol=1e-4)


def test_fused_convolutions_are_used_where_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(torch.float32, CPU, channels_last=True)
    if compiled._fused_works():
        assert isinstance(compiled.float_step(_layer(None, Tail(True)), options), compiled._FusedConv)
    monkeypatch.setattr(compiled, "_fused_works", lambda: False)
    assert type(compiled.float_step(_layer(None, Tail(True)), options)) is compiled._Conv


def test_sums_on_a_grid() -> None:
    step = Add(Slot(2), Slot(0), Slot(1), Tail(False, Grid(0.25, 0, 7)))
    values: list[Any] = [torch.tensor([0.3, 1.0, -1.0, 9.0]), torch.tensor([0.3, 0.0, 0.5, 9.0]), None]
    compiled.float_step(step, Options(torch.float32, CPU, True))(values)
    assert values[2].tolist() == [2, 4, 0, 7]
