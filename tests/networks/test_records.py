"""MACs by hand, by the flop counter, and as the paper has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from tests import nets
from usdn_nas._util.errors import UserError
from usdn_nas.networks.build import build_network, chain_record, resolve_space
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.networks.heads import build_head
from usdn_nas.space.cost import exit_costs, uniform_bops
from usdn_nas.space.records import ChainRecord
from usdn_nas.space.search_space import SearchSpace, SpaceSpec

HEADS = ("linear", "sdn", "conv", "msdnet", "conv3")


@pytest.fixture(scope="module")
def resnet18() -> tuple[SearchSpace, MultiExitNetwork]:
    spec = nets.spec(
        {"name": "torchvision:resnet18", "input_shape": [3, 224, 224], "num_classes": 1000},
        {"choices": [[2, 2], [3, 3], [4, 4], [5, 5]]},
        {"head": "conv3"},
    )
    with torch.device("meta"):
        return resolve_space(spec)


def counted(module: torch.nn.Module, *shape: int) -> int:
    """MACs by torch's own counter, which counts two operations for each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.to("meta").eval()(torch.empty(1, *shape, device="meta"))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def record_of(spec: SpaceSpec) -> ChainRecord:
    return chain_record(build_network(spec), spec.network)


def test_resnet20_by_hand() -> None:
    record = record_of(
        nets.spec({"name": "resnet_cifar", "depth": 20, "width": 16, "input_shape": [3, 32, 32], "num_classes": 10})
    )
    stem = 32 * 32 * 16 * 3 * 9
    same = 32 * 32 * 16 * 16 * 9  # also of 16x16x32x32 and 8x8x64x64
    wider = same // 2  # half the channels in
    assert record.macs == stem + 6 * same + 2 * (wider + 5 * same) + 64 * 10 == 40_551_040


def test_digits_network_by_hand() -> None:
    record = record_of(
        nets.spec({"name": "resnet_cifar", "depth": 14, "width": 8, "input_shape": [1, 8, 8], "num_classes": 10})
    )
    block = [2 * 8 * 8 * 8 * 8 * 9] * 2 + [4 * 4 * 16 * (8 + 16) * 9, 2 * 4 * 4 * 16 * 16 * 9]
    block += [2 * 2 * 32 * (16 + 32) * 9, 2 * 2 * 2 * 32 * 32 * 9]
    assert [sum(layer.macs for layer in s.layers) for s in record.segments] == [8 * 8 * 8 * 9, *block]
    heads = [sum(layer.macs for layer in e.layers) for e in record.exits]
    assert heads == [80, 80, 160, 160, 320, 320]
    assert record.macs == 8 * 8 * 8 * 9 + sum(block) + 320
    assert record.candidates == ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0")


def test_stem_stride_and_odd_sizes_by_hand() -> None:
    record = record_of(nets.spec(nets.RESNET8 | {"stem_stride": 2}))  # 9 -> 5 -> 5, 3, 2
    convs = [layer.macs for segment in record.segments for layer in segment.layers]
    assert convs == [
        *(25 * 4 * 2 * 9, 25 * 4 * 4 * 9, 25 * 4 * 4 * 9),
        *(9 * 8 * 4 * 9, 9 * 8 * 8 * 9, 4 * 16 * 8 * 9, 4 * 16 * 16 * 9),
    ]


def test_resnet18_by_the_flop_counter(resnet18) -> None:
    space, network = resnet18
    assert space.chain.macs == 1_814_073_344  # 1,814.07 M
    total = sum(layer.macs for layer in space.chain.layers())
    assert counted(network, 3, 224, 224) == total
    assert counted(network.place(()), 3, 224, 224) == space.chain.macs


def test_resnet18_for_small_images_by_hand() -> None:
    network = {"name": "torchvision:resnet18", "stem": "cifar", "input_shape": [3, 32, 32], "num_classes": 10}
    spec = nets.spec(network)
    with torch.device("meta"):
        space, chain = resolve_space(spec)
    same = 32 * 32 * 64 * 64 * 9  # also of 128 channels at 16x16 and so on
    wider = same // 2 + same + same // 18  # the first block of a stage, its shortcut a 1x1 convolution
    assert space.chain.macs == 32 * 32 * 64 * 3 * 9 + 4 * same + 3 * (wider + 2 * same) + 512 * 10 == 555_422_720
    assert counted(chain.place(()), 3, 32, 32) == space.chain.macs
    assert sum(p.numel() for p in chain.place(()).parameters()) == 11_173_962  # as that network is known
    for name in ("resnet_cifar", "msdnet", "torchvision:resnet34"):
        with pytest.raises(UserError, match="has no 'stem' to set"):
            build_network(nets.spec(network | {"name": name}, exits={"head": "linear"}))


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_candidates_by_shares_of_the_cost(depth: int) -> None:
    network = {"name": "resnet_cifar", "depth": depth, "input_shape": [3, 32, 32], "num_classes": 10}
    shares = [0.9, 0.15, 0.3, 0.45, 0.6, 0.75]
    record = record_of(nets.spec(network, exits={"head": "sdn", "candidates": shares}))
    spent = np.cumsum([sum(layer.macs for layer in segment.layers) for segment in record.segments]) / record.macs
    places = [int(np.abs(spent[1:-1] - share).argmin()) + 1 for share in sorted(shares)]
    assert record.candidates == tuple(record.segments[place].name for place in places)
    if depth == 56:  # as its authors place them
        published = [[0, 0, 0, 1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1, 0, 0, 0]]
        names = [f"layer{i}.{j}" for i, row in enumerate(published, 1) for j, placed in enumerate(row) if placed]
        assert record.candidates == tuple(names)
        heads = [exit_.layers[-1].weights for exit_ in record.exits[:-1]]
        assert heads == [16 * 16 * 10] * 2 + [32 * 16 * 10] * 2 + [64 * 16 * 10] * 2  # 4x4 are left of each map


