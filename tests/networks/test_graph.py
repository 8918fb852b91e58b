"""Signs, shared tensors, who owns a BatchNorm, what is not counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests import nets
from usdn_nas.networks.build import analyze_chain, build_network, chain_record
from usdn_nas.networks.graph import PartGraph, analyze
from usdn_nas.networks.heads import build_head
from usdn_nas.space.records import LayerRecord


def graph_of(module: nn.Module, *shape: int, non_negative: bool = False) -> PartGraph:
    return analyze(module, "p", (torch.empty(1, *shape, device="meta"),), [non_negative])


def layers_of(spec) -> dict[str, LayerRecord]:
    return {layer.name: layer for layer in chain_record(build_network(spec), spec.network).layers()}


class PreActivation(nn.Module):
    """A block whose BatchNorms come first; the shortcut reads what the first ReLU gives."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(5)
        self.conv1 = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(5, 5, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(3, 5, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(x))
        return self.conv2(self.relu(self.bn2(self.conv1(x)))) + self.shortcut(x)


def test_signs_of_resnet18() -> None:
    layers = layers_of(nets.spec(nets.RESNET18, exits={"head": "conv3"}))
    assert [name for name, layer in layers.items() if layer.signed] == ["stem.conv1"]


def test_signs_in_a_cifar_resnet() -> None:
    layers = layers_of(nets.spec(exits={"head": "conv"}))
    assert [name for name, layer in layers.items() if layer.signed] == ["stem.conv1"]


@pytest.mark.parametrize(
    ("before", "signed"),
    [
        (nn.ReLU(), False),
        (nn.ReLU6(), False),
        (nn.Sigmoid(), False),
        (nn.GELU(), True),
        (nn.SiLU(), True),
        (nn.Hardswish(), True),
        (nn.BatchNorm2d(3), True),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), False),
        (nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2)), True),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), True),
    ],
)
def test_sign_after(before: nn.Module, signed: bool) -> None:
    (layer,) = graph_of(nn.Sequential(before, nn.Conv2d(3, 2, 1)), 3, 8, 8).layers
    assert layer.signed == signed


def test_a_sum_is_non_negative_where_both_terms_are() -> None:
    class Add(nn.Module):
        def __init__(self, both: bool) -> None:
            super().__init__()
            self.relu, self.conv, self.both = nn.ReLU(), nn.Conv2d(3, 2, 1), both

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.relu(x) + (self.relu(x) if self.both else x))

    assert [graph_of(Add(both), 3, 4, 4).layers[0].signed for both in (True, False)] == [False, True]


@pytest.mark.parametrize(
    ("expression", "signed"),
    [
        (lambda x: x + 1, False),
        (lambda x: x + (-1), True),
        (lambda x: -1 + x, True),
        (lambda x: x * 0.5, False),
        (lambda x: x * -1, True),
        (lambda x: torch.add(x, x, alpha=-1), True),
        (lambda x: nn.functional.pad(x, (1, 1), "constant", -1.0), True),
        (lambda x: nn.functional.pad(x, (1, 1), value=-1.0), True),
        (lambda x: nn.functional.pad(x, (1, 1)), False),
        (lambda x: x.permute(0, 1, 3, 2).reshape(1, 3, -1, 2), False),
        (lambda x: x - 1, True),
    ],
)
def test_constants_have_signs_too(expression: Callable[[Tensor], Tensor], signed: bool) -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.conv = nn.ReLU(), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(expression(self.relu(x)))

    assert graph_of(Between(), 3, 4, 4).layers[0].signed == signed


def test_the_state_carries_its_sign() -> None:
    conv = nn.Conv2d(3, 2, 1)
    assert [graph_of(conv_only, 3, 4, 4, non_negative=n).layers[0].signed
            for conv_only in [nn.Sequential(conv)] for n in (True, False)] == [False, True]  # fmt: skip
    assert graph_of(nn.Sequential(conv, nn.ReLU()), 3, 4, 4).non_negative == (True,)
    assert graph_of(nn.Sequential(conv), 3, 4, 4).non_negative == (False,)
    assert graph_of(nn.Sequential(conv), 3, 4, 4).outputs[0].shape == (1, 2, 4, 4)


def test_downsampling_blocks_read_one_tensor_twice() -> None:
    layers = layers_of(nets.spec(nets.RESNET18, exits={"head": "linear"}))
    for stage in (2, 3, 4):
        block = f"layer{stage}.0"
        assert layers[f"{block}.conv1"].reads == layers[f"{block}.downsample.0"].reads
        assert layers[f"{block}.conv2"].reads != layers[f"{block}.conv1"].reads
    assert layers["layer2.0.conv1"].reads != layers["layer3.0.conv1"].reads
    assert len({layer.reads for layer in layers.values()}) == len(layers) - 3


def test_feature_counts_are_those_of_one_sample() -> None:
    layers = layers_of(nets.spec())
    assert layers["stem.conv1"].feature_count == 2 * 9 * 9
    assert layers["layer2.0.conv1"].feature_count == 4 * 9 * 9
    assert layers["layer2.0.conv2"].feature_count == 8 * 5 * 5
    assert layers["final.fc"].feature_count == 16
    assert layers["layer2.0.conv2"].weights == 8 * 8 * 9


def test_a_batchnorm_follows_the_conv_that_feeds_it() -> None:
    spec = nets.spec(nets.RESNET18, exits={"head": "linear", "candidates": []})
    graphs = dict(analyze_chain(build_network(spec), spec.network.input_shape))
    assert graphs["stem"].norm_of == {"bn1": "conv1"}
    assert graphs["layer1.1"].norm_of == {"bn1": "conv1", "bn2": "conv2"}
    assert graphs["layer2.0"].norm_of == {"bn1": "conv1", "bn2": "conv2", "downsample.1": "downsample.0"}
    head = build_head("msdnet", (4, 8, 8), 3, width=None, stem_width=4)
    assert graph_of(head, 4, 8, 8).norm_of == {"bn0": "conv0", "bn1": "conv1"}


def test_preactivation_batchnorm_follows_the_conv_it_feeds() -> None:
    graph = graph_of(PreActivation(), 3, 8, 8)
    assert graph.norm_of == {"bn1": "conv1", "bn2": "conv1"}
    alone = nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(3), relu=nn.ReLU(), conv=nn.Conv2d(3, 2, 1)))
    assert graph_of(alone, 3, 4, 4).norm_of == {"bn": "conv"}
    direct = nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(3), conv=nn.Conv2d(3, 2, 1)))
    assert graph_of(direct, 3, 4, 4).norm_of == {"bn": "conv"}
    assert graph_of(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), 3, 4, 4).norm_of == {}
    reads = {layer.name: layer.reads for layer in graph.layers}
    assert reads["p.conv1"] == reads["p.shortcut"] != reads["p.conv2"]


def test_macs_of_grouped_strided_and_dilated_layers_by_hand() -> None:
    parts = [
        (nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2), 4 * 4 * 4 * 3 * 9),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), 8 * 8 * 6 * 9),
        (nn.Conv2d(6, 2, (3, 1), dilation=2), 4 * 8 * 2 * 6 * 3),
    ]
    for conv, macs in parts:
        (layer,) = graph_of(nn.Sequential(conv), 6, 8, 8).layers
        assert (layer.macs, layer.weights) == (macs, conv.weight.numel())
    (linear,) = graph_of(nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 7)), 6, 8, 8).layers
    assert (linear.macs, linear.kind) == (6 * 64 * 7, "linear")


def test_not_counted() -> None:
    graph = graph_of(PreActivation(), 3, 8, 8)
    assert graph.operators == {"BatchNorm2d": 2, "ReLU": 2, "add": 1}


def test_analysis_leaves_the_module_as_it_was() -> None:
    module = PreActivation().double().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    graph_of(module, 3, 8, 8)
    assert not module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