def test_two_shares_want_places_of_their_own() -> None:
    with pytest.raises(UserError, match=r"exits\.candidates: 2 exits ask for 1 places: layer1\.0, layer1\.0"):
        build_network(nets.spec(exits={"head": "linear", "candidates": [0.4, 0.41]}))
    with pytest.raises(ValidationError):
        nets.spec(exits={"head": "linear", "candidates": [0.4, 1.0]})


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("network", [nets.RESNET8, nets.RESNET8 | {"input_shape": [1, 32, 20]}], ids=["9x9", "32x20"])
def test_every_head_by_the_flop_counter(head: str, network: dict[str, object]) -> None:
    spec = nets.spec(network, exits={"head": head})
    chain = build_network(spec)
    record = chain_record(chain, spec.network)
    assert counted(chain, *spec.network.input_shape) == sum(layer.macs for layer in record.layers())
    for exit_ in record.exits[:-1]:
        assert exit_.layers[-1].kind == "linear"
        assert len(exit_.layers) == {"linear": 1, "sdn": 1, "conv": 2, "msdnet": 3, "conv3": 4}[head]


def test_conv3_head_by_hand() -> None:
    head = build_head("conv3", (64, 56, 56), 1000, width=None, stem_width=64)
    by_hand = sum(size**2 * 64 * 64 * 9 for size in (28, 14, 7)) + 64 * 1000
    assert counted(head, 64, 56, 56) == by_hand


def test_head_width_is_heeded() -> None:
    narrow = build_head("conv3", (64, 8, 8), 10, width=3, stem_width=64)
    assert counted(narrow, 64, 8, 8) == 16 * 3 * 64 * 9 + 4 * 3 * 3 * 9 + 3 * 3 * 9 + 30


def test_sdn_head_reduces_by_a_quarter() -> None:
    for shape in ((3, 16, 16), (3, 16, 9), (3, 9, 16), (3, 3, 3), (3, 16, 2)):
        kernel = max(min(shape[1:]) // 4, 1)
        head = build_head("sdn", shape, 10, width=None, stem_width=8)
        assert counted(head, *shape) == 3 * (shape[1] // kernel) * (shape[2] // kernel) * 10


def test_resnet18_bops_of_the_ladder(resnet18) -> None:
    space = resnet18[0]
    rounded = {width: round(uniform_bops(space, width) / 1e9, 2) for width in (2, 3, 4, 8)}
    assert rounded == {2: 14.37, 3: 22.85, 4: 34.71, 8: 116.10}
    assert round(uniform_bops(space, 4, ends=None) / 1e9, 2) == 29.03
    stem, classifier = 112 * 112 * 64 * 3 * 49, 512 * 1000
    inner = 1_814_073_344 - stem - classifier
    for width in (2, 3, 4, 8):
        assert uniform_bops(space, width) == inner * width**2 + (stem + classifier) * 64
        costs = exit_costs(space, {group.name: (width, width) for group in space.groups}) if width < 5 else None
        assert costs is None or costs.placed(()).cumulative.tolist() == [uniform_bops(space, width)]


@pytest.mark.parametrize(("width", "giga"), [(2, 9.09), (3, 10.24)])
def test_exit_0_of_table_1(resnet18, width: int, giga: float) -> None:
    space = resnet18[0]
    costs = exit_costs(space, {group.name: (width, width) for group in space.groups}).placed(["layer1.0"])
    assert round(int(costs.cumulative[0]) / 1e9, 2) == giga
    assert round(int(costs.heads[0]) / 1e9, 3) == 0.611
    stem, block = 112 * 112 * 64 * 3 * 49 * 64, 2 * 56 * 56 * 64 * 64 * 9 * width**2
    head = sum(size**2 * 64 * 64 * 9 for size in (28, 14, 7)) * 16 + 64 * 1000 * 64
    assert costs.cumulative[0] == stem + block + head


def test_full_precision_costs(resnet18) -> None:
    costs = exit_costs(resnet18[0], None).placed(())
    assert costs.cumulative.tolist() == [1_814_073_344 * 1024]
    assert costs.cumulative.dtype == np.int64


def test_record_survives_json(resnet18) -> None:
    import json

    chain = resnet18[0].chain
    assert ChainRecord.from_dict(json.loads(json.dumps(chain.to_dict()))) == chain


def test_resnet18_lists_what_is_not_counted(resnet18) -> None:
    record = resnet18[0].chain
    assert record.not_counted == {
        "AdaptiveAvgPool2d": 8,  # 7 heads and the classifier
        "BatchNorm2d": 20 + 21,
        "MaxPool2d": 1,
        "ReLU": 17 + 21,
        "add": 8,
    }
